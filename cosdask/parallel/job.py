"""What a rank is told: everything it needs to take part in a training, as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from cosdask.parallel.packed import pack, unpack

#: options of a Config that a job carries under the same names
JOB_OPTIONS = (
    "devices", "rank_silence", "step_deadline", "checkpoint_seconds", "on_nan", "warmup", "wire", "precision",
    "global_batch_norm", "global_loss", "interface", "transform_thread_per_device",
)  # fmt: skip
#: characters of JSON from which on a job travels packed
_PACKED_FROM = 1 << 16
_PACKED = "zlib:"


def regrouped(groups: list[list[int]], iteration: int, devices: int, rows: int) -> list[list[int]]:
    """The sizes that a group has had, where it goes on from an iteration with this size.

    Args:
        groups: before; those that began at the iteration or later are undone by going back to it.
        iteration: that the new group starts from.
        devices: that it has.
        rows: that each of them takes in an iteration.

    Example:
        >>> regrouped([[0, 4, 64], [150, 3, 64]], 200, 2, 64)
        [[0, 4, 64], [150, 3, 64], [200, 2, 64]]
        >>> regrouped([[0, 4, 64], [150, 3, 64]], 150, 4, 64)
        [[0, 4, 64]]
    """
    kept = [group for group in groups if group[0] < iteration]
    if not kept:
        return [[0, devices, rows]]
    if kept[-1][1:] != [devices, rows]:
        kept.append([iteration, devices, rows])
    return kept


@dataclasses.dataclass(frozen=True)
class Job:
    """One training by one group.

    Attributes:
        run_id: names the run; also the topic of its events.
        generation: number of the group within the run; a new one forms after a death.
        solver: text of the solver's message, nets included.
        source: the TRAIN source's specification.
        test_sources: the specification of each test net's source.
        model: where the final model goes; the run folder and the snapshots lie beside it.
        weights: initial weights, or "".
        snapshot: solver state to start from, or "".
        seed: of fillers, transforms and random layers.
        validate: whether to test while training and at the end.
        devices: devices a rank.
        world: number of ranks.
        coordinator: ``host:port`` where the ranks meet.
        threads: CPU threads of each rank, by rank.
        members: for each rank its worker's address, name and host.
        deadline: seconds that a rendezvous may take.
        pace: seconds between two progress events of rank 0.
        rank_silence: seconds without a sign of life after which a rank is ended.
        step_deadline: seconds that one step may take before the rank is ended.
        checkpoint_seconds: seconds between automatic checkpoints; 0 for none.
        on_nan: ``"stop"`` or ``"warn"``: what a loss that is not a number does.
        lr_scale: what every learning rate is multiplied with.
        warmup: iterations in which that factor grows from 1 to its full value.
        wire: number format of gradients between ranks, ``"float32"`` or ``"bfloat16"``.
        plugins: the user's own layers and sources, pickled by the client, base64.
        precision: of the nets.
        global_batch_norm, global_loss: what ranks share inside of a step.
        locality: how much of the rows lies on its reader's host; see :class:`cosdask.parallel.locality.Arrangement`.
        groups: the sizes that the group has had, the present one last: ``[iteration, devices, rows an iteration and
            device]``; see :func:`regrouped`.
        interface: network interface or network on which the ranks meet; "" for the one that Dask uses.
        transform_thread_per_device: threads that decode for each device; 1, CaffeOnSpark's default, leaves it to us.
    """

    run_id: str
    solver: str
    source: dict[str, Any]
    test_sources: list[dict[str, Any]]
    model: str
    seed: int
    world: int
    members: list[dict[str, Any]]
    threads: list[int]
    generation: int = 0
    weights: str = ""
    snapshot: str = ""
    validate: bool = False
    devices: int = 1
    coordinator: str = ""
    deadline: float = 60.0
    pace: float = 0.5
    rank_silence: float = 30.0
    step_deadline: float = 1800.0
    checkpoint_seconds: float = 300.0
    on_nan: str = "stop"
    lr_scale: float = 1.0
    warmup: int = 0
    wire: str = "float32"
    plugins: str = ""
    precision: str = "float32"
    global_batch_norm: bool = False
    global_loss: bool = False
    locality: dict[str, Any] = dataclasses.field(default_factory=dict)
    interface: str = ""
    transform_thread_per_device: int = 1
    groups: list[list[int]] = dataclasses.field(default_factory=list)

    def to_json(self) -> str:
        """One line of text: JSON, packed where it is long, as with the index of a source of many blocks.

        The scheduler passes it on once a rank.
        """
        text = json.dumps(vars(self), separators=(",", ":"))
        if len(text) < _PACKED_FROM:
            return text
        return _PACKED + pack(text)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that :meth:`to_json` wrote."""
        if text.startswith(_PACKED):
            text = unpack(text[len(_PACKED) :])
        return cls(**json.loads(text))

    def decoding_threads(self, rank: int) -> int:
        """Threads that decode for each device of a rank: as many as were asked for, else as many as the rank has."""
        asked = self.transform_thread_per_device
        return asked if asked > 1 else max(1, self.threads[rank])

    @property
    def hosts(self) -> list[str]:
        """Where each rank is reached, by rank."""
        return [str(member["host"]) for member in self.members]

    @property
    def topic(self) -> str:
        """The Dask topic of the run's events."""
        return f"cosdask-{self.run_id}"
