"""What both estimators share: their settings, training here or on a cluster, and rows through the trained net."""

from __future__ import annotations

import copy
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from distributed import Client, get_client
from sklearn.base import BaseEstimator, clone
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.validation import validate_data

from cosdask.config import Config
from cosdask.data import frame_source
from cosdask.errors import ConfigError
from cosdask.estimators import nets
from cosdask.estimators.rows import column_table, first_cell, has_column, is_dask, row_table, shaped
from cosdask.nn import Net
from cosdask.nn.layer import Shape
from cosdask.nn.partition import forward_rows, holds_bytes, map_partition
from cosdask.parallel import CaffeOnDask
from cosdask.proto import caffe_pb2, to_text
from cosdask.solver import Engine, Settings
from cosdask.solver.health import LossWatch

#: Iterations between two looks at the loss: each look waits for the step.
_LOOK = 20
#: what scikit-learn's own clones keep besides the parameters: ``set_output`` and ``set_*_request``
_KEPT_BY_CLONES = {"_sklearn_output_config", "_metadata_request", "_skl_callbacks"}
_MOMENTUM_RULES = ("SGD", "Nesterov", "AdaDelta", "Adam")


class NetEstimator(BaseEstimator):
    """Base of the estimators; see :class:`NetClassifier` for the settings."""

    def __init__(
        self,
        net: nets.NetLike = None,
        *,
        solver: Any = "Adam",
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        epochs: float = 30,
        max_iter: int | None = None,
        batch_size: int = 32,
        weights: str | None = None,
        scores: str | None = None,
        column: str = "data",
        client: Any = None,
        folder: str | None = None,
        random_state: Any = None,
    ) -> None:
        self.net = net
        self.solver = solver
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.weights = weights
        self.scores = scores
        self.column = column
        self.client = client
        self.folder = folder
        self.random_state = random_state

    def __sklearn_clone__(self) -> NetEstimator:
        """As scikit-learn clones, but a Dask client is passed on: it cannot be copied."""
        given: dict[str, Any] = {}
        for name in self.get_params(deep=False):
            value = getattr(self, name)
            given[name] = value if isinstance(value, Client) else clone(value, safe=False)
        made = type(self)(**given)
        for name in _KEPT_BY_CLONES & vars(self).keys():
            setattr(made, name, copy.deepcopy(getattr(self, name)))
        return made

    def __getstate__(self) -> dict[str, Any]:
        """As it is stored: without a Dask client, which belongs to this process."""
        state = dict(super().__getstate__())
        return {**state, "client": None} if isinstance(state.get("client"), Client) else state

    # -- rows --------------------------------------------------------------------------------------------------------

    def _rows(self, X: Any, reset: bool) -> Any:
        """Rows as they are worked with: a frame with the fed column, a dask collection, or checked float32 numbers."""
        if has_column(X, self.column):
            if reset:
                self.n_features_in_ = 1
            return X
        if is_dask(X):
            if hasattr(X, "columns"):
                # names and their order; the values are looked at where they are
                validate_data(self, X._meta, reset=reset, skip_check_array=True)
            elif reset:
                self.n_features_in_ = int(np.prod(X.shape[1:]))
            return X
        return validate_data(self, X, reset=reset, dtype=np.float32, allow_nd=True, accept_sparse=False)

    def _row_shape(self, X: Any, roles: nets.Roles) -> Shape:
        if roles.row is not None:
            return roles.row
        if has_column(X, self.column):
            raise ConfigError(
                "the net does not state the size of a row; give it an Input layer with a shape, or a MemoryData layer "
                "with channels, height and width."
            )
        return tuple(int(size) for size in X.shape[1:])

    # -- training ----------------------------------------------------------------------------------------------------

    def _open(self, X: Any, classes: int) -> None:
        """Find the net, and make the one that answers."""
        solver, folder = nets.find_solver(self.solver)
        wanted = nets.solver_net(solver, folder) if self.net is None and solver is not None else self.net
        given = () if has_column(X, self.column) else tuple(int(size) for size in X.shape[1:])
        self._message, self._folder = nets.find_net(wanted, given, classes)
        self._roles = nets.find_roles(self._message, self.scores)
        self._row = self._row_shape(X, self._roles)
        if self._roles.reader is None and has_column(X, self.column) and holds_bytes(first_cell(X, self.column)):
            # pictures for a bare input are read as they are, without a transform
            self._roles = replace(self._roles, reader=caffe_pb2.LayerParameter(type="MemoryData"))
        if self._roles.reader is not None and len(self._row) != 3:
            raise ConfigError(f"the net reads images (C, H, W), and a row of X has the shape {self._row}.")
        self._solver = self._solver_message(solver)
        answering = nets.answering_net(self._message, self._roles, self._row, self.batch_size)
        self.net_ = Net(
            answering,
            "TEST",
            seed=self._solver.random_seed,
            folder=self._folder,
            input_shapes=None if self._roles.reader is None else self._image_shapes(),
        )
        for path in self._weights():
            self.net_.load(path)

    def _image_shapes(self) -> dict[str, Shape]:
        size = self._roles.reader.transform_param.crop_size if self._roles.reader else 0
        row = (self._row[0], size, size) if size else self._row
        return {self._roles.data: (self.batch_size, *row), self._roles.label: (self.batch_size, 1, 1, 1)}

    def _weights(self) -> list[str]:
        return [path.strip() for path in (self.weights or "").split(",") if path.strip()]

    def _solver_message(self, given: caffe_pb2.SolverParameter | None) -> caffe_pb2.SolverParameter:
        if given is None:
            given = caffe_pb2.SolverParameter(type=self.solver, base_lr=self.learning_rate, lr_policy="fixed")
            given.weight_decay = self.weight_decay
            if self.solver in _MOMENTUM_RULES:
                given.momentum = self.momentum
        for name in ("net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param"):
            given.ClearField(name)
        for name in ("test_iter", "test_interval", "test_state", "train_state", "display", "snapshot", "weights"):
            given.ClearField(name)
        given.snapshot_after_train = False
        if given.random_seed < 0 or self.random_state is not None:
            given.random_seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return given

    def _iterations(self, rows: int, ranks: int) -> int:
        if self.max_iter is not None:
            return self.max_iter
        if self._solver.HasField("max_iter"):
            return int(self._solver.max_iter)
        return math.ceil(self.epochs * rows / (self.batch_size * ranks))

    def _train(self, X: Any, labels: np.ndarray) -> None:
        """Train the net on rows and numbers of classes, and take its weights."""
        client = self._client()
        ranks = 1 if client is None else max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        self._solver.max_iter = max(1, self._iterations(len(labels), ranks))
        self._solver.net_param.CopyFrom(nets.training_net(self._message, self._roles, self._row, self.batch_size))
        if client is not None:
            self._train_on(client, ranks, self._distributed(X, labels) if is_dask(X) else self._frame(X, labels))
        else:
            self._train_here(self._frame(_computed(X), labels))
        # the solver's message holds the net as it was trained; nothing asks for it again
        self._solver.ClearField("net_param")
        self.n_iter_ = int(self._solver.max_iter)

    def _frame(self, X: Any, labels: np.ndarray) -> Any:
        if has_column(X, self.column):
            return column_table(X, self.column, labels, self._row, self._roles.reader is not None)
        return row_table(shaped(np.asarray(X), self._row), labels, self._roles.reader is not None)

    def _train_here(self, rows: Any) -> None:
        layer = self._solver.net_param.layer[0]
        source = frame_source(layer, "TRAIN", self._folder, None, frame=rows)
        settings = Settings(weights=",".join(self._weights()) or None, seed=self._solver.random_seed)
        engine = Engine(self._solver, settings, source=source)
        watch = LossWatch("stop", lambda warning: None)
        try:
            while engine.iteration < self._solver.max_iter:
                engine.step()
                if engine.iteration % _LOOK == 0 or engine.iteration == self._solver.max_iter:
                    watch(engine.iteration - 1, engine.loss)
            trained = engine.sync_net().to_blobs(engine.current_params())
            self.loss_ = engine.loss
        finally:
            engine.close()
        self._take(trained)

    def _take(self, blobs: dict[str, list[np.ndarray]]) -> None:
        own = self.net_.to_blobs(self.net_.params)
        self.net_.params = self.net_.from_blobs({name: arrays for name, arrays in blobs.items() if name in own})

    def _client(self) -> Client | None:
        """The cluster to train on: the client given, or the current one."""
        if self.client is None or isinstance(self.client, Client):
            return self.client
        if self.client == "current":
            return get_client()
        raise ConfigError(f'client is None, a distributed.Client or "current", not {self.client!r}.')

    def _train_on(self, client: Client, ranks: int, rows: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="cosdask-fit-") as scratch:
            place = self.folder or scratch
            conf = Path(scratch) / "solver.prototxt"
            conf.write_text(to_text(self._solver))
            model = (
                f"{place.rstrip('/')}/model.caffemodel" if "://" in place else os.path.join(place, "model.caffemodel")
            )
            config = Config(conf=str(conf), model=model, overwrite=True, weights=self.weights or "", clusterSize=ranks)
            frame = rows.to_pandas(types_mapper=pd.ArrowDtype) if hasattr(rows, "to_pandas") else rows
            result = CaffeOnDask(client, config, consumers=[]).train(source=frame)
            self._take(result.params)
            self.loss_ = float(result.history["loss"].iloc[-1]) if len(result.history) else math.nan

    def _distributed(self, X: Any, labels: np.ndarray) -> Any:
        """A dask dataframe of a dask collection's rows with their labels, made where the rows are."""
        import dask.dataframe as dd
        from dask.base import compute
        from dask.delayed import delayed

        parts = _row_parts(X)
        sizes = compute(*[delayed(len)(part) for part in parts])
        starts = np.cumsum([0, *sizes])
        if starts[-1] != len(labels):
            raise ConfigError(f"X has {starts[-1]} rows and y has {len(labels)}.")
        make = delayed(_labelled, pure=True)
        images = self._roles.reader is not None
        column = self.column if has_column(X, self.column) else None
        frames = [
            make(part, labels[start : start + size], self._row, images, column)
            for part, start, size in zip(parts, starts, sizes, strict=False)
        ]
        empty = np.zeros((0, *self._row), np.float32)
        meta = None if column else row_table(empty, labels[:0], images).to_pandas(types_mapper=pd.ArrowDtype)
        return dd.from_delayed(frames, meta=meta, verify_meta=False)

    # -- rows through the net ----------------------------------------------------------------------------------------

    def _blobs(self, X: Any, blobs: Sequence[str]) -> np.ndarray:
        """The blobs of every row, side by side: float32 (n, numbers of all blobs)."""
        width = sum(self._width(blob) for blob in blobs)
        answer = _Answer(self.net_, tuple(blobs), width, self.column, self._row, self._roles, self.batch_size)
        if not is_dask(X):
            return answer(X)
        if hasattr(X, "map_partitions"):
            return X.map_partitions(answer, meta=np.zeros((0, width), np.float32))
        whole = X.rechunk({axis: -1 for axis in range(1, X.ndim)})
        return whole.map_blocks(
            answer,
            dtype=np.float32,
            chunks=(whole.chunks[0], (width,)),
            drop_axis=list(range(1, X.ndim)),
            new_axis=[1],
            meta=np.zeros((0, width), np.float32),
        )

    def _width(self, blob: str) -> int:
        axis = self.net_.batch_axis(blob)
        shape = self.net_.blob_shapes[blob]
        return int(np.prod([size for place, size in enumerate(shape) if place != axis]))


class _Answer:
    """A function from rows to blobs that travels to workers."""

    def __init__(
        self,
        net: Net,
        blobs: tuple[str, ...],
        width: int,
        column: str,
        row: Shape,
        roles: nets.Roles,
        batch: int,
    ) -> None:
        self.net, self.blobs, self.width, self.column, self.row = net, blobs, width, column, row
        self.data, self.images, self.batch = roles.data, roles.reader is not None, batch

    def __call__(self, X: Any) -> np.ndarray:
        if len(X) == 0:
            return np.zeros((0, self.width), np.float32)
        if has_column(X, self.column):
            return self._of_frame(X, self.column)
        rows = shaped(_finite(X), self.row)
        if self.images:
            return self._of_frame(pd.DataFrame({"data": pd.Series(list(rows), dtype=object)}), "data")
        parts = []
        for start in range(0, len(rows), self.batch):
            part = rows[start : start + self.batch]
            found = forward_rows(self.net, {self.data: part}, self.blobs, len(part))
            parts.append(np.concatenate(found, axis=1))
        return np.concatenate(parts)

    def _of_frame(self, frame: pd.DataFrame, column: str) -> np.ndarray:
        found = map_partition(self.net, frame, self.blobs, column, True)
        columns = [np.stack([np.asarray(cell, np.float32) for cell in found[blob]]) for blob in self.blobs]
        return np.concatenate(columns, axis=1)


def _finite(X: Any) -> np.ndarray:
    """Rows as float32, checked where they are: those of dask collections were not looked at before."""
    rows = np.asarray(X, np.float32)
    assert_all_finite(rows, input_name="X")
    return rows


def _computed(X: Any) -> Any:
    return X.compute() if is_dask(X) else X


def _row_parts(X: Any) -> list[Any]:
    """The parts of a dask collection along its rows, as delayed values."""
    if hasattr(X, "map_partitions"):
        return list(X.to_delayed())
    whole = X.rechunk({axis: -1 for axis in range(1, X.ndim)})
    return list(whole.to_delayed().ravel())


def _labelled(part: Any, labels: np.ndarray, row: Shape, images: bool, column: str | None) -> pd.DataFrame:
    if column is not None:
        table = column_table(part, column, labels, row, images)
    else:
        table = row_table(shaped(_finite(part), row), labels, images)
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


__all__ = ["NetEstimator"]
