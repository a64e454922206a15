"""Pictures to read: photo-like images of 256 x 256 pixels, in the forms that data sets have."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from google.protobuf import text_format

from cosdask.data import Source, open_source, write_lmdb, write_parquet
from cosdask.data.hadoop import SequenceWriter, pair_key, write_bytes
from cosdask.proto import caffe_pb2

SIDE = 256
CROP = 227
ROWS = 512
_DISTINCT = 128
_QUALITY = 90
_LAYERS = {
    "raw": 'type: "Data" data_param {{ source: "{path}" backend: LMDB batch_size: {batch} }}',
    "jpeg": 'type: "Data" data_param {{ source: "{path}" backend: LMDB batch_size: {batch} }}',
    "jpeg_parquet": 'type: "MemoryData" source_class: "ImageDataFrame" memory_data_param {{ source: "{path}" '
    "batch_size: {batch} channels: 3 height: 256 width: 256 image_encoded: true }}",
    "jpeg_sequence": 'type: "MemoryData" source_class: "SeqImageDataSource" memory_data_param {{ source: "{path}" '
    "batch_size: {batch} channels: 3 height: 256 width: 256 }}",
}
KINDS = tuple(_LAYERS)


def picture(seed: int) -> np.ndarray:
    """uint8 (256, 256, 3): soft shapes with a little noise, which JPEG takes about as many bytes for as for a photo."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    soft = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(soft + rng.integers(-12, 12, soft.shape), 0, 255).astype(np.uint8)


def jpegs() -> list[bytes]:
    """The pictures as JPEG files, ``ROWS`` of them."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    files = [bytes(cv2.imencode(".jpg", picture(seed), quality)[1].tobytes()) for seed in range(_DISTINCT)]
    return [files[row % _DISTINCT] for row in range(ROWS)]


def write_rows(kind: str, folder: Path) -> Path:
    """Write the pictures as ``kind`` says; returns where they lie."""
    path = folder / kind
    labels = [row % 1000 for row in range(ROWS)]
    if kind == "raw":
        planes = np.stack([picture(seed).transpose(2, 0, 1) for seed in range(_DISTINCT)])
        write_lmdb(path, planes[np.arange(ROWS) % _DISTINCT], labels)
    elif kind == "jpeg":
        write_lmdb(path, jpegs(), labels)
    elif kind == "jpeg_sequence":
        # as Binary2Sequence leaves them: not compressed, names and labels as keys
        with path.open("wb") as file, SequenceWriter(file) as writer:
            for row, (data, label) in enumerate(zip(jpegs(), labels, strict=True)):
                writer.append(write_bytes(pair_key(f"{row:08d}.jpg", str(label))), write_bytes(data))
    else:
        write_parquet(path, jpegs(), labels)
    return path


def open_rows(kind: str, path: Path | str, batch: int) -> Source:
    """The source of rows that :func:`write_rows` wrote, for training with random crops and mirrors."""
    text = 'name: "data" top: "data" top: "label" transform_param { crop_size: 227 mirror: true } '
    text += _LAYERS[kind].format(path=path, batch=batch)
    return open_source(text_format.Parse(text, caffe_pb2.LayerParameter()), "TRAIN")
