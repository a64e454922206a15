"""Recurrent layers over whole sequences (LSTM, RNN), and the single step LSTMUnit.

Sequences run along axis 0 and samples along axis 1. The sequence indicator ``cont`` (T, N) is 0 where a sequence
starts, which forgets the state before it, and 1 where it goes on. Caption tables of CaffeOnSpark end in -1, which
counts as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Array, Layer, Shape, Weight, count, register
from cosdask.nn.layers.inner_product import product

State = tuple[Array, ...]
Step = Callable[[State, Array, Array], State]


def lstm_step(cell: Array, gates: Array, cont: Array) -> tuple[Array, Array]:
    """One step of an LSTM without peepholes (Hochreiter and Schmidhuber 1997, forget gates of Gers et al. 2000).

    Args:
        cell: the cells before, (N, H).
        gates: sums going into the gates, (N, 4H): input, forget, output, and the new cell values.
        cont: (N, 1), 0 where a sequence starts.

    Returns:
        The cells after and the hidden values, both (N, H).
    """
    entry, forget, exit_, new = jnp.split(gates, 4, axis=1)
    after = cont * jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(entry) * jnp.tanh(new)
    return after, jax.nn.sigmoid(exit_) * jnp.tanh(after)


@register("LSTMUnit")
class LSTMUnit(Layer):
    """One step of an LSTM; see :func:`lstm_step`.

    Bottoms: cells (1, N, H), gate sums (1, N, 4H), cont (1, N). Tops: cells and hidden values, (1, N, H).
    """

    n_bottoms = (3, 3)
    n_tops = (2, 2)
    no_gradient = (2,)

    def setup(self) -> None:
        """Check the shapes.

        Raises:
            NetError: where they are not those above.
        """
        cell, gates, cont = self.bottom_shapes
        fits = len(cell) == 3 and cell[0] == 1 and gates == (1, cell[1], 4 * cell[2]) and cont == (1, cell[1])
        if not fits:
            self.fail(f"needs bottoms (1, N, H), (1, N, 4H) and (1, N), not {cell}, {gates} and {cont}.")
        self.top_shapes = [cell, cell]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The cells after and the hidden values."""
        cell, gates, cont = bottoms
        after, hidden = lstm_step(cell[0], gates[0], lax.stop_gradient(cont[0])[:, None])
        return [after[None], hidden[None]]


class _Recurrent(Layer):
    """What LSTM and RNN share: inputs are projected for all steps at once, then a scan runs over the steps.

    Bottoms: x (T, N, ...), cont (T, N), [static (N, ...), fed to every step], and with ``expose_hidden`` the first
    state (each (1, N, H)). Tops: the outputs (T, N, H), and with ``expose_hidden`` the last state. As in Caffe no
    gradient flows through either state: training does not reach back beyond the T steps of a call.
    """

    n_bottoms = (2, 5)
    n_tops = (1, 3)
    #: number of gates, and of blobs that make up the state
    gates: ClassVar[int]
    n_state: ClassVar[int]

    def setup(self) -> None:
        """Check the bottoms and state the weights.

        Raises:
            NetError: where bottoms or tops do not fit, or num_output is missing.
        """
        param = self.param.recurrent_param
        self.hidden, self.exposed = param.num_output, param.expose_hidden
        if self.hidden < 1:
            self.fail("recurrent_param needs num_output of 1 or more.")
        shown = self.n_state if self.exposed else 0
        self._check_count("bottom", len(self.bottom_shapes), (2 + shown, 3 + shown))
        self._check_count("top", len(self.param.top), (1 + shown, 1 + shown))
        self.static = len(self.bottom_shapes) == 3 + shown
        states = range(len(self.bottom_shapes) - shown, len(self.bottom_shapes))
        self.no_gradient = (1, *states)
        steps, samples = self._check_shapes(shown)
        self.weights = self._weights()
        self.top_shapes = [(steps, samples, self.hidden), *[(1, samples, self.hidden)] * shown]

    def _check_shapes(self, shown: int) -> Shape:
        """T and N."""
        x, cont, *rest = self.bottom_shapes
        if len(x) < 2 or cont != x[:2]:
            self.fail(f"needs bottoms (T, N, ...) and (T, N), the sequence indicators, not {x} and {cont}.")
        if self.static and rest[0][:1] != x[1:2]:
            self.fail(f"the static bottom needs {x[1]} rows, one a sample, not shape {rest[0]}.")
        state = (1, x[1], self.hidden)
        if shown and any(shape != state for shape in rest[-shown:]):
            self.fail(f"expose_hidden needs {shown} bottom(s) of shape {state} at the end, not {rest[-shown:]}.")
        return x[:2]

    def _weights(self) -> list[Weight]:
        """From x, with a bias; from static; from the state: in the order of Caffe's unrolled net."""
        param, wide = self.param.recurrent_param, self.gates * self.hidden
        from_x = Weight((wide, count(self.bottom_shapes[0][2:])), param.weight_filler)
        from_state = Weight((wide, self.hidden), param.weight_filler)
        from_static = [Weight((wide, count(self.bottom_shapes[2][1:])), param.weight_filler)] if self.static else []
        return [from_x, Weight((wide,), param.bias_filler), *from_static, from_state]

    def initial_state(self, batch: int) -> list[Array]:
        """What the first call starts from: zeros, each (batch, H). Empty with ``expose_hidden``: bottoms hold it."""
        return [] if self.exposed else [jnp.zeros((batch, self.hidden), jnp.float32) for _ in range(self.n_state)]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The tops, starting from zero or, with ``expose_hidden``, from the state in the bottoms."""
        return self.forward_with_state(weights, bottoms, self.initial_state(bottoms[0].shape[1]))[0]

    def forward_with_state(
        self, weights: Sequence[Array], bottoms: Sequence[Array], state: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """The tops and the state after the last step.

        Args:
            weights: as :attr:`weights` states them.
            bottoms: see the class.
            state: from :meth:`initial_state` or the call before; without meaning with ``expose_hidden``.
        """
        if self.exposed:
            state = [lax.stop_gradient(bottom[0]) for bottom in bottoms[-self.n_state :]]
        sums = self._input_sums(weights, bottoms)
        cont = jnp.maximum(lax.stop_gradient(bottoms[1]).astype(sums.dtype), 0)[:, :, None]
        first = tuple(blob.astype(sums.dtype) for blob in state)
        last, outputs = self.scan(weights[2 + self.static :], first, sums, cont)
        if self.exposed:
            return [outputs, *(lax.stop_gradient(blob)[None] for blob in last)], []
        return [outputs], list(last)

    def _input_sums(self, weights: Sequence[Array], bottoms: Sequence[Array]) -> Array:
        """What x, bias and static add to the gates of every step, (T, N, gates H): one product for all steps."""
        steps, samples = bottoms[0].shape[:2]
        rows = product(bottoms[0].reshape(steps * samples, -1), weights[0]) + weights[1][None, :]
        sums = rows.reshape(steps, samples, -1)
        if not self.static:
            return sums
        return sums + product(bottoms[2].reshape(samples, -1), weights[2])[None]

    def scan(self, weights: Sequence[Array], state: State, sums: Array, cont: Array) -> tuple[State, Array]:
        """The state after all steps and the outputs (T, N, H); ``weights`` are those behind the inputs'."""
        raise NotImplementedError


def _lstm_state(before: State, gates: Array, cont: Array) -> State:
    cell, hidden = lstm_step(before[1], gates, cont)
    return hidden, cell


def _rnn_state(before: State, sums: Array, cont: Array) -> State:
    return (jnp.tanh(sums),)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan_steps(step: Step, recurrent: Array, state: State, sums: Array, cont: Array) -> tuple[State, Array]:
    """Run the steps of a sequence.

    The gradient of the weights is one product over all steps: differentiating the loop would add a matrix of their size
    up in each of them.

    Args:
        step: the state after a step from the state before, the sums going into the gates (N, G), and cont (N, 1); a
            state begins with the hidden values.
        recurrent: weights from the hidden values, (G, H).
        state: the first one, each (N, H).
        sums: what the inputs add to the gates, (T, N, G).
        cont: (T, N, 1), 0 where a sequence starts.

    Returns:
        The last state, and the hidden values of all steps, (T, N, H).
    """
    return _scan(step, recurrent, state, sums, cont)


def _scan(step: Step, recurrent: Array, state: State, sums: Array, cont: Array) -> tuple[State, Array]:
    def one(before: State, inputs: tuple[Array, Array]) -> tuple[State, Array]:
        after = step(before, inputs[0] + product(inputs[1] * before[0], recurrent), inputs[1])
        return after, after[0]

    return lax.scan(one, state, (sums, cont))


def _scan_forward(step: Step, recurrent: Array, state: State, sums: Array, cont: Array) -> tuple[Any, Any]:
    (last, hiddens), pull = jax.vjp(lambda state, sums: _scan(step, recurrent, state, sums, cont), state, sums)
    before = cont * jnp.concatenate([state[0][None], hiddens[:-1]])
    return (last, hiddens), (pull, before, cont)


def _scan_backward(step: Step, saved: Any, gradients: tuple[State, Array]) -> tuple[Array, State, Array, Array]:
    pull, before, cont = saved
    state, sums = pull(gradients)
    steps = sums.shape[0] * sums.shape[1]
    weights = jnp.dot(sums.reshape(steps, -1).T, before.reshape(steps, -1))
    return weights, state, sums, jnp.zeros_like(cont)


scan_steps.defvjp(_scan_forward, _scan_backward)


@register("LSTM")
class LSTM(_Recurrent):
    """Long short-term memory over sequences; see :func:`lstm_step`. State: hidden values, cells.

    Weights: from x (4H, D), bias (4H), [from static (4H, Ds)], from the hidden values (4H, H).
    """

    gates = 4
    n_state = 2

    def scan(self, weights: Sequence[Array], state: State, sums: Array, cont: Array) -> tuple[State, Array]:
        """The outputs are the hidden values."""
        return scan_steps(_lstm_state, weights[0], state, sums, cont)


@register("RNN")
class RNN(_Recurrent):
    """``h = tanh(W_hh h + W_xh x + b_h)``, output ``o = tanh(W_ho h + b_o)``. State: h.

    Weights: from x (H, D), bias (H), [from static (H, Ds)], from h (H, H), from h to the output (H, H), its bias (H).
    """

    gates = 1
    n_state = 1

    def _weights(self) -> list[Weight]:
        param = self.param.recurrent_param
        to_output = Weight((self.hidden, self.hidden), param.weight_filler)
        return [*super()._weights(), to_output, Weight((self.hidden,), param.bias_filler)]

    def scan(self, weights: Sequence[Array], state: State, sums: Array, cont: Array) -> tuple[State, Array]:
        """The outputs of all steps are made at once, from the hidden values."""
        from_hidden, to_output, bias = weights
        last, hiddens = scan_steps(_rnn_state, from_hidden, state, sums, cont)
        rows = hiddens.reshape(-1, self.hidden) @ to_output.T + bias[None, :]
        return last, jnp.tanh(rows).reshape(hiddens.shape)


__all__ = ["LSTM", "RNN", "LSTMUnit", "lstm_step"]
