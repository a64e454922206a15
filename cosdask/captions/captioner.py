"""Sentences for images: an image net, and a recurrent net that says one word after the other."""

from __future__ import annotations

import math
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa

from cosdask.captions.pictures import BORDER, MEAN, prepare_image
from cosdask.captions.search import Sentences, States, beam_words, best_of, choose_words
from cosdask.captions.vocab import Vocab
from cosdask.data.cells import image_bytes
from cosdask.device import compile_function
from cosdask.errors import ConfigError, CosdaskError, DataError, NetError, WeightsError, did_you_mean
from cosdask.nn import Net
from cosdask.nn.execute import run_graph

__all__ = ["Caption", "Captioner", "Search"]

_GREEDY = math.inf
_TEXT = pd.ArrowDtype(pa.string())
# what has been compiled, by the programs that a net's copies share: a worker's tasks compile once
_LOOPS: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
_LOOPS_LOCK = threading.Lock()


@dataclass(frozen=True)
class Search:
    """How words are chosen; see :meth:`Captioner.generate`.

    Raises:
        ConfigError: for values that cannot work.
    """

    beam: int = 1
    temperature: float = _GREEDY
    length_power: float = 0.0
    longest: int = 50

    def __post_init__(self) -> None:
        for name in ("beam", "longest"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: at least 1 is needed", option=name)
        if not self.temperature > 0:
            raise ConfigError(
                f"temperature={self.temperature}: above 0; infinity always takes the likeliest word",
                option="temperature",
            )
        if self.beam > 1 and self.temperature != _GREEDY:
            raise ConfigError("a beam search draws nothing: leave temperature out, or beam", option="temperature")


@dataclass(frozen=True)
class Caption:
    """A sentence for an image.

    Attributes:
        words: numbers of its words.
        text: the sentence as people read it: ``"A cat looks up."``; ``"..."`` where it did not end in time.
        score: sum of the logarithms of its words' probabilities, the end's included.
        ended: whether the net ended it.
    """

    words: tuple[int, ...]
    text: str
    score: float
    ended: bool


class Captioner:
    """Says what is on images, with two nets that share one file of weights.

    Args:
        image_net: prototxt or ``Net`` from an image (N, 3, H, W) to features; ``lstm_deploy.prototxt``.
        word_net: prototxt or ``Net`` of one step, from the last word, a mark and the features to a Softmax over the
            next word; ``lrcn_word_to_preds.deploy.prototxt``.
        vocab: must have as many classes as the word net.
        weights: a caffemodel that both are loaded from, by layer name; may be left out for nets that have theirs.
        features: blob of the image net that the word net is fed.
        inputs: names of the word net's inputs: mark, last word, features.
        border: see :func:`cosdask.captions.prepare_image`.
        mean: see :func:`cosdask.captions.prepare_image`.
        batch: images that are worked on together.

    Raises:
        ConfigError: the vocabulary has another number of classes than the net.
        NetError: nets without these inputs or blobs.
        WeightsError: the file lacks weights of one of the nets.
    """

    def __init__(
        self,
        image_net: Net | str | os.PathLike[str],
        word_net: Net | str | os.PathLike[str],
        vocab: Vocab,
        weights: str | os.PathLike[str] | None = None,
        *,
        features: str = "fc8",
        inputs: Sequence[str] = ("cont_sentence", "input_sentence", "image_features"),
        border: float = BORDER,
        mean: Sequence[float] = MEAN,
        batch: int = 16,
    ) -> None:
        self.image_net, self.word_net = _net(image_net, weights), _net(word_net, weights)
        self.vocab, self.border, self.mean, self.batch = vocab, border, tuple(mean), batch
        self.feature_blob, self.inputs = features, tuple(inputs)
        self._image = _image_input(self.image_net, features)
        for name in self.inputs:
            if name not in self.word_net.inputs:
                there = self.word_net.inputs
                raise NetError(
                    f'the word net has no input "{name}"; it has {", ".join(there)}.{did_you_mean(name, there)}'
                )
        self._probs, self._scores = _score_blobs(self.word_net)
        vocab.check_classes(self.word_net.blob_shapes[self._probs][-1], f'blob "{self._probs}" of the word net')

    # -- images ------------------------------------------------------------------------------------------------------

    def features(self, images: Sequence[Any]) -> np.ndarray:
        """The image net's features, float32 (N, F).

        Args:
            images: see :func:`cosdask.captions.prepare_image`.

        Raises:
            DataError: an image that cannot be read, with its number.
        """
        height, width = self.image_net.inputs[self._image][2:]
        parts = []
        for start in range(0, len(images), self.batch):
            rows = []
            for number, image in enumerate(images[start : start + self.batch], start):
                try:
                    rows.append(prepare_image(image, height, width, self.border, self.mean))
                except DataError as error:
                    raise DataError(f"image {number}: {error.message}", row=number) from error
            array = _filled(np.stack(rows), self.batch)
            found = self.image_net.forward_anew({self._image: array}, [self.feature_blob])[self.feature_blob]
            parts.append(found.reshape(len(array), -1)[: len(rows)])
        width = int(np.prod(self.image_net.blob_shapes[self.feature_blob][1:]))
        return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)

    # -- words -------------------------------------------------------------------------------------------------------

    def generate(
        self,
        images: Any,
        *,
        beam: int = 1,
        temperature: float = _GREEDY,
        length_power: float = 0.0,
        longest: int = 50,
        seed: int = 0,
        ids: Sequence[Any] | None = None,
    ) -> list[Caption]:
        """A sentence for each image.

        Args:
            images: a sequence of images (see :func:`cosdask.captions.prepare_image`), or what :meth:`features` gave:
                float32 (N, F).
            beam: 1 takes the likeliest word at each step; more keeps so many beginnings and finds likelier sentences.
            temperature: infinity never draws; 1 draws each word by its probability; others draw from the softmax of
                ``temperature x scores``, larger ones more boldly. (The inverse of what is often called temperature;
                CaffeOnSpark's meaning is kept.)
            length_power: for beam search; see :func:`cosdask.captions.search.best_of`.
            longest: most words of a sentence.
            seed: of the draws.
            ids: name each image for the draws, which depend on the seed, the image's id and the step alone; their
                numbers when None.

        Returns:
            Captions in the images' order; the same whether images come together or one by one.

        Raises:
            ConfigError: for settings that cannot work.
            NetError: where the net's probabilities are no numbers.
        """
        how = Search(beam, temperature, length_power, longest)
        if beam > self.vocab.classes:
            raise ConfigError(f"beam={beam} is more than the {self.vocab.classes} classes of the net", option="beam")
        is_features = isinstance(images, np.ndarray | jax.Array) and images.dtype == np.float32 and images.ndim == 2
        features = np.asarray(images) if is_features else self.features(images)
        names = list(range(len(features))) if ids is None else list(ids)
        if len(names) != len(features):
            raise ConfigError(f"{len(names)} ids for {len(features)} images", option="ids")
        return [caption for part in self._batches(features, names, how, seed) for caption in part]

    __call__ = generate

    def _batches(self, features: np.ndarray, ids: list[Any], how: Search, seed: int) -> Iterator[list[Caption]]:
        for start in range(0, len(features), self.batch):
            part = features[start : start + self.batch]
            keys = _keys(ids[start : start + self.batch], self.batch, seed)
            found = self._loop(how, features.shape[1])(self.word_net.params, _filled(part, self.batch), keys)
            whole = best_of(Sentences(*map(np.asarray, found)), how.beam, how.length_power)
            sentences = Sentences(*(values[: len(part)] for values in whole))
            if np.isnan(sentences.scores).any():
                number = start + int(np.argmax(np.isnan(sentences.scores)))
                raise NetError(f"image {number}: the net's probabilities are no numbers; are its weights damaged?")
            yield [self._caption(*row) for row in zip(*sentences, strict=True)]

    def _caption(self, words: np.ndarray, length: int, ended: bool, score: float) -> Caption:
        chosen = tuple(int(word) for word in words[:length])
        text = self.vocab.decode(chosen)
        text = text[:1].upper() + text[1:] + ("." if ended else "...")
        return Caption(chosen, text, float(score), bool(ended))

    def _loop(self, how: Search, width: int) -> Any:
        """The compiled loop for batches of features of this width."""
        key = (how.beam, how.temperature, how.longest, self.batch, width, self.inputs)
        with _LOOPS_LOCK:
            made = _LOOPS.setdefault(self.word_net.programs, {})
            if key not in made:
                made[key] = self._compiled(how, width)
            return made[key]

    def _compiled(self, how: Search, width: int) -> Any:
        rows = self.batch * how.beam
        mark, word, image = self.inputs
        shapes = {mark: np.zeros((1, rows)), word: np.zeros((1, rows)), image: np.zeros((rows, width))}
        program = self.word_net.programs.find(shapes, (self._probs, self._scores))
        graph, blobs, first, batch = program.graph, (self._probs, self._scores), program.first_states, self.batch

        def loop(params: Any, features: jax.Array, keys: jax.Array) -> Sentences:
            repeated = jnp.repeat(features, how.beam, axis=0)

            def step(last: jax.Array, marks: jax.Array, states: States) -> tuple[jax.Array, jax.Array, States]:
                inputs = {mark: marks[None], word: last.astype(jnp.float32)[None], image: repeated}
                outcome = run_graph(graph, params, inputs, blobs, None, states)
                probs, scores = (outcome.blobs[name].reshape(rows, -1) for name in blobs)
                return probs, scores, {key: list(outcome.states[key]) for key in first}

            states = {key: list(state) for key, state in first.items()}
            if how.beam > 1:
                return beam_words(step, states, batch, how.longest, how.beam)
            return choose_words(step, states, batch, how.longest, how.temperature, keys)

        examples = (self.word_net.params, np.zeros((batch, width), np.float32), _keys([], batch, 0))
        return compile_function(loop).lower(*examples).compile()

    # -- dataframes --------------------------------------------------------------------------------------------------

    def predictions(self, frame: Any, column: str = "data", id_column: str = "id", **how: Any) -> Any:
        """A caption for each row of a dask or pandas frame: ``id`` (text) and ``prediction``.

        Args:
            frame: ``id_column``, and ``column`` with the bytes of image files, or with structs whose ``image`` they
                are, as :func:`embed_images` makes them.
            column: the column with images.
            id_column: the column that names rows; draws depend on it.
            **how: as :meth:`generate` takes them.

        Returns:
            A frame of the same kind; a dask frame stays lazy, and each worker compiles once.

        Raises:
            DataError: a missing column, or a row whose image cannot be read, with its id.
        """
        Search(**{name: value for name, value in how.items() if name != "seed"})
        if isinstance(frame, pd.DataFrame):
            return self._predict(frame, column, id_column, how)
        meta = pd.DataFrame({"id": pd.array([], dtype=_TEXT), "prediction": pd.array([], dtype=_TEXT)})
        return frame.map_partitions(self._predict, column, id_column, how, meta=meta)

    def _predict(self, frame: pd.DataFrame, column: str, id_column: str, how: dict[str, Any]) -> pd.DataFrame:
        for name in (column, id_column):
            if name not in frame.columns:
                there = list(map(str, frame.columns))
                raise DataError(
                    f"no column {name!r}; there are {', '.join(there)}.{did_you_mean(name, there)}", column=name
                )
        ids = [str(id_) for id_ in frame[id_column]]
        captions: list[Caption] = []
        # a batch of images at a time is decoded and held
        for start in range(0, len(frame), self.batch):
            some = ids[start : start + self.batch]
            try:
                images = [image_bytes(cell) for cell in frame[column].iloc[start : start + self.batch]]
                captions += self.generate(images, ids=some, **how)
            except CosdaskError as error:
                raise DataError(f"rows {some[0]} to {some[-1]} of {column!r}: {error.message}", row=some[0]) from error
        found = {"id": ids, "prediction": [caption.text for caption in captions]}
        return pd.DataFrame({name: pd.array(values, dtype=_TEXT) for name, values in found.items()}, index=frame.index)


def _net(net: Net | str | os.PathLike[str], weights: str | os.PathLike[str] | None) -> Net:
    opened = net if isinstance(net, Net) else Net(net, phase="TEST")
    if weights is not None:
        opened = opened.copy()
        opened.load(weights)
        if opened.weights_place is None:
            layers = ", ".join(opened.to_blobs(opened.params))
            raise WeightsError(
                f'{os.fspath(weights)}: lacks weights of the net "{opened.name}"; it needs those of {layers}',
                path=os.fspath(weights),
            )
    return opened


def _image_input(net: Net, blob: str) -> str:
    if blob not in net.blob_shapes:
        raise NetError(f'the image net makes no blob "{blob}".{did_you_mean(blob, net.blob_shapes)}')
    for name, shape in net.inputs.items():
        if len(shape) == 4 and shape[1] == 3:
            return name
    raise NetError(f"the image net takes no colour images (N, 3, H, W); its inputs are {dict(net.inputs)}")


def _score_blobs(net: Net) -> tuple[str, str]:
    """The blob of probabilities, and that of the scores they are made from."""
    for layer in reversed(net.layers):
        if layer.type == "Softmax":
            return layer.top[0], layer.bottom[0]
    raise NetError("the word net has no Softmax layer that says how likely each word is next")


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """The rows, and copies of the last one up to ``size``: every batch runs the same compiled loop."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)]) if len(rows) < size else rows


def _keys(ids: Sequence[Any], size: int, seed: int) -> Any:
    """A JAX key a row, from the seed and the row's id."""
    numbers = [zlib.crc32(str(id_).encode()) for id_ in ids] + [0] * (size - len(ids))
    root = jax.random.key(seed)
    return jax.vmap(lambda number: jax.random.fold_in(root, number))(jnp.asarray(np.array(numbers, np.uint32)))
