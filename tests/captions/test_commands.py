"""The command line of captioning: CocoDataSetConverter's and ImageCaption's flags, from JSON to sentences."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from small_lrcn import IMAGE_NET, WORD_NET

from cosdask import Net
from cosdask.captions import Captioner, Vocab
from cosdask.cli import clusters
from cosdask.cli.main import main

WORDS = "A dog sits. A cat runs here."


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures with a caption each as the working directory; work is done by threads of this process."""

    @contextlib.contextmanager
    def connect(*_: Any) -> Iterator[None]:
        yield None

    monkeypatch.setattr(clusters, "connect", connect)
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    images, annotations = [], []
    for k, text in enumerate(WORDS.split(". ")):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 26, 3), dtype=np.uint8)
        Path("images", f"{k}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        images.append({"id": k, "file_name": f"{k}.png", "height": 20, "width": 26})
        annotations.append({"id": 10 + k, "image_id": k, "caption": text})
    Path("train.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    Path("test.json").write_text(json.dumps({"images": images[1:]}))
    return tmp_path


COCO = "convert com.yahoo.ml.caffe.tools.CocoDataSetConverter -imageRoot images -output out/ "
TABLES = (
    COCO + "-captionFile train.json -imageCaptionDFDir captions -vocabDir vocab -embeddingDFDir rows -captionLength 7 "
)


def run(words: str) -> int:
    return main(words.split())


def test_coco_becomes_table_vocabulary_and_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The three outputs of sheet 5.2 under -output; the vocabulary that is there is used for more rows."""
    assert run(TABLES + "-outputFormat parquet") == 0
    told = [
        json.loads(line) for path in sorted(Path("out/captions").iterdir()) for line in path.read_text().splitlines()
    ]
    assert [(row["id"], row["file"], row["caption"]) for row in told] == [
        (10, "0.png", "A dog sits"),
        (11, "1.png", "A cat runs here."),
    ]
    assert Vocab.load("out/vocab").words == ("a", "cat", "dog", "here", "runs", "sits")
    rows = pd.read_parquet("out/rows")
    assert list(rows["id"]) == ["10", "11"]
    assert [list(cell) for cell in rows["input_sentence"]] == [[0, 2, 4, 7, -1, -1, -1], [0, 2, 3, 6, 5, -1, -1]]
    assert rows["data"][1]["image"] == Path("images/1.png").read_bytes()
    assert "vocabulary: out/vocab (8 classes)" in capsys.readouterr().out
    assert run(COCO + "-captionFile train.json -vocabDir vocab -vocabSize 2 -embeddingDFDir more") == 0
    assert "8 classes, used as it was" in capsys.readouterr().out
    assert run(COCO + "-captionFile test.json -vocabDir vocab -embeddingDFDir test") == 0
    (row,) = (json.loads(line) for path in Path("out/test").iterdir() for line in path.read_text().splitlines())
    assert sorted(row) == ["data", "id", "label"] and row["id"] == "1"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (COCO + "-embeddingDFDir rows", "-captionFile"),
        ("convert CocoDataSetConverter -captionFile train.json -vocabDir vocab", "-output"),
        (COCO + "-captionFile train.json", "nothing to write"),
        ("convert CocoDataSetConverter -captionFile train.json -output out -embeddingDFDir rows", "-imageRoot"),
        (COCO + "-captionFile trian.json -vocabDir vocab", "train.json"),
        (COCO + "-captionFile train.json -vocabDri vocab", "unknown flag"),
    ],
)
def test_what_is_missing_is_said(folder: Path, words: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any work, with the flag or the near name (invariant 8)."""
    assert run(words) in (1, 2)
    assert problem in capsys.readouterr().err
    assert not Path("out").exists()


# Dask itself uses what pandas 3.1 announces to remove.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_captions_of_a_table_are_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ImageCaption's flags: rows with id and prediction, the same that a Captioner gives."""
    assert run(TABLES + "-outputFormat parquet") == 0
    Path("image.prototxt").write_text(IMAGE_NET)
    Path("word.prototxt").write_text(WORD_NET)
    both = Net.from_text(IMAGE_NET + WORD_NET.replace('name: "words"', ""), seed=9)
    both.save("both.caffemodel")
    words = "caption -input out/rows -model both.caffemodel -imagenet image.prototxt -lstmnet word.prototxt --batch 4 "
    assert run(words + "-vocab out/vocab -output found --longest 6") == 0
    rows = [json.loads(line) for path in sorted(Path("found").iterdir()) for line in path.read_text().splitlines()]
    captioner = Captioner("image.prototxt", "word.prototxt", Vocab.load("out/vocab"), "both.caffemodel", batch=4)
    images = [Path(f"images/{k}.png").read_bytes() for k in range(2)]
    expected = [caption.text for caption in captioner.generate(images, longest=6)]
    assert rows == [{"id": str(10 + k), "prediction": text} for k, text in enumerate(expected)]
    capsys.readouterr()
    assert run(words + "-vocab out/vocab -output found") == 1 and "--overwrite" in capsys.readouterr().err
    assert run(words + "-vocab out/vocab -output new --legacy-vocab") == 2 and "legacy=False" in capsys.readouterr().err
    assert run(words + "-output new") == 2 and "-vocab" in capsys.readouterr().err
