"""One training step as pure functions: the gradient of a batch, and the update that many gradients make.

The same functions serve a :class:`~cosdask.Solver` in one process and the ranks of a group; only how the gradients of
the ranks come together differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cosdask.device import on_device
from cosdask.errors import SolverError
from cosdask.nn.execute import Params
from cosdask.nn.layer import Array
from cosdask.nn.layers.ops import computed_once, on_cpu
from cosdask.nn.net import Net
from cosdask.nn.precision import products
from cosdask.nn.shared import Shared, sharing
from cosdask.proto import caffe_pb2
from cosdask.solver.policies import learning_rate
from cosdask.solver.rules import bias_correction, get_rule

History = dict[str, tuple[Array, ...]]
Raw = Mapping[str, Any]
Finish = Callable[..., Mapping[str, Any]]


class State(NamedTuple):
    """What training changes: the weights and the solver's history of each."""

    params: Params
    history: History


class Gradient(NamedTuple):
    """What a batch, or several added up, give.

    Attributes:
        grads: summed over the batches.
        sums: running sums after the last batch.
        loss: summed over the batches.
        last_loss: of the last batch.
        outputs: the net's, of the last batch.
    """

    grads: Params
    sums: Params
    loss: Array
    last_loss: Array
    outputs: dict[str, Array]


class TrainStep:
    """The pure functions of a training.

    Args:
        net: the TRAIN net.
        param: the solver's message.
        finish: turns raw arrays of the feed into the net's inputs inside of the compiled step
            (:meth:`cosdask.data.Source.finish`).
        seed: of the random layers (dropout): their numbers are a function of (seed, batch, rank).
    """

    def __init__(self, net: Net, param: caffe_pb2.SolverParameter, finish: Finish, seed: int) -> None:
        self.net, self.param, self.finish, self.seed = net, param, finish, seed
        #: what an iteration's learning rate is multiplied with
        self.rate_factor: Callable[[int], float] = lambda iteration: 1.0
        self.rule = get_rule(param)
        owned = net.graph.owned
        self.sum_keys = [key for key, ref in owned.items() if not ref.weight.learnable]
        self._lr_mult = {key: ref.lr_mult if ref.weight.learnable else 0.0 for key, ref in owned.items()}
        self._decay = {key: param.weight_decay * ref.decay_mult for key, ref in owned.items()}
        self._regularize = _regularization(param)
        self._random = any(node.layer.random for node in net.graph.nodes)
        learning_rate(param, 0)
        #: weights that no step changes, nor their history: passed on, so that frozen layers cost nothing
        self.still: frozenset[str] = frozenset()
        #: what ranks share inside of :meth:`gradient`, which is then mapped over its axis
        self.shared: Shared | None = None

    def start(self, params: Params) -> State:
        """The state before the first step: the history all zeros."""
        # not jnp.zeros_like, which compiles a program for each shape
        history = {
            key: tuple(on_device(np.zeros(value.shape, value.dtype)) for _ in range(self.rule.slots))
            for key, value in params.items()
        }
        return State(params, history)

    def hold_frozen(self, state: State) -> State:
        """Pass frozen weights on from here; one with a history goes on moving by it, as in Caffe."""
        moving = {key for key in self._frozen() if any(bool(jnp.any(slot)) for slot in state.history[key])}
        self.still = self._frozen() - moving
        return state

    def _frozen(self) -> frozenset[str]:
        """Weights whose rate is 0, under rules that then change nothing but a history that is there already."""
        if self.param.type not in ("SGD", "Nesterov"):
            return frozenset()
        return frozenset(key for key, rate in self._lr_mult.items() if rate == 0 and key not in self.sum_keys)

    def gradient(self, params: Params, raw: Raw, batch: Any, rank: Any) -> Gradient:
        """The gradient of the total weighted loss over one batch.

        Args:
            params: weights.
            raw: arrays of the feed for one batch.
            batch: number of the batch in the rank's stream (iteration * iter_size + sub-iteration).
            rank: the rank whose batch it is; with ``batch`` it decides the random layers' numbers.
        """
        inputs = self.finish(raw, xp=jnp)
        rng = self.key(batch, rank)

        def loss(weights: Params) -> tuple[Array, Any]:
            return self.net.loss(weights, inputs, rng)

        # around the backward pass too: hand-written gradients are traced after the forward pass has ended
        with products(self.net.precision), sharing(self.shared):
            (total, (outputs, after)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return Gradient(grads, {key: after[key] for key in self.sum_keys}, total, total, outputs)

    def key(self, batch: Any, rank: Any) -> Array | None:
        """The key of the random layers for a batch; None where there are none."""
        if not self._random:
            return None
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), batch), rank)

    def update(self, state: State, gradient: Gradient, rate: Array, correction: Array) -> State:
        """New weights and history from the gradient, summed over ``iter_size`` and averaged over ranks.

        Caffe's order: clip, divide by ``iter_size``, add the weight decay, apply the rule.

        Args:
            state: before.
            gradient: of all batches of the iteration.
            rate: the learning rate, float32.
            correction: see :func:`cosdask.solver.rules.bias_correction`, float32.
        """
        return self.update_and_changes(state, gradient, rate, correction)[0]

    def update_and_changes(
        self, state: State, gradient: Gradient, rate: Array, correction: Array
    ) -> tuple[State, Params]:
        """:meth:`update`, and what it subtracted from each weight; running sums have no change of their own."""
        grads = self._clip({key: grad for key, grad in gradient.grads.items() if key not in self.still})
        rate = after_all(grads.values(), rate)
        params, history, changes = {}, {}, {}
        # running sums are what the forward pass left; as in Caffe they have a history too, though nothing moves them
        for key, weight in {**state.params, **gradient.sums}.items():
            if key in self.still:
                params[key], history[key], changes[key] = weight, state.history[key], jnp.zeros_like(weight)
                continue
            grad = grads[key] / jnp.float32(self.param.iter_size) if self.param.iter_size > 1 else grads[key]
            grad = self._regularize(grad, weight, self._decay[key])
            local = rate * jnp.float32(self._lr_mult[key])
            change, history[key] = self.rule.update(self.param, grad, state.history[key], local, correction)
            params[key] = weight - change if key not in gradient.sums else weight
            if key not in gradient.sums:
                changes[key] = change
        return State(params, history), changes

    def norm(self, grads: Params, wanted: Array) -> Array:
        """The L2 norm of the mean gradient over an iteration's batches, before clipping and weight decay.

        Reading every gradient once more takes up to a tenth of a step, so it is only done where it is wanted, or
        where clipping does it anyway; else the result is NaN.

        Args:
            grads: summed over ``iter_size`` batches and averaged over ranks.
            wanted: bool scalar.
        """
        grads = {key: grad for key, grad in grads.items() if key not in self.still}
        if self.param.clip_gradients >= 0:
            norm = _norm(grads)
        else:
            norm = lax.cond(wanted, _norm, lambda _: jnp.full((), np.nan, jnp.float32), grads)
        return norm / jnp.float32(self.param.iter_size)

    def scalars(self, iteration: int) -> tuple[np.float32, np.float32]:
        """Learning rate and correction of an iteration, as :meth:`update` takes them."""
        rate = learning_rate(self.param, iteration) * self.rate_factor(iteration)
        return np.float32(rate), np.float32(bias_correction(self.param, iteration))

    def _clip(self, grads: Params) -> Params:
        """Scale all gradients down where their common L2 norm exceeds ``clip_gradients``."""
        limit = self.param.clip_gradients
        if limit < 0:
            return grads
        norm = computed_once(_norm(grads))
        scale = jnp.where(norm > limit, jnp.float32(limit) / norm, jnp.float32(1))
        return {key: grad * scale for key, grad in grads.items()}


def _norm(grads: Params) -> Array:
    return jnp.sqrt(sum((jnp.sum(grad * grad) for grad in grads.values()), jnp.zeros((), jnp.float32)))


def add_gradients(first: Gradient, second: Gradient) -> Gradient:
    """The two together: gradients and losses added, the rest as the second left it."""
    grads = {key: grad + second.grads[key] for key, grad in first.grads.items()}
    return second._replace(grads=grads, loss=first.loss + second.loss)


def after_all(gradients: Iterable[Array], rate: Array) -> Array:
    """The rate as it is, but known only when all gradients are.

    A step writes new weights over the old ones. XLA copies each old one first, unless all that reads it is bound to
    come before: what a layer hands down to the layers below reads its weight, and nothing else orders that before the
    weight's own update. So the rate gets a 0 added that a bit of each gradient goes into.
    """
    bits = []
    for gradient in gradients:
        if gradient.size and gradient.dtype == jnp.float32:
            one = lax.slice(gradient, (0,) * gradient.ndim, (1,) * gradient.ndim).reshape(())
            bits.append(lax.bitcast_convert_type(one, jnp.int32) & 1)
    if not bits or not on_cpu():
        return rate
    negative = jnp.sum(jnp.stack(bits)) < 0  # it never is, which the compiler cannot know
    return computed_once(rate + jnp.where(negative, jnp.float32(1), jnp.float32(0)))


def _regularization(param: caffe_pb2.SolverParameter) -> Callable[[Array, Array, float], Array]:
    kind = param.regularization_type
    if kind not in ("L1", "L2"):
        raise SolverError(f'unknown regularization_type "{kind}". Known: L1, L2.')

    def add(grad: Array, weight: Array, decay: float) -> Array:
        if not decay:
            return grad
        return grad + jnp.float32(decay) * (weight if kind == "L2" else jnp.sign(weight))

    return add
