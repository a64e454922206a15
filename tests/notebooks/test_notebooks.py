"""The notebooks run from top to bottom and show what they promise; so do the outputs that are stored in them."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import cv2
import nbformat
import numpy as np
import pytest

from notebooks.execute import FOLDER, execute, names, outputs, pictures

#: a path from the root of some machine; base64 and HTML have slashes too, but in other company
_ABSOLUTE = re.compile(r"(?<![\w:/.<~+-])/(?!/)[A-Za-z][\w.-]*/[\w./-]+")
#: each notebook whose outputs are checked below, by what checks them
CHECKS: dict[str, Any] = {}


def checks(name: str) -> Any:
    def register(function: Any) -> Any:
        CHECKS[name] = function
        return function

    return register


@checks("DLDemo")
def learned_digits(notebook: Any) -> None:
    """Digits drawn, Caffe's log, three validations, accuracies of net and regression above 0.85, ids in order."""
    text = outputs(notebook)
    assert text.count("data:image/png") == 5
    assert len(re.findall(r"Iteration \d+", text)) >= 3 and "3 validations" in text
    accuracies = [
        float(number)
        for number in re.findall(r"'accuracy': ([\d.]+)|^accuracy: ([\d.]+)$", text, re.M)
        for number in number
        if number
    ]
    assert len(accuracies) == 2 and min(accuracies) > 0.85
    assert float(re.search(r"([\d.]+) of 1000 predictions are right", text)[1]) > 0.85  # type: ignore[index]
    predicted, labels = (re.search(rf"{word} +\[([\d ]+)\]", text)[1].split() for word in ("predictions:", "labels:"))  # type: ignore[index]
    assert sum(a == b for a, b in zip(predicted, labels, strict=True)) >= 4
    assert "00000000" in text and len(pictures(notebook)) == 1
    by_digit = re.findall(r"^\d +([\d.]+)$", text, re.M)
    assert len(by_digit) >= 10 and np.mean([float(share) for share in by_digit[-10:]]) > 0.8


@checks("NetworkDefinitionDemo")
def compared_settings(notebook: Any) -> None:
    """The net drawn and its shapes; longer training is better; of six settings, small rates learn least."""
    text = outputs(notebook, kinds=("text/plain",))
    assert "(64, 20, 24, 24)" in text and 'lr_policy: "inv"' in text
    rows = re.findall(r"^\d +(16|32) +(40|80) +([\d.]+) +([\d.]+)$", text, re.M)
    assert [row[:2] for row in rows] == [("16", "40"), ("32", "80")]
    assert float(rows[1][2]) > 0.75 and float(rows[1][3]) < float(rows[0][3])
    sweep = {
        (batch, float(rate)): float(a) for batch, rate, a in re.findall(r"^\d +(8|32) +(0\.0\d+) +([\d.]+)", text, re.M)
    }
    assert len(sweep) == 6
    for batch in ("8", "32"):
        assert sweep[batch, 0.01] > sweep[batch, 0.001] > sweep[batch, 0.0001]
    (drawn,) = map(pixels, pictures(notebook))
    assert drawn.shape[0] > 2 * drawn.shape[1] > 300


@checks("ImageCaptioning")
def told_sentences(notebook: Any) -> None:
    """LRCN's loss falls below 0.1 of its start; at least 8 of 10 greedy captions are the sentences told (issue 8)."""
    text = outputs(notebook)
    first, last = (float(number) for number in re.search(r"start ([\d.]+), at the end ([\d.]+):", text).groups())  # type: ignore[union-attr]
    assert last < 0.1 * first
    right, of = map(int, re.search(r"(\d+) of (\d+) sentences are word for word", text).groups())  # type: ignore[union-attr]
    assert of == 12 and right >= 10
    # each picture with its sentence under it
    told = re.findall(r'"data:image/jpeg;base64,[^"]+"[^>]*><br>([A-Z][\w ]+\.)</td>', text)
    assert len(told) == 12 and text.count("data:image/jpeg") == 12
    assert text.count("{'beam': 4}") == text.count("'seed': 2}") == 2 and len(pictures(notebook)) == 2


@checks("OnYarn")
def went_to_yarn_and_back(notebook: Any) -> None:
    """LeNet learns in containers from rows in HDFS; three workers, then two; the same cluster by its id; a submitted
    test gives what the training's validation said."""
    text = outputs(notebook, kinds=("text/plain",))
    (cluster,) = re.findall(r"^'(application_\d+_\d+)'$", text, re.M)
    (submitted,) = re.findall(r"cosdask watch (application_\d+_\d+)$", text, re.M)
    accuracies = [float(number) for number in re.findall(r"^\d +\d+ +([\d.]+) +[\d.]+$", text, re.M)]
    assert len(accuracies) == 3 and accuracies[-1] > 0.85
    assert re.search(rf"^{accuracies[-1]:.3f} of 1000 predictions are right$", text, re.M)
    (tested,) = re.findall(r"^accuracy: ([\d.]+)$", text, re.M)
    assert float(tested) == pytest.approx(accuracies[-1], abs=1e-6)
    assert re.findall(r"dask\.worker_(\d) +127", text) == ["0", "1", "0", "1", "2"]
    assert "part-00000.parquet" in text and "lenet_iter_60.solverstate" in text
    assert "\n45\n" in text and "'running'" in text and "Register worker addr" in text
    assert re.search(rf"^{submitted}  SUCCEEDED", text, re.M) and re.search(rf"^{cluster}  SUCCEEDED", text, re.M)
    assert len(pictures(notebook)) == 1


def pixels(picture: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)


def test_every_notebook_has_its_check() -> None:
    """None is stored whose outputs nobody looks at."""
    assert set(names()) == set(CHECKS)


#: OnYarn needs a Hadoop: tests/cluster runs it
_HERE = [name for name in CHECKS if name != "OnYarn"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", _HERE)
def test_a_notebook_runs_and_shows_what_it_promises(name: str, tmp_path: Path) -> None:
    """Headless, in an empty folder, with the package of this checkout (issue 8)."""
    notebook = execute(name, tmp_path)
    CHECKS[name](notebook)
    assert list(FOLDER.glob("*.caffemodel")) == []


@pytest.mark.parametrize("name", CHECKS)
def test_the_stored_outputs_are_those_of_a_whole_run(name: str) -> None:
    """Executed once from top to bottom, with what it promises, and nothing of the machine it ran on."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    CHECKS[name](notebook)
    whole = (FOLDER / f"{name}.ipynb").read_text()
    for trace in (r"/home/", r"/root/", r"/tmp/", r"/Users/", "Traceback", " at 0x", "Warning:"):
        assert trace not in whole, trace
    assert not _ABSOLUTE.findall(whole.replace(r"\n", "\n"))
    assert len(whole) < 800_000
