"""pycaffe's solvers: ``SGDSolver`` and the others, whose nets can be looked at and operated on between steps."""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import Any, ClassVar

import jax
import numpy as np

from cosdask import device
from cosdask.errors import SolverError, did_you_mean
from cosdask.events import Event, Progress, Snapshot, Validation, ValidationStarted
from cosdask.nn.execute import Params
from cosdask.proto import caffe_pb2, initial_weights
from cosdask.pycaffe import state
from cosdask.pycaffe.net import Net
from cosdask.solver.engine import plain_outputs, solver_message
from cosdask.solver.nets import NetSource, snapshot_prefix, test_nets, train_net
from cosdask.solver.policies import policy_step
from cosdask.solver.snapshots import history_from_blobs, model_of, read_state, snapshot_names, write_snapshot
from cosdask.solver.step import Gradient, State, TrainStep
from cosdask.view.caffe_lines import caffe_lines


class Solver:
    """Trains a net by the method that its ``type`` names; see :func:`get_solver`.

    After a step ``net.blobs`` hold the values and gradients of its last batch, ``net.params`` the new weights, and the
    ``diff`` of each weight what the step subtracted from it, as in Caffe. What is written to ``net.params`` is what the
    next step starts from.

    Args:
        solver_file: a solver prototxt, or a ``SolverParameter``.

    Raises:
        ProtoError, SolverError, NetError, DataError, WeightsError: naming file and place.
    """

    #: the solver's type, whatever the file says; None for what the file says
    type: ClassVar[str | None] = None

    def __init__(self, solver_file: str | os.PathLike[str] | caffe_pb2.SolverParameter) -> None:
        message, self._path = solver_message(solver_file)
        self.param = caffe_pb2.SolverParameter()
        self.param.CopyFrom(message)
        if self.type is not None:
            self.param.type = self.type
        seed = self.param.random_seed if self.param.random_seed >= 0 else state.seed()
        self.net: Net = _open(train_net(self.param, self._path), seed)
        self._functions = TrainStep(self.net.pure, self.param, _as_they_are, seed)
        for path in initial_weights(self.param, self._path):
            self.net.copy_from(path)
        self.test_nets: list[Net] = [_open(named, seed) for named in test_nets(self.param, self._path)]
        for net in self.test_nets:
            net.share_with(self.net)
        self.iter = 0
        self._history = self._functions.start(self._params()).history
        self._losses: deque[Any] = deque(maxlen=max(1, self.param.average_loss))
        self._flying: deque[Any] = deque()
        self._snapshot_at: int | None = None
        self._update = device.compile_function(self._changed, donate=[1])

    def _params(self) -> Params:
        return {key: blob.values.device() for key, blob in self.net.weights.items()}

    @property
    def lr(self) -> float:
        """The learning rate of the next iteration."""
        return float(self._functions.scalars(self.iter)[0])

    # -- training ----------------------------------------------------------------------------------------------------

    def step(self, iterations: int) -> None:
        """Make iterations, with the tests, log lines and snapshots that fall due."""
        for _ in range(iterations):
            self._test_if_due()
            self._iterate()
            if self.param.snapshot > 0 and self.iter % self.param.snapshot == 0:
                self.snapshot()

    def _test_if_due(self) -> None:
        interval = self.param.test_interval
        if interval and self.iter % interval == 0 and (self.iter > 0 or self.param.test_initialization):
            self.test_all()

    def _iterate(self) -> None:
        """One iteration: ``iter_size`` times forward and backward, then the update."""
        self.net.clear_param_diffs()
        losses = [self.net.forward_backward() for _ in range(self.param.iter_size)]
        self._losses.append(losses)
        # the host stays two iterations ahead of the device at most: their batches are all that waits in memory
        self._flying.append(losses[-1])
        if len(self._flying) > 2:
            jax.block_until_ready(self._flying.popleft())
        if self.param.display > 0 and self.iter % self.param.display == 0:
            self._display()
        self.apply_update()

    def apply_update(self) -> None:
        """Change the weights by the gradients that they hold, and count the iteration."""
        weights = self.net.weights
        params = self._params()
        grads = {key: blob.gradients.device() for key, blob in weights.items()}
        sums = {key: params[key] for key in self._functions.sum_keys}
        rate, correction = self._functions.scalars(self.iter)
        after, self._history, changes = self._update(params, self._history, grads, sums, rate, correction)
        for key, change in changes.items():
            weights[key].put(after[key])
            weights[key].put_diff(change)
        self.iter += 1

    def _changed(
        self, params: Params, history: Any, grads: Params, sums: Params, rate: Any, correction: Any
    ) -> tuple[Params, Any, Params]:
        """Weights and history after the update, and what it subtracts; pure. The history's memory is used again."""
        gradient = Gradient(grads, sums, _ZERO, _ZERO, {})
        after, changes = self._functions.update_and_changes(State(params, history), gradient, rate, correction)
        return after.params, after.history, changes

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Train to ``max_iter``, then snapshot and test as Caffe does at the end.

        Args:
            resume_file: a solver state to go on from.
        """
        if resume_file is not None:
            self.restore(resume_file)
        self.step(max(0, self.param.max_iter - self.iter))
        if self.param.snapshot_after_train and self._snapshot_at != self.iter:
            self.snapshot()
        if self.param.test_interval and self.iter % self.param.test_interval == 0:
            self.test_all()

    def share_weights(self, net: Net) -> None:
        """Give another net this solver's weights, now and later."""
        net.share_with(self.net)

    # -- testing -----------------------------------------------------------------------------------------------------

    def test_all(self) -> list[dict[str, Any]]:
        """Test every test net over its next ``test_iter`` batches; the mean of each output, by net."""
        return [self._test(index) for index in range(len(self.test_nets))]

    def _test(self, index: int) -> dict[str, Any]:
        self._tell(ValidationStarted(iteration=self.iter, net=index))
        net, batches = self.test_nets[index], self.param.test_iter[index]
        sums: dict[str, np.ndarray] = {}
        for _ in range(batches):
            for name, array in net.forward().items():
                sums[name] = sums.get(name, np.zeros(array.shape)) + array
        means = plain_outputs({name: total / max(1, batches) for name, total in sums.items()})
        weights = {name: net.blob_loss_weights[name] for name in means if net.blob_loss_weights[name]}
        rows = batches * net.blobs[net.top_names[net.layers[0].name][0]].num
        self._tell(
            Validation(iteration=self.iter, net=index, outputs=means, loss_weights=weights, rows=rows, seconds=0.0)
        )
        return means

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Write the weights and the solver's state where ``snapshot_prefix`` says."""
        names = snapshot_names(snapshot_prefix(self.param, self._path), self.iter, self.param.snapshot_format)
        # Caffe stores the step that the last iteration had, which is not yet that of the next one
        step = policy_step(self.param, max(0, self.iter - 1))
        write_snapshot(self.net.pure, State(self._params(), self._history), self.iter, step, names)
        self._snapshot_at = self.iter
        form = caffe_pb2.SolverParameter.SnapshotFormat.Name(self.param.snapshot_format)
        self._tell(Snapshot(iteration=self.iter, model=names[0], state=names[1], format=form))

    def restore(self, state_file: str | os.PathLike[str]) -> None:
        """Go on from a solver state, Caffe's or cosdask's: weights, history, iteration, and place in the data.

        Raises:
            WeightsError, StorageError: for files that do not fit or are missing.
        """
        path = os.fspath(state_file)
        saved = read_state(path)
        self.net.copy_from(model_of(saved, path))
        self._history = history_from_blobs(self.net.pure, saved.history, self._functions.rule.slots, path)
        self.iter = saved.iteration
        self._losses.clear()
        self.net.seek(self.iter * self.param.iter_size)

    # -- what it says ------------------------------------------------------------------------------------------------

    def _display(self) -> None:
        outputs = plain_outputs({name: self.net.blobs[name].data for name in self.net.outputs})
        weights = {name: self.net.blob_loss_weights[name] for name in outputs if self.net.blob_loss_weights[name]}
        loss = float(np.mean([np.mean([float(loss) for loss in losses]) for losses in self._losses]))
        event = Progress(rank=0, iteration=self.iter, loss=loss, lr=self.lr, outputs=outputs, loss_weights=weights)
        self._tell(event)

    def _tell(self, event: Event) -> None:
        if state.logs():
            for line in caffe_lines(event):
                print(line, file=sys.stderr)

    def __repr__(self) -> str:
        return f"<caffe.{type(self).__name__}: iteration {self.iter} of {self.param.max_iter}>"


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum."""

    type = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient."""

    type = "Nesterov"


class AdaGradSolver(Solver):
    """AdaGrad (Duchi et al. 2011)."""

    type = "AdaGrad"


class RMSPropSolver(Solver):
    """RMSProp (Tieleman and Hinton 2012)."""

    type = "RMSProp"


class AdaDeltaSolver(Solver):
    """AdaDelta (Zeiler 2012)."""

    type = "AdaDelta"


class AdamSolver(Solver):
    """Adam (Kingma and Ba 2015)."""

    type = "Adam"


_SOLVERS: dict[str, type[Solver]] = {
    str(cls.type): cls for cls in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(solver_file: str | os.PathLike[str] | caffe_pb2.SolverParameter) -> Solver:
    """The solver of the type that the file names.

    Raises:
        SolverError: for an unknown type; and what :class:`Solver` raises.
    """
    kind = solver_message(solver_file)[0].type
    if kind not in _SOLVERS:
        raise SolverError(f'unknown solver type "{kind}".{did_you_mean(kind, _SOLVERS)}')
    return _SOLVERS[kind](solver_file)


_ZERO: Any = np.float32(0)


def _as_they_are(raw: Any, xp: Any = np) -> Any:
    """What feeds a net in pycaffe is finished already."""
    return raw


def _open(named: NetSource, seed: int) -> Net:
    return Net.of_source(named, seed)


__all__ = [
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "get_solver",
]
