"""The words that a caption net knows, and the number of each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import pandas as pd

from cosdask.captions.tokens import tokenize
from cosdask.errors import ConfigError, DataError, did_you_mean
from cosdask.storage import atomic_write, exists, filesystem, join, missing, read_text, refuse_overwrite

__all__ = ["END", "PADDING", "START", "UNKNOWN", "UNKNOWN_WORD", "Vocab"]

#: The numbers with a meaning of their own. A sentence starts and ends with 0; -1 fills up what follows it.
START = END = 0
UNKNOWN = 1
PADDING = -1
#: The first line of a vocabulary file; no token is spelled in capitals.
UNKNOWN_WORD = "UNK"
#: Most bytes that a vocabulary file may have.
_LIMIT = 256 << 20
_PART = "part-00000"


class Vocab:
    """Words and their numbers: 0 starts and ends a sentence, 1 stands for words that are not known, words follow.

    Args:
        words: known words, the most frequent one first, without the one for unknown words.
        legacy: number as models trained with CaffeOnSpark's last version do, which counts the lines of the file from
            0: the most frequent word is 1, as unknown words are, the next one 2.

    Raises:
        DataError: for a word that is empty, holds a line break, or comes twice.

    Example:
        >>> vocab = Vocab(["a", "dog"])
        >>> vocab.index("dog"), vocab.index("cat"), vocab.word(3), vocab.classes
        (3, 1, 'dog', 4)
        >>> Vocab(["a", "dog"], legacy=True).index("dog")
        2
    """

    def __init__(self, words: Iterable[str], legacy: bool = False) -> None:
        self.words: tuple[str, ...] = tuple(words)
        self.legacy = legacy
        self._first = 1 if legacy else 2
        self._numbers = {word: number for number, word in enumerate(self.words, self._first)}
        for word in self.words:
            if not word or word == UNKNOWN_WORD or "\n" in word or "\r" in word:
                raise DataError(f"{word!r} can be no word of a vocabulary: one line each, none of them {UNKNOWN_WORD}")
        if len(self._numbers) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise DataError(f"the word {twice!r} is twice in the vocabulary", word=twice)

    def __len__(self) -> int:
        """How many words are known, not counting the one for unknown words."""
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocab) and (self.words, self.legacy) == (other.words, other.legacy)

    def __hash__(self) -> int:
        return hash((self.words, self.legacy))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.words[:3])) + (", ..." if len(self.words) > 3 else "")
        return f"Vocab([{shown}]{', legacy=True' if self.legacy else ''}): {self.classes} classes"

    @property
    def classes(self) -> int:
        """Numbers in use: ``input_dim`` of the net's Embed layer and ``num_output`` of its last one."""
        return len(self.words) + self._first

    def index(self, word: str) -> int:
        """The number of a word as :func:`tokenize` spells it; 1 for an unknown one."""
        return self._numbers.get(word, UNKNOWN)

    def word(self, index: int) -> str:
        """The word of a number; UNK for the unknown one, nothing for 0 and for padding.

        Raises:
            DataError: for a number that the vocabulary does not have.
        """
        if index in (END, PADDING):
            return ""
        if not 0 < index < self.classes:
            raise DataError(f"the number {index} is no word's: this vocabulary has {self.classes} classes")
        # with the old numbering 1 has two meanings, of which the most frequent word is by far the likelier one
        return self.words[index - self._first] if index >= self._first else UNKNOWN_WORD

    def encode(self, sentence: str) -> list[int]:
        """The numbers of a sentence's words."""
        return [self.index(token) for token in tokenize(sentence)]

    def decode(self, indices: Iterable[int]) -> str:
        """The words of numbers with a blank between them; 0 and padding are left out."""
        return " ".join(word for index in indices if (word := self.word(int(index))))

    def check_classes(self, classes: int, where: str) -> None:
        """Refuse a net that was made for another vocabulary.

        Raises:
            ConfigError: naming both sizes.
        """
        if classes == self.classes:
            return
        other = Vocab(self.words, not self.legacy)
        hint = (
            f" With legacy={other.legacy} it would fit: is this the numbering that the net was trained with?"
            if classes == other.classes
            else f" Take {classes - self._first} words (vocabSize), or give the net {self.classes} classes."
        )
        raise ConfigError(
            f"{where} has {classes} classes, the vocabulary {self.classes}: {len(self)} words, one number for the end "
            f"of a sentence{'' if self.legacy else ' and one for unknown words'}.{hint}"
        )

    # -- from captions, to and from files ----------------------------------------------------------------------------

    @classmethod
    def from_captions(cls, captions: Any, column: str = "caption", size: int = -1, legacy: bool = False) -> Vocab:
        """The most frequent words of captions; among equally frequent ones, the alphabet decides.

        Args:
            captions: a dask or pandas frame with ``column``, a series of text, or any sequence of sentences. A dask
                frame's words are counted by the workers.
            column: the column with the sentences.
            size: how many words to keep; all of them for 0 or less.
            legacy: see the class.

        Raises:
            DataError: for a missing column, or a cell that is no text.

        Example:
            >>> Vocab.from_captions(["A dog.", "A cat.", "A dog and a cat"], size=3).words
            ('a', 'cat', 'dog')
        """
        ranked = sorted(_count(captions, column).items(), key=lambda entry: (-entry[1], entry[0]))
        return cls([word for word, _ in (ranked[:size] if size > 0 else ranked)], legacy)

    @classmethod
    def load(cls, url: str | os.PathLike[str], legacy: bool = False) -> Vocab:
        """Read a vocabulary: a text file, or a folder of parts as CaffeOnSpark and :meth:`save` write it.

        Raises:
            StorageError: missing, or too large.
            DataError: no vocabulary: its first line is not UNK, or a word comes twice.
        """
        lines = [line for part in _parts(url) for line in _lines(part)]
        if not lines or lines[0] != UNKNOWN_WORD:
            found = repr(lines[0][:40]) if lines else "nothing"
            moved = (
                f" UNK is line {lines.index(UNKNOWN_WORD) + 1}: the parts were merged in another order than they were "
                "written; every number would be wrong. Sort the file, or make the vocabulary again."
                if UNKNOWN_WORD in lines
                else ""
            )
            raise DataError(
                f"{url}: a vocabulary begins with the line UNK, this file with {found}.{moved}", path=str(url)
            )
        try:
            return cls(lines[1:], legacy)
        except DataError as error:
            raise DataError(f"{url}: {error.message}", path=str(url)) from None

    def save(self, url: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write one word a line, UNK first: to a ``.txt`` file, or into a folder of this name as CaffeOnSpark does.

        Raises:
            StorageError: already there, or cannot be written.
        """
        name = os.fspath(url)
        refuse_overwrite(name, overwrite)
        path = name if name.endswith(".txt") else join(name, _PART)
        atomic_write(path, "".join(f"{word}\n" for word in (UNKNOWN_WORD, *self.words)))


def _count(captions: Any, column: str) -> Counter[str]:
    if hasattr(captions, "columns"):
        if column not in captions.columns:
            near = did_you_mean(column, map(str, captions.columns))
            raise DataError(f"no column {column!r}; there are {', '.join(map(str, captions.columns))}.{near}")
        captions = captions[column]
    if not hasattr(captions, "dask"):
        return _words_of(captions)
    from dask.base import compute
    from dask.delayed import delayed

    # each worker counts its own; the counts, not the captions, come here
    parts = [delayed(_words_of)(part) for part in captions.to_delayed()]
    while len(parts) > 1:
        parts = [delayed(_add)(parts[i : i + 8]) for i in range(0, len(parts), 8)]
    (total,) = compute(*parts) if parts else (Counter(),)
    return total


def _words_of(captions: Sequence[Any]) -> Counter[str]:
    words: Counter[str] = Counter()
    for row, caption in enumerate(captions):
        if caption is None or caption is pd.NA:
            raise DataError(f"row {row} has no caption; leave such rows out (frame.dropna)", row=row)
        if not isinstance(caption, str):
            raise DataError(f"row {row}: a caption is text, not {type(caption).__name__}", row=row)
        words.update(tokenize(caption))
    return words


def _add(counts: Sequence[Counter[str]]) -> Counter[str]:
    return reduce(lambda total, more: total + more, counts, Counter())


def _parts(url: str | os.PathLike[str]) -> list[str]:
    """The file, or a folder's parts in the order of their names."""
    name = os.fspath(url)
    if not exists(name):
        raise missing(name, "vocabulary")
    fs, path = filesystem(name)
    if not fs.isdir(path):
        return [name]
    found = sorted(str(entry) for entry in fs.ls(path, detail=False) if fs.isfile(entry))
    parts = [entry for entry in found if not entry.rsplit("/", 1)[-1].startswith(("_", "."))]
    if not parts:
        raise DataError(f"{name}: a folder without parts; is this the vocabulary's?", path=name)
    return [str(fs.unstrip_protocol(entry)) for entry in parts]


def _lines(url: str) -> list[str]:
    lines = read_text(url, _LIMIT).split("\n")
    return lines[:-1] if lines[-1] == "" else lines
