"""Pictures: written whole, with the wrong predictions marked."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cosdask.view import plot_history, plot_predictions, plot_summary

HISTORY = pd.DataFrame({"iteration": range(0, 100, 10), "loss": np.linspace(2.3, 0.2, 10)})
VALIDATION = pd.DataFrame({"iteration": [50, 100], "accuracy": [0.9, 0.97], "loss": [0.4, 0.2]})
DIGITS = np.zeros((12, 28, 28), np.uint8)
CLASSES = np.arange(12) % 10


def red_pixels(path: Path) -> int:
    picture = cv2.imread(str(path)).astype(int)
    return int(np.sum((picture[..., 2] > 200) & (picture[..., 0] < 60) & (picture[..., 1] < 60)))


@pytest.mark.parametrize("validation", [VALIDATION, VALIDATION.iloc[:0], None])
def test_history_is_drawn_with_and_without_validation(tmp_path: Path, validation: pd.DataFrame | None) -> None:
    plot_history(HISTORY, validation, tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 0


def test_a_run_too_short_to_report_anything_is_drawn_empty(tmp_path: Path) -> None:
    plot_history(pd.DataFrame(), pd.DataFrame(), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_outputs_a_class_are_left_out(tmp_path: Path) -> None:
    validation = VALIDATION.assign(per_class=[[0.1, 0.2], [0.3, 0.4]])
    plot_history(HISTORY, validation, tmp_path / "with.png")
    plot_history(HISTORY, VALIDATION, tmp_path / "without.png")
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


def test_only_wrong_predictions_are_red(tmp_path: Path) -> None:
    plot_predictions(DIGITS, CLASSES, CLASSES, tmp_path / "right.png")
    wrong = CLASSES.copy()
    wrong[3] = 8
    plot_predictions(DIGITS, CLASSES, wrong, tmp_path / "wrong.png")
    assert red_pixels(tmp_path / "right.png") == 0
    assert red_pixels(tmp_path / "wrong.png") > 50


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (32, 32, 3)])
def test_images_in_caffes_layouts_are_drawn(tmp_path: Path, shape: tuple[int, ...]) -> None:
    plot_predictions(np.full((2, *shape), 128, np.uint8), [0, 1], [0, 1], tmp_path / "p.png", names=["cat", "dog"])
    assert (tmp_path / "p.png").stat().st_size > 0


def test_blue_stays_blue(tmp_path: Path) -> None:
    """Caffe's three-channel images are BGR; drawn as RGB, blue would come out red."""
    blue = np.zeros((1, 3, 32, 32), np.uint8)
    blue[:, 0] = 255
    plot_predictions(blue, [0], [0], tmp_path / "p.png")
    assert red_pixels(tmp_path / "p.png") == 0


def test_lengths_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="12 images, 12 labels and 11 predictions"):
        plot_predictions(DIGITS, CLASSES, CLASSES[:-1], tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


def test_the_summary_holds_curves_and_predictions(tmp_path: Path) -> None:
    wrong = CLASSES.copy()
    wrong[0] = 5
    plot_summary(HISTORY, VALIDATION, DIGITS, CLASSES, wrong, tmp_path / "s.png", title="LeNet")
    assert red_pixels(tmp_path / "s.png") > 50
