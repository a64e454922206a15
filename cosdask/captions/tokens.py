"""Sentences to tokens, as CaffeOnSpark cuts them."""

from __future__ import annotations

import re

#: Runs of word characters (ASCII letters, digits, underscore) and runs of everything else.
_RUNS = re.compile(r"[A-Za-z0-9_]+|[^A-Za-z0-9_]+")
#: What would end a line of a vocabulary file.
_BREAKS = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def tokenize(sentence: str) -> list[str]:
    """The tokens of a sentence: lower-cased words, and what stands between them.

    A last token that is exactly ``"."`` is dropped. An accented letter is no word character here and splits its word,
    as it did in CaffeOnSpark, so that vocabularies made there still fit. Line breaks inside of a token become blanks.

    Args:
        sentence: any text; an empty one has no tokens.

    Example:
        >>> tokenize("A man's hat, and a dog.")
        ['a', 'man', "'", 's', 'hat', ',', 'and', 'a', 'dog']
        >>> tokenize("Hi !!"), tokenize("")
        (['hi', '!!'], [])
    """
    runs = (_BREAKS.sub(" ", run.strip()).strip().lower() for run in _RUNS.findall(sentence.strip()))
    tokens = [run for run in runs if run]
    return tokens[:-1] if tokens and tokens[-1] == "." else tokens
