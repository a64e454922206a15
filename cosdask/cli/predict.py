"""``cosdask predict``: classify images with a trained model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosdask.config import FlagParser
from cosdask.errors import ConfigError, DataError
from cosdask.storage import local_path, read_bytes, read_text

_ABOUT = """Classify images with a trained model and print the best classes of each.

The images are prepared as the net's TEST data layer says (crop, mean, scale). A deploy net has no such layer: say what
its training used with --mean and --scale. An image of another size is resized: to the size of the mean file where there
is one, else to the net's input."""

_EXAMPLES = """examples:
  cosdask predict digit.png --net lenet_train_test.prototxt --model out/lenet.caffemodel
  cosdask predict photos/ --net deploy.prototxt --model caffenet.caffemodel --labels synset_words.txt --mean 104,117,123
  curl -s https://example.org/cat.jpg | cosdask predict - --net deploy.prototxt --model caffenet.caffemodel"""

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_IMAGE_LIMIT = 1 << 28
_TEXT_LIMIT = 1 << 26
_BATCH = 16


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    given = _parser().parse(words)
    top = _positive(given.top)
    images = list(image_names(given.images))
    labels = read_labels(given.labels) if given.labels else None
    classify = Classifier.open(given.net, given.model, given.blob, given.mean, given.scale)
    if labels is not None and len(labels) != classify.classes:
        message = f"{given.labels}: {len(labels)} labels for the {classify.classes} classes of blob {classify.blob}"
        raise ConfigError(message, path=given.labels)
    for start in range(0, len(images), _BATCH):
        names = images[start : start + _BATCH]
        for name, scores in zip(names, classify([load_image(name) for name in names], names), strict=True):
            print(report(name, scores, top, labels))
    return 0


def _parser() -> FlagParser:
    flags = FlagParser(
        prog="cosdask predict",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cosdask predict IMAGE... --net FILE --model FILE [flags]",
    )
    flags.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files, folders of them, or - for standard input"
    )
    flags.add_argument(
        "--net", required=True, metavar="FILE", help="prototxt: a deploy net, a train-test net or a solver"
    )
    flags.add_argument("--model", required=True, metavar="FILE", help="trained weights: .caffemodel or .caffemodel.h5")
    flags.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    flags.add_argument("--top", default="5", metavar="N", help="classes to show for each image (default 5)")
    flags.add_argument("--blob", metavar="NAME", help="blob with a score a class; found by itself in most nets")
    flags.add_argument("--mean", metavar="MEAN", help="one value a channel (104,117,123), or a .binaryproto file")
    flags.add_argument("--scale", metavar="X", help="factor for the pixels after the mean is taken off")
    return flags


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise ConfigError(f"flag --top: {word!r} is not a whole number of at least 1", flag="top")
    return int(word)


def image_names(words: Sequence[str]) -> Iterator[str]:
    """The images that words name: files as they are, every image below a folder in the order of names, "-" as it is.

    Raises:
        DataError: a folder without images.
    """
    for word in words:
        folder = None if word == "-" else local_path(word)
        if folder is None or not folder.is_dir():
            yield word
            continue
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not found:
            raise DataError(f"{word}: a folder without images ({', '.join(sorted(_SUFFIXES))})", path=word)
        yield from map(str, found)


def load_image(name: str) -> bytes:
    """An image file's bytes; "-" reads standard input."""
    if name != "-":
        return read_bytes(name, _IMAGE_LIMIT)
    data = sys.stdin.buffer.read(_IMAGE_LIMIT + 1)
    if len(data) > _IMAGE_LIMIT:
        raise DataError(f"standard input: more than {_IMAGE_LIMIT:,} bytes for one image", path="-")
    return data


def read_labels(path: str) -> list[str]:
    """Names of classes, one a line."""
    return read_text(path, _TEXT_LIMIT).rstrip().splitlines()


def report(name: str, scores: np.ndarray, top: int, labels: Sequence[str] | None) -> str:
    """The best classes of an image, best first, as text.

    Example:
        >>> print(report("a.png", np.array([0.25, 0.75]), 5, ["cat", "dog"]))
        a.png
          0.7500  dog
          0.2500  cat
    """
    best = np.argsort(-scores, kind="stable")[:top]
    rows = [f"  {scores[index]:.4f}  {labels[index] if labels else index}" for index in best]
    return "\n".join([name, *rows])


@dataclass(frozen=True)
class Classifier:
    """A net with the preparation of its images.

    Attributes:
        net: the net, with weights.
        input: the blob that takes the images.
        blob: the blob with a score a class.
        softmax: whether a softmax makes the scores probabilities.
        transform: crop, mean and scale.
    """

    net: Any
    input: str
    blob: str
    softmax: bool
    transform: Any

    @classmethod
    def open(
        cls, net: str, model: str, blob: str | None = None, mean: str | None = None, scale: str | None = None
    ) -> Classifier:
        """Reads net and weights; see the flags of ``cosdask predict`` for the arguments.

        Raises:
            CosdaskError: naming the file or flag that is wrong.
        """
        from cosdask.cli.nets import image_input, open_net, score_blob

        opened = open_net(net, model)
        name = image_input(opened)
        chosen, softmax = score_blob(opened, blob)
        transform = _transform(opened, name, mean, scale)
        _check_mean(transform, opened.inputs[name][1:])
        return cls(opened, name, chosen, softmax, transform)

    @property
    def classes(self) -> int:
        """Scores of one image."""
        return int(np.prod(self.net.blob_shapes[self.blob][1:]))

    def __call__(self, images: Sequence[bytes], names: Sequence[str]) -> np.ndarray:
        """Scores of encoded images: float32 (N, classes).

        Raises:
            DataError: names an image that cannot be decoded.
        """
        pixels = np.stack([self._pixels(data, name) for data, name in zip(images, names, strict=True)])
        scores = self.net.forward({self.input: self.transform.finish(pixels)}, blobs=[self.blob])[self.blob]
        scores = scores.reshape(len(images), -1)
        return _softmax(scores) if self.softmax else scores

    def _pixels(self, data: bytes, name: str) -> np.ndarray:
        """An image decoded, resized and cropped: uint8 (C, H, W)."""
        from cosdask.data.decode import decode_image, flag_for, resize_image

        channels, height, width = self.net.inputs[self.input][1:]
        try:
            image = decode_image(data, flag_for(channels))
        except DataError as error:
            raise DataError(f"{'standard input' if name == '-' else name}: {error.message}", path=name) from error
        if image.shape[2] != channels:
            message = f"{name}: an image of {image.shape[2]} channels; the net takes {channels}"
            raise DataError(message, path=name)
        mean = self.transform.mean
        rows, columns = (height, width) if mean is None else mean.shape[1:]
        image = resize_image(image, rows, columns)
        top, left = (rows - height) // 2, (columns - width) // 2
        return image[top : top + height, left : left + width].transpose(2, 0, 1)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _transform(net: Any, blob: str, mean: str | None, scale: str | None) -> Any:
    """The TEST transform of the layer that feeds ``blob``, with the user's mean and scale in place of its own."""
    from cosdask.cli.nets import input_layer
    from cosdask.data.transform import Transform
    from cosdask.proto import caffe_pb2

    param = caffe_pb2.TransformationParameter()
    layer = input_layer(net, blob)
    if layer is not None:
        param.CopyFrom(_layer_transform(layer, blob))
    # Caffe mirrors at random in TEST too; the same image should get the same answer each time.
    param.ClearField("mirror")
    if mean is not None:
        param.ClearField("mean_file")
        del param.mean_value[:]
        _set_mean(param, mean)
    if scale is not None:
        param.scale = _number(scale, "scale")
    return Transform(param, "TEST", net.folder, where=f'input "{blob}"')


def _check_mean(transform: Any, shape: Sequence[int]) -> None:
    """Stops a mean with other channels than the net's input, or smaller than it."""
    channels, height, width = shape
    rows, columns = (height, width) if transform.mean is None else transform.mean.shape[1:]
    transform.out_shape((channels, rows, columns))
    if rows < height or columns < width:
        where = transform.where
        raise DataError(
            f"{where}: a mean of {rows} x {columns} is smaller than the net's {height} x {width}", input=where
        )


def _layer_transform(layer: Any, blob: str) -> Any:
    if layer.type == "CoSData":
        return layer.cos_data_param.top[list(layer.top).index(blob)].transform_param
    return layer.transform_param


def _set_mean(param: Any, mean: str) -> None:
    if Path(mean).suffix == ".binaryproto":
        param.mean_file = mean
    else:
        param.mean_value.extend(_number(word, "mean") for word in mean.split(","))


def _number(word: str, flag: str) -> float:
    try:
        return float(word)
    except ValueError:
        extra = "; a mean file's name ends in .binaryproto" if flag == "mean" else ""
        raise ConfigError(f"flag --{flag}: {word!r} is not a number{extra}", flag=flag) from None
