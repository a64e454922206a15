"""Which words follow: greedy choice, drawing, and beam search, each one compiled loop over a recurrent net's steps.

A loop ends when every sentence of the batch has ended, or at the longest length. The net's recurrent state goes from
step to step inside of the loop, so that nothing returns to Python between two words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cosdask.captions.vocab import END, START

Array = jax.Array
States = Mapping[str, Sequence[Array]]
#: (previous words (N,), continuation marks (N,), states) -> (probabilities (N, V), scores before softmax, states)
Step = Callable[[Array, Array, States], tuple[Array, Array, States]]


class Sentences(NamedTuple):
    """Words that a loop chose.

    Attributes:
        words: int32 (N, longest); the end, 0, follows the last word.
        lengths: int32 (N,): words before the end.
        ended: bool (N,): whether the end was chosen, and not only the longest length reached.
        scores: float32 (N,): the sum of the logarithms of the chosen words' probabilities, the end's included.
    """

    words: Any
    lengths: Any
    ended: Any
    scores: Any


class _Hypotheses(NamedTuple):
    """Sentences that grow: the step, the words so far, the last of them, who has ended, scores and states."""

    step: Array
    words: Array
    last: Array
    ended: Array
    scores: Array
    states: Any


def choose_words(
    step: Step, states: States, count: int, longest: int, temperature: float, keys: Array | None = None
) -> Sentences:
    """One sentence a row: greedy, or drawn.

    Args:
        step: one step of the net for ``count`` rows.
        states: what the net's recurrent layers start from.
        count: rows, N.
        longest: most words of a sentence.
        temperature: infinity takes the likeliest word; 1 draws from the probabilities; others draw from the softmax
            of ``temperature x scores``: the larger, the bolder.
        keys: a JAX key a row, for drawing.

    Returns:
        A draw depends on its row's key and the step alone, not on the other rows.
    """

    def choose(probs: Array, scores: Array, number: Array) -> Array:
        if temperature == float("inf"):
            return jnp.argmax(probs, axis=1).astype(jnp.int32)
        logits = jnp.log(probs) if temperature == 1 else jnp.float32(temperature) * scores
        assert keys is not None
        drawn = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, number), row))(keys, logits)
        return drawn.astype(jnp.int32)

    def advance(now: _Hypotheses) -> _Hypotheses:
        probs, scores, after = step(now.last, _marks(now.step, count), now.states)
        chosen = jnp.where(now.ended, END, choose(probs, scores, now.step))
        gained = jnp.log(jnp.take_along_axis(probs, chosen[:, None], axis=1)[:, 0])
        return _Hypotheses(
            now.step + 1,
            now.words.at[:, now.step].set(chosen),
            chosen,
            now.ended | (chosen == END),
            now.scores + jnp.where(now.ended, jnp.float32(0), gained),
            after,
        )

    return _finish(lax.while_loop(_going_on(longest), advance, _start(states, count, longest)))


def beam_words(step: Step, states: States, count: int, longest: int, width: int) -> Sentences:
    """The sentences that a beam search finds: ``width`` for each image, side by side.

    Of each row the ``width`` likeliest beginnings are kept at every step. Those that ended stay and compete with those
    that go on.

    Args:
        step: one step of the net for ``count * width`` rows, those of one image side by side.
        states: what the net's recurrent layers start from, for as many rows.
        count: images, N.
        longest: most words of a sentence.
        width: beginnings kept.
    """
    rows = count * width
    first = _start(states, rows, longest)
    # all beginnings are equal before the first word: only one of them counts
    alone = jnp.where(jnp.arange(width) == 0, jnp.float32(0), -jnp.inf)
    first = first._replace(scores=jnp.tile(alone, count))

    def advance(now: _Hypotheses) -> _Hypotheses:
        probs, _, after = step(now.last, _marks(now.step, rows), now.states)
        gains, words = _next_words(probs, now.ended, width)
        totals = (now.scores[:, None] + gains).reshape(count, width * width)
        scores, best = lax.top_k(totals, width)
        origin = (jnp.arange(count)[:, None] * width + best // width).reshape(rows)
        chosen = jnp.take_along_axis(words.reshape(count, width * width), best, axis=1).reshape(rows)
        return _Hypotheses(
            now.step + 1,
            now.words[origin].at[:, now.step].set(chosen),
            chosen,
            now.ended[origin] | (chosen == END),
            scores.reshape(rows),
            jax.tree.map(lambda state: state[origin], after),
        )

    return _finish(lax.while_loop(_going_on(longest), advance, first))


def best_of(found: Sentences, width: int, length_power: float) -> Sentences:
    """The best of each ``width`` sentences.

    Args:
        found: from :func:`beam_words`, as NumPy arrays.
        width: sentences an image.
        length_power: they are compared by score divided by (words + 1) to this power: 0 compares probabilities as they
            are, which favors short sentences; 1 compares the mean of a word.
    """
    fair = found.scores / (found.lengths + 1.0) ** length_power
    best = np.arange(0, len(fair), width) + fair.reshape(-1, width).argmax(axis=1)
    return Sentences(*(part[best] for part in found))


def _next_words(probs: Array, ended: Array, width: int) -> tuple[Array, Array]:
    """The ``width`` likeliest next words of each beginning, and what they add to its score.

    They are picked by probability and not by sum, in which rounding could make two words equal: a beam of one is
    greedy choice. One that has ended has a single way to go on, which costs nothing.
    """
    likely, words = lax.top_k(probs, width)
    only = jnp.where(jnp.arange(width) == 0, jnp.float32(0), -jnp.inf)
    gains = jnp.where(ended[:, None], only[None, :], jnp.log(likely))
    return gains, jnp.where(ended[:, None], END, words.astype(jnp.int32))


def _start(states: States, rows: int, longest: int) -> _Hypotheses:
    return _Hypotheses(
        jnp.int32(0),
        jnp.full((rows, longest), END, jnp.int32),
        jnp.full((rows,), START, jnp.int32),
        jnp.zeros((rows,), bool),
        jnp.zeros((rows,), jnp.float32),
        dict(states),
    )


def _marks(step: Array, rows: int) -> Array:
    """0 at the first step, which forgets whatever came before; 1 afterwards."""
    return jnp.full((rows,), jnp.where(step == 0, 0.0, 1.0), jnp.float32)


def _going_on(longest: int) -> Callable[[_Hypotheses], Array]:
    return lambda now: (now.step < longest) & ~jnp.all(now.ended)


def _finish(last: _Hypotheses) -> Sentences:
    lengths = jnp.sum(last.words != END, axis=1).astype(jnp.int32)
    return Sentences(last.words, lengths, last.ended, last.scores)
