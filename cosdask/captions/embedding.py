"""Captions as the vectors that an LRCN net is trained on, beside the bytes of their images, and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cosdask.captions.tokens import tokenize
from cosdask.captions.vocab import END, PADDING, START, Vocab
from cosdask.errors import ConfigError, DataError, did_you_mean
from cosdask.storage import filesystem, join, read_bytes

__all__ = ["caption_vectors", "embed_captions", "embed_images", "embedding_to_captions"]

#: Most bytes of an image file.
_LIMIT = 256 << 20

_IMAGE = pa.struct([("height", pa.int32()), ("width", pa.int32()), ("image", pa.binary())])
_WORDS = pa.list_(pa.int32())
_IMAGE_COLUMNS = {"id": pa.string(), "data": _IMAGE, "label": pa.int32()}
_SENTENCES = ("input_sentence", "cont_sentence", "target_sentence")
_CAPTION_COLUMNS = {**_IMAGE_COLUMNS, **dict.fromkeys(_SENTENCES, _WORDS)}


def caption_vectors(caption: str, vocab: Vocab, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The input, the continuation marks and the target of one caption.

    The net reads word ``t`` of the input and learns to say word ``t`` of the target, which is the next one. Marks are 0
    where a sentence starts and 1 where it goes on. A caption of ``length`` words or more is cut to ``length - 1``; what
    follows a shorter one is -1 in all three, as CaffeOnSpark's tables have it.

    Args:
        caption: the sentence.
        vocab: gives each word its number.
        length: of the vectors; ``channels`` of the net's sentence tops.

    Returns:
        Three int32 arrays of ``length``: input, continuation, target.

    Example:
        >>> [vector.tolist() for vector in caption_vectors("A dog.", Vocab(["a", "dog"]), 4)]
        [[0, 2, 3, -1], [0, 1, 1, -1], [2, 3, 0, -1]]
    """
    if length < 1:
        raise ConfigError(f"captionLength {length}: a caption vector has at least 1 place", option="captionLength")
    words = [vocab.index(token) for token in tokenize(caption)][: length - 1]
    rest = [PADDING] * (length - 1 - len(words))
    vectors = ([START, *words, *rest], [0, *[1] * len(words), *rest], [*words, END, *rest])
    first, cont, target = (np.array(vector, np.int32) for vector in vectors)
    return first, cont, target


def embed_images(frame: Any, image_root: str | os.PathLike[str]) -> Any:
    """Rows with image bytes, for a frame that :func:`coco_captions` made; lazy where the frame is a dask frame.

    Args:
        frame: ``id``, ``file``, ``height`` and ``width``.
        image_root: folder of the image files, local or a URL.

    Returns:
        ``id`` (text), ``data`` (``height``, ``width`` and the file's bytes as ``image``) and ``label`` (always 0).

    Raises:
        DataError: a missing column; an image that cannot be read, with its row's id.
        StorageError: there is no such folder.
    """
    root = _folder(image_root)
    return _map(frame, _IMAGE_COLUMNS, _images, root)


def embed_captions(frame: Any, image_root: str | os.PathLike[str], vocab: Vocab, length: int = 20) -> Any:
    """As :func:`embed_images`, and the vectors of each row's ``caption``: what LRCN is trained on.

    Args:
        frame: ``id``, ``file``, ``height``, ``width`` and ``caption``.
        image_root: folder of the image files, local or a URL.
        vocab: gives each word its number.
        length: of the vectors; must be ``channels`` of the net's sentence tops.

    Returns:
        Also ``input_sentence``, ``cont_sentence`` and ``target_sentence``, lists of int32: see :func:`caption_vectors`.
    """
    root = _folder(image_root)
    caption_vectors("", vocab, length)
    return _map(frame, _CAPTION_COLUMNS, _images_and_captions, root, vocab, length)


def embedding_to_captions(
    frame: Any, vocab: Vocab, column: str = "target_sentence", caption_column: str = "caption"
) -> Any:
    """Captions from vectors: ``id`` (text) and ``caption_column``, words with one blank between them.

    Args:
        frame: a pandas or dask frame with ``id`` and ``column``.
        vocab: the one that the vectors were made with.
        column: ``input_sentence`` or ``target_sentence``.
        caption_column: name of the new column. A row of nothing but padding gives an empty caption.

    Raises:
        DataError: a missing column; a number that the vocabulary does not have.
    """
    kinds = {"id": pa.string(), caption_column: pa.string()}
    return _map(frame, kinds, _captions, vocab, column, caption_column)


# -- by partition ----------------------------------------------------------------------------------------------------


def _map(frame: Any, kinds: dict[str, pa.DataType], function: Any, *arguments: Any) -> Any:
    """The function over a pandas frame, or over a dask frame's partitions."""
    if isinstance(frame, pd.DataFrame):
        return function(frame, *arguments)
    return frame.map_partitions(function, *arguments, meta=_frame({name: [] for name in kinds}, kinds))


def _frame(columns: dict[str, Any], kinds: dict[str, pa.DataType], index: Any = None) -> pd.DataFrame:
    arrays = {
        name: pd.array(pa.array(values, kinds[name]), dtype=pd.ArrowDtype(kinds[name]))
        for name, values in columns.items()
    }
    return pd.DataFrame(arrays, index=index)


def _require(frame: pd.DataFrame, *names: str) -> None:
    for name in names:
        if name not in frame.columns:
            there = list(map(str, frame.columns))
            raise DataError(
                f"no column {name!r}; there are {', '.join(there)}.{did_you_mean(name, there)}", column=name
            )


def _images(frame: pd.DataFrame, root: str) -> pd.DataFrame:
    return _frame(_image_columns(frame, root), _IMAGE_COLUMNS, frame.index)


def _image_columns(frame: pd.DataFrame, root: str) -> dict[str, Sequence[Any]]:
    _require(frame, "id", "file", "height", "width")
    cells = []
    for id_, file, height, width in zip(*(frame[name] for name in ("id", "file", "height", "width")), strict=True):
        cells.append({"height": _size(height), "width": _size(width), "image": _file(root, str(file), id_)})
    return {"id": [str(id_) for id_ in frame["id"]], "data": cells, "label": [0] * len(cells)}


def _size(value: Any) -> int:
    """A height or width; 0, which means not known, where the row has none."""
    return 0 if value is None or value is pd.NA else int(value)


def _file(root: str, name: str, id_: Any) -> bytes:
    if ".." in name.replace("\\", "/").split("/") or name.startswith("/") or ":" in name:
        raise DataError(f"row {id_}: the image {name!r} would lie outside of {root}", path=name, row=id_)
    try:
        return read_bytes(join(root, name), _LIMIT)
    except OSError as error:
        raise DataError(f"row {id_}: its image cannot be read: {error}", path=join(root, name), row=id_) from error


def _images_and_captions(frame: pd.DataFrame, root: str, vocab: Vocab, length: int) -> pd.DataFrame:
    _require(frame, "caption")
    columns = dict(_image_columns(frame, root))
    vectors = []
    for id_, caption in zip(frame["id"], frame["caption"], strict=True):
        if not isinstance(caption, str):
            raise DataError(f"row {id_} has no caption; use embed_images for images without any", row=id_)
        vectors.append(caption_vectors(caption, vocab, length))
    for position, name in enumerate(_SENTENCES):
        columns[name] = [vector[position] for vector in vectors]
    return _frame(columns, _CAPTION_COLUMNS, frame.index)


def _captions(frame: pd.DataFrame, vocab: Vocab, column: str, caption_column: str) -> pd.DataFrame:
    _require(frame, "id", column)
    captions = []
    for id_, cell in zip(frame["id"], frame[column], strict=True):
        try:
            captions.append(vocab.decode(cell))
        except (DataError, TypeError, ValueError) as error:
            raise DataError(f"row {id_} of {column!r}: {error}", row=id_, column=column) from error
    kinds = {"id": pa.string(), caption_column: pa.string()}
    return _frame({"id": [str(id_) for id_ in frame["id"]], caption_column: captions}, kinds, frame.index)


def _folder(root: str | os.PathLike[str]) -> str:
    fs, path = filesystem(root)
    if not fs.isdir(path):
        raise ConfigError(f"{os.fspath(root)}: no folder of images is there", option="imageRoot")
    return os.fspath(root)
