"""Snapshots: a weights file and a solver state beside it, in Caffe's two formats, each whole or absent."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from cosdask.device import on_device
from cosdask.errors import WeightsError
from cosdask.nn.execute import from_caffe, to_caffe
from cosdask.nn.net import Net
from cosdask.nn.weights import open_hdf5, read_numbers, save_weights
from cosdask.proto import array_to_blob, blob_to_array, caffe_pb2, read_binary
from cosdask.solver.step import History, State
from cosdask.storage import atomic_write, exists, parent, resolve

HDF5 = caffe_pb2.SolverParameter.HDF5


@dataclass(frozen=True)
class SavedState:
    """What a ``.solverstate`` holds."""

    iteration: int
    learned_net: str
    current_step: int
    history: list[np.ndarray]


def snapshot_names(prefix: str, iteration: int, snapshot_format: int) -> tuple[str, str]:
    """File names of a snapshot's model and state, as Caffe forms them.

    Example:
        >>> snapshot_names("lenet", 100, HDF5)
        ('lenet_iter_100.caffemodel.h5', 'lenet_iter_100.solverstate.h5')
    """
    suffix = ".h5" if snapshot_format == HDF5 else ""
    stem = f"{prefix}_iter_{iteration}"
    return f"{stem}.caffemodel{suffix}", f"{stem}.solverstate{suffix}"


def write_snapshot(net: Net, state: State, iteration: int, current_step: int, names: tuple[str, str]) -> None:
    """Write a snapshot pair: the model first, the state last, each beside its place and then renamed.

    Args:
        net: says the shapes; its own weights are not looked at.
        state: weights and history.
        iteration: iterations done.
        current_step: of the learning-rate policy, as Caffe counts it.
        names: paths of model and state.
    """
    model, where = names
    save_weights(model, net, net.to_blobs(state.params))
    saved = SavedState(iteration, model, current_step, history_to_blobs(net, state.history))
    atomic_write(where, _state_to_hdf5(saved) if where.endswith(".h5") else _state_to_binary(saved))


def read_state(path: str) -> SavedState:
    """Read a ``.solverstate`` or ``.solverstate.h5``.

    Raises:
        WeightsError: for a file that is none.
    """
    return _state_from_hdf5(path) if path.endswith(".h5") else _state_from_binary(path)


def model_of(state: SavedState, path: str) -> str:
    """The weights file that a state names, in the working directory or beside the state.

    Raises:
        StorageError: where it is in neither place.
    """
    beside = os.path.join(parent(path), os.path.basename(state.learned_net))
    return beside if not exists(state.learned_net) and exists(beside) else resolve(state.learned_net, parent(path))


def history_to_blobs(net: Net, history: History) -> list[np.ndarray]:
    """The history in the order of Caffe's solver state: slot by slot, each over all weights, in Caffe's shapes."""
    owned = net.graph.owned
    slots = len(next(iter(history.values()))) if history else 0
    return [
        np.asarray(to_caffe(np.asarray(history[key][slot]), ref.weight.axes))
        for slot in range(slots)
        for key, ref in owned.items()
    ]


def history_from_blobs(net: Net, blobs: list[np.ndarray], slots: int, path: str) -> History:
    """The history from a solver state's blobs.

    Raises:
        WeightsError: where number or shapes do not fit the net and the solver.
    """
    owned = list(net.graph.owned.items())
    if len(blobs) != slots * len(owned):
        raise WeightsError(
            f"{path}: holds {len(blobs)} history blob(s), but this net and solver have {slots * len(owned)}; "
            "is it of another net or another solver type?",
            path=path,
        )
    history: dict[str, list[jnp.ndarray]] = {key: [] for key, _ in owned}
    for (key, ref), blob in zip(owned * slots, blobs, strict=True):
        if blob.size != np.prod(ref.weight.shape, dtype=int):
            raise WeightsError(
                f'{path}: the history of layer "{ref.owner}" has shape {blob.shape}, the weight {ref.weight.shape}.',
                path=path,
                layer=ref.owner,
            )
        whole = np.asarray(blob, np.float32).reshape(ref.weight.shape)
        history[key].append(on_device(from_caffe(whole, ref.weight.axes)))
    return {key: tuple(arrays) for key, arrays in history.items()}


def _state_to_binary(saved: SavedState) -> bytes:
    message = caffe_pb2.SolverState(
        iter=saved.iteration, learned_net=saved.learned_net, current_step=saved.current_step
    )
    for array in saved.history:
        message.history.append(array_to_blob(array))
    return message.SerializeToString(deterministic=True)


def _state_from_binary(path: str) -> SavedState:
    message = read_binary(path, caffe_pb2.SolverState())
    return SavedState(
        message.iter, message.learned_net, message.current_step, [blob_to_array(blob) for blob in message.history]
    )


def _state_to_hdf5(saved: SavedState) -> bytes:
    import h5py  # loaded by those who write HDF5 only

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("iter", data=np.array([saved.iteration], np.int32))
        name = saved.learned_net.encode()
        # one byte more than the name: Caffe reads it as a C string
        file.create_dataset("learned_net", data=np.array(name, dtype=f"S{len(name) + 1}"))
        file.create_dataset("current_step", data=np.array([saved.current_step], np.int32))
        group = file.create_group("history")
        for position, array in enumerate(saved.history):
            group.create_dataset(str(position), data=array)
    return buffer.getvalue()


def _state_from_hdf5(path: str) -> SavedState:
    with open_hdf5(path) as file:
        missing = [name for name in ("iter", "learned_net", "current_step", "history") if name not in file]
        if missing:
            raise WeightsError(f"{path}: lacks {', '.join(missing)}; is it a solver state?", path=path)
        history = file["history"]
        return SavedState(
            int(read_numbers(path, file, "iter").ravel()[0]),
            bytes(file["learned_net"][()]).rstrip(b"\0").decode(),
            int(read_numbers(path, file, "current_step").ravel()[0]),
            [read_numbers(path, history, str(position)) for position in range(len(history))],
        )
