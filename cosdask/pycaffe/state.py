"""What pycaffe keeps for the whole process: mode, device, seed, and the place among several solvers."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass

import jax

from cosdask.errors import ConfigError
from cosdask.events import Warned
from cosdask.view.caffe_lines import caffe_lines


@dataclass
class _State:
    seed: int | None = None
    drawn: int = 0
    device: int = 0
    solver_count: int = 1
    solver_rank: int = 0
    multiprocess: bool = False
    logs: bool = True


_STATE = _State()


def set_random_seed(seed: int) -> None:
    """Make what is random from here on the same each time: the fillers, dropout and crops of nets made after it."""
    _STATE.seed, _STATE.drawn = int(seed), 0


def seed() -> int:
    """The seed of the next net."""
    if _STATE.seed is None:
        return secrets.randbelow(2**31)
    _STATE.drawn += 1
    return (_STATE.seed + 7919 * (_STATE.drawn - 1)) % 2**31


def set_mode_cpu() -> None:
    """Compute on the CPU, also where there is a GPU."""
    jax.config.update("jax_default_device", jax.local_devices(backend="cpu")[0])


def set_mode_gpu() -> None:
    """Compute on the GPU that :func:`set_device` chose, else on the first.

    Raises:
        ConfigError: where JAX sees no GPU.
    """
    if jax.default_backend() == "cpu":
        raise ConfigError(
            "set_mode_gpu: JAX sees no GPU here. Leave the call out, or install cosdask[gpu] on a machine with one."
        )
    set_device(_STATE.device)


def set_device(number: int) -> None:
    """Compute on this GPU from here on; on a machine without one there is only device 0, the CPU.

    Raises:
        ConfigError: where there is no such device.
    """
    devices = jax.local_devices()
    if not 0 <= number < len(devices):
        raise ConfigError(f"set_device({number}): JAX sees {len(devices)} device(s), from 0 on: {devices}.")
    _STATE.device = number
    jax.config.update("jax_default_device", devices[number])


def set_solver_count(count: int) -> None:
    """How many solvers train together; one in a process here: several belong to ``cosdask.CaffeOnDask``.

    Raises:
        ConfigError: for more than one.
    """
    if count != 1:
        raise ConfigError(
            f"set_solver_count({count}): one solver trains in a process; train on several workers or GPUs with "
            "cosdask.CaffeOnDask, or join ranks in one process with cosdask.Solver(ranks=...)."
        )
    _STATE.solver_count = count


def set_solver_rank(rank: int) -> None:
    """This solver's place among those that train together.

    Raises:
        ConfigError: for a rank other than 0.
    """
    if rank != 0:
        raise ConfigError(f"set_solver_rank({rank}): there is one solver in a process, and its rank is 0.")
    _STATE.solver_rank = rank


def set_multiprocess(multiprocess: bool) -> None:
    """Whether solvers train together in several processes; taken note of only."""
    _STATE.multiprocess = bool(multiprocess)


def solver_count() -> int:
    """How many solvers train together."""
    return _STATE.solver_count


def solver_rank() -> int:
    """This solver's place among them."""
    return _STATE.solver_rank


def logs() -> bool:
    """Whether log lines are printed: as for glog's users, ``GLOG_minloglevel`` of 1 and more asks for silence."""
    level = os.environ.get("GLOG_minloglevel", "0").strip()  # noqa: SIM112  (glog's own spelling)
    return _STATE.logs and not (level.isdigit() and int(level) > 0)


def set_logging_disabled() -> None:
    """Print no log lines."""
    _STATE.logs = False


def init_log(level: int = 0) -> None:
    """Print log lines, or with a level of 1 and more none but errors."""
    _STATE.logs = level < 1


def log(text: str) -> None:
    """Print a line as Caffe logs it."""
    if logs():
        for line in caffe_lines(Warned(message=text)):
            print("I" + line[1:], file=sys.stderr)


def has_nccl() -> bool:
    """Whether pycaffe's own NCCL class is there; it is not: JAX and the group do that work."""
    return False
