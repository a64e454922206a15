"""From COCO's JSON to training rows and back: tokens, vocabulary, vectors, image bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosdask.captions import (
    Vocab,
    caption_vectors,
    coco_captions,
    embed_captions,
    embed_images,
    embedding_to_captions,
    tokenize,
)
from cosdask.data import write_table
from cosdask.errors import ConfigError, DataError, StorageError

SENTENCES = (
    "A black butterfly sits on a white flower in the garden.",
    "Two small dogs run over the green grass near a river.",
)


def coco(folder: Path, captions: bool = True, **changes: Any) -> Path:
    """A captions file of two images with a caption each, and the image files."""
    images = []
    for number, name in enumerate(("butterfly.jpg", "dogs.jpg")):
        (folder / name).write_bytes(bytes([255, 216, 255, number]) * 9)
        images.append(
            {"id": 40 + number, "height": 30 + number, "width": 60, "file_name": name, "flickr_url": f"http://f/{name}"}
        )
    document: dict[str, Any] = {"images": images}
    if captions:
        document["annotations"] = [
            {"id": 900 + number, "image_id": 41 - number, "caption": text}
            for number, text in enumerate(reversed(SENTENCES))
        ]
    path = folder / "captions.json"
    path.write_text(json.dumps({**document, **changes}))
    return path


# -- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        (
            "A panoramic view of a kitchen and all of its appliances.",
            "a panoramic view of a kitchen and all of its appliances",
        ),
        ('A man\'s hat, and  "dog".', 'a man \' s hat , and " dog ".'),
        ("Hi !!", "hi !!"),
        ("Café", "caf é"),
        (" . ", ""),
        ("", ""),
        ("one.\n", "one"),
        ("snake_case 2", "snake_case 2"),
    ],
)
def test_sentences_are_cut_as_caffeonspark_cut_them(sentence: str, tokens: str) -> None:
    """Behaviour sheet 5.3, its examples and edges."""
    assert tokenize(sentence) == tokens.split()


@given(st.text())
def test_tokens_are_what_a_vocabulary_file_can_hold(sentence: str) -> None:
    """Never empty, no line breaks, trimmed, lower-cased; no letter or digit is lost."""
    tokens = tokenize(sentence)
    for token in tokens:
        assert token and token == token.strip() == token.lower()
        assert len(token.splitlines()) == 1
    kept = [sign for sign in "".join(tokens) if sign.isalnum()]
    assert kept == [sign for sign in sentence.lower() if sign.isalnum()]


# -- vocabulary ------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(), max_size=6), st.integers(-1, 9), st.booleans())
@settings(max_examples=60)
def test_a_vocabulary_counts_ranks_and_survives_its_file(captions: list[str], size: int, legacy: bool) -> None:
    """Ties by the alphabet, every number decodes to its word, load(save(v)) == v, 0 and padding are no words."""
    import tempfile

    vocab = Vocab.from_captions(captions, size=size, legacy=legacy)
    tokens = [token for caption in captions for token in tokenize(caption)]
    ranked = sorted(set(tokens), key=lambda token: (-tokens.count(token), token))
    assert list(vocab.words) == (ranked[:size] if size > 0 else ranked)
    for word in vocab.words:
        assert vocab.word(vocab.index(word)) == word and 0 < vocab.index(word) < vocab.classes
    numbers = [vocab.index(word) for word in vocab.words]
    assert numbers == sorted(set(numbers))
    assert vocab.decode([0, -1, *numbers]) == " ".join(vocab.words)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("vocab.txt", "vocab"):
            vocab.save(f"{folder}/{name}")
            assert Vocab.load(f"{folder}/{name}", legacy) == vocab


def test_numbers_agree_with_the_files_lines() -> None:
    """0 ends, 1 is unknown, words from 2 on: line number + 1; classes = lines + 1. The old numbering: line number."""
    vocab, old = Vocab(["a", "dog"]), Vocab(["a", "dog"], legacy=True)
    assert [vocab.index(word) for word in ("a", "dog", "cat")] == [2, 3, 1] and vocab.classes == 4
    assert [old.index(word) for word in ("a", "dog", "cat")] == [1, 2, 1] and old.classes == 3
    assert vocab.word(1) == "UNK" and old.word(1) == "a"
    with pytest.raises(DataError, match=r"number 4 .* 4 classes"):
        vocab.decode([4])


def test_words_of_a_dask_frame_are_counted_by_its_partitions(tmp_path: Path) -> None:
    """The same vocabulary from a list, a pandas frame and a dask frame of several partitions."""
    captions = [f"the {'ab'[i % 2]} number {i % 5}" for i in range(40)]
    frame = pd.DataFrame({"caption": captions})
    assert Vocab.from_captions(frame) == Vocab.from_captions(captions)
    assert Vocab.from_captions(dd.from_pandas(frame, npartitions=11)) == Vocab.from_captions(captions)
    with pytest.raises(DataError, match=r"no column 'captions'.*\"caption\""):
        Vocab.from_captions(frame, "captions")
    with pytest.raises(DataError, match="row 1 has no caption"):
        Vocab.from_captions(["a", None])


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    """Among them the merged file whose first line another part took, which would shift every number."""
    path = tmp_path / "vocab.txt"
    for text, problem in (
        ("a\nUNK\ndog\n", "UNK is line 2"),
        ("", "nothing"),
        ("UNK\na\na\n", "twice"),
        ("UNK\n\na\n", "can be no word"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=problem):
            Vocab.load(path)
    with pytest.raises(StorageError, match=r"vocab\.txt"):
        Vocab.load(tmp_path / "vocab.tx")
    Vocab(["a"]).save(path, overwrite=True)
    with pytest.raises(StorageError, match="already there"):
        Vocab(["a"]).save(path)
    assert path.read_text() == "UNK\na\n"


# -- vectors ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 8), st.integers(1, 7))
def test_vectors_have_the_sheets_form(count: int, length: int) -> None:
    """input 0 w.., target w.. 0, marks 0 1.., padded with -1 (sheet 5.4); what is cut, is cut from all three."""
    vocab = Vocab([f"w{i}" for i in range(9)])
    words = [vocab.index(f"w{i}") for i in range(count)][: length - 1]
    pad = [-1] * (length - 1 - len(words))
    first, cont, target = (v.tolist() for v in caption_vectors(" ".join(f"w{i}" for i in range(count)), vocab, length))
    assert first == [0, *words, *pad] and target == [*words, 0, *pad] and cont == [0, *[1] * len(words), *pad]


def test_coco_to_rows_and_back(tmp_path: Path) -> None:
    """Upstream's CocoTest with its numbers, and image bytes and sizes, which it left unchecked."""
    frame = coco_captions(coco(tmp_path), partitions=2)
    assert list(frame.columns) == ["id", "height", "width", "file", "url", "caption"]
    table = frame.compute()
    assert table["id"].tolist() == [900, 901] and table["file"].tolist() == ["dogs.jpg", "butterfly.jpg"]
    assert table["height"].tolist() == [31, 30] and table["url"].tolist()[1] == "http://f/butterfly.jpg"
    vocab = Vocab.from_captions(frame, size=23)
    assert len(vocab) > 10 and vocab.index("butterfly") > 1
    rows = embed_captions(frame, tmp_path, vocab, 10)
    assert embed_captions(table, tmp_path, vocab, 10).to_dict() == rows.compute().to_dict()
    found = rows.compute()
    assert list(found["id"]) == ["900", "901"] and found["label"].tolist() == [0, 0]
    for cell, name, height in zip(found["data"], ("dogs.jpg", "butterfly.jpg"), (31, 30), strict=True):
        assert cell == {"height": height, "width": 60, "image": (tmp_path / name).read_bytes()}
    for column in ("input_sentence", "target_sentence"):
        back = embedding_to_captions(rows, vocab, column, "text").compute()
        assert list(back.columns) == ["id", "text"] and list(back["id"]) == ["900", "901"]
        assert list(back["text"]) == [" ".join(tokenize(text)[:9]) for text in reversed(SENTENCES)]


def test_images_without_captions_are_rows_too(tmp_path: Path) -> None:
    """Then id is the image's; a frame of them has image columns only."""
    frame = coco_captions(coco(tmp_path, captions=False))
    assert list(frame.columns) == ["id", "height", "width", "file", "url"]
    rows = embed_images(frame, tmp_path).compute()
    assert list(rows.columns) == ["id", "data", "label"] and list(rows["id"]) == ["40", "41"]


# Dask itself uses what pandas 3.1 announces to remove.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_rows_go_through_parquet(tmp_path: Path) -> None:
    """The struct and the lists come back as they were, to pandas and to dask."""
    vocab = Vocab.from_captions(SENTENCES)
    rows = embed_captions(coco_captions(coco(tmp_path)), tmp_path, vocab, 12)
    assert write_table(rows, str(tmp_path / "rows"), "parquet") == 2
    written = rows.compute().to_dict("list")
    for read in (pd.read_parquet, lambda *arguments, **how: dd.read_parquet(*arguments, **how).compute()):
        found = read(tmp_path / "rows", dtype_backend="pyarrow").to_dict("list")
        assert str(found) == str(written)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images": 3}, 'no list "images"'),
        ({"annotations": {}}, 'no list "annotations"'),
        ({"images": [{"id": 1}], "annotations": []}, "lists no images and no captions"),
        (
            {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]},
            'image 1 has no "file_name"',
        ),
        ({"annotations": [{"id": 1, "image_id": 7, "caption": "a"}]}, r"annotations\[0\] is a caption of image 7"),
        ({"annotations": [{"id": 1, "image_id": 40}]}, r'annotations\[0\] has no "caption"'),
        ({"annotations": [{"id": "x", "image_id": 40, "caption": "a"}]}, "COCO's kind"),
        ({"annotations": [{"id": 1 << 70, "image_id": 40, "caption": "a"}]}, "COCO's kind"),
        ({"annotations": [7]}, r"annotations\[0\]"),
    ],
)
def test_a_file_that_is_no_captions_file_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    """The error names file and entry (invariant 10)."""
    with pytest.raises(DataError, match=rf"captions.json: .*{problem}"):
        coco_captions(coco(tmp_path, **changes))


def test_damaged_json_and_missing_images_are_named(tmp_path: Path) -> None:
    """File and line of the JSON; the row's id and the image's name."""
    path = coco(tmp_path)
    path.write_text('{"images": [\n{]')
    with pytest.raises(DataError, match=r"captions.json:2: no JSON"):
        coco_captions(path)
    path.write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"captions\.json"):
        coco_captions(path)
    frame = coco_captions(coco(tmp_path)).compute()
    (tmp_path / "dogs.jpg").unlink()
    with pytest.raises(DataError, match=r"row 900: .*dogs.jpg"):
        embed_images(frame, tmp_path)
    for name in ("../dogs.jpg", "/dogs.jpg", "s3://other/dogs.jpg"):
        with pytest.raises(DataError, match="outside"):
            embed_images(frame.assign(file=name), tmp_path)
    with pytest.raises(ConfigError, match="no folder"):
        embed_images(frame, tmp_path / "photos")
    with pytest.raises(ConfigError, match="captionLength 0"):
        embed_captions(frame, tmp_path, Vocab(["a"]), 0)
