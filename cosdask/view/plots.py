"""Pictures of a run: curves of loss and accuracy, images with their predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosdask.storage import atomic_write

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_DPI = 120


def plot_history(history: pd.DataFrame, validation: pd.DataFrame | None, path: str | Path) -> None:
    """Writes a PNG of the training loss and the validation results over the iterations.

    Args:
        history: a row a reported iteration, with columns ``iteration`` and ``loss``; may be empty.
        validation: a row a validation: ``iteration``, then a column an output, of which single numbers are drawn; None
            or empty without validation.
        path: local path or URL of the PNG.

    Raises:
        StorageError: the file cannot be written.
    """
    figure = _figure(7, 4.2)
    _draw_curves(figure.subplots(), history, validation)
    _save(figure, path)


def plot_predictions(
    images: np.ndarray,
    labels: Sequence[int],
    predicted: Sequence[int],
    path: str | Path,
    names: Sequence[str] | None = None,
    columns: int = 8,
) -> None:
    """Writes a PNG of images with their predicted classes; wrong ones have a red frame and say what was right.

    Args:
        images: (N, H, W), (N, 1, H, W), (N, 3, H, W) in BGR as Caffe holds them, or (N, H, W, 3) in RGB.
        labels: N true classes.
        predicted: N predicted classes.
        path: local path or URL of the PNG.
        names: a name for each class; the class numbers when None.
        columns: images in a row.

    Raises:
        ValueError: the three do not have the same length, or images have another shape.
        StorageError: the file cannot be written.
    """
    rows = max(1, math.ceil(len(images) / columns))
    figure = _figure(columns * 0.95, rows * 1.15)
    _draw_predictions(figure, images, labels, predicted, names, columns)
    _save(figure, path)


def plot_summary(
    history: pd.DataFrame,
    validation: pd.DataFrame | None,
    images: np.ndarray,
    labels: Sequence[int],
    predicted: Sequence[int],
    path: str | Path,
    title: str = "",
) -> None:
    """Writes one PNG with the curves on the left and images with predictions on the right.

    See :func:`plot_history` and :func:`plot_predictions` for the arguments.
    """
    figure = _figure(13, 4.8)
    halves: Any = figure.subfigures(1, 2)
    left, right = halves
    _draw_curves(left.subplots(), history, validation)
    _draw_predictions(right, images, labels, predicted, None, 8)
    if title:
        figure.suptitle(title)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    # The figure classes alone, without pyplot: no global state, no window system.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | Path) -> None:
    atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=_DPI))


def _draw_curves(axes: Any, history: pd.DataFrame, validation: pd.DataFrame | None) -> None:
    """Losses on the left axis; what is not a loss (accuracies) on the right one, from 0 to 1."""
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    if len(history):
        axes.plot(history["iteration"], history["loss"], color="tab:blue", linewidth=0.9, label="training loss")
    handles = list(axes.lines)
    if validation is not None and len(validation):
        outputs = [name for name in validation.select_dtypes("number").columns if name not in ("iteration", "time")]
        losses = [name for name in outputs if "loss" in name.lower()]
        for name in losses:
            handles += axes.plot(validation["iteration"], validation[name], "o-", ms=3, label=f"validation {name}")
        others = [name for name in outputs if name not in losses]
        handles += _draw_accuracies(axes, validation, others) if others else []
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(handles=handles, loc="center right", frameon=False)


def _draw_accuracies(axes: Any, validation: pd.DataFrame, names: Sequence[str]) -> list[Any]:
    second = axes.twinx()
    second.set_ylabel(", ".join(names))
    lines: list[Any] = []
    for name, color in zip(names, _colors(len(names)), strict=True):
        lines += second.plot(
            validation["iteration"], validation[name], "s-", ms=3, color=color, label=f"validation {name}"
        )
    values = validation[list(names)].to_numpy(dtype=float)
    if np.nanmin(values) >= 0 and np.nanmax(values) <= 1:
        second.set_ylim(0, 1.02)
    return lines


def _colors(count: int) -> list[str]:
    palette = ("tab:green", "tab:purple", "tab:brown", "tab:olive")
    return [palette[index % len(palette)] for index in range(count)]


def _draw_predictions(
    figure: Any,
    images: np.ndarray,
    labels: Sequence[int],
    predicted: Sequence[int],
    names: Sequence[str] | None,
    columns: int,
) -> None:
    if not len(images) == len(labels) == len(predicted):
        counts = f"{len(images)} images, {len(labels)} labels and {len(predicted)} predictions"
        raise ValueError(f"{counts} do not belong together")
    rows = max(1, math.ceil(len(images) / columns))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for axes, image, label, guess in zip(grid, images, labels, predicted, strict=False):
        axes.imshow(_drawable(image), cmap="gray_r", interpolation="nearest")
        wrong = int(label) != int(guess)
        text = _class_name(guess, names) + (f" (is {_class_name(label, names)})" if wrong else "")
        axes.set_title(text, fontsize=9, pad=2, color="red" if wrong else "black")
        if wrong:
            axes.spines[:].set(visible=True, color="red", linewidth=2)


def _class_name(label: int, names: Sequence[str] | None) -> str:
    return str(int(label)) if names is None or not 0 <= int(label) < len(names) else names[int(label)]


def _drawable(image: np.ndarray) -> np.ndarray:
    """An image as matplotlib draws it: (H, W), or (H, W, 3) in RGB with values 0 to 255 or 0 to 1."""
    picture = np.asarray(image)
    if picture.ndim == 3 and picture.shape[0] == 1:
        return picture[0]
    if picture.ndim == 3 and picture.shape[0] == 3:
        picture = picture.transpose(1, 2, 0)[..., ::-1]
    if picture.ndim == 2:
        return picture
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"an image of shape {np.asarray(image).shape} cannot be drawn; (H, W) or three channels can")
    return picture
