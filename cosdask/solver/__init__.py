"""Training as Caffe's solvers do it: learning-rate policies, update rules, snapshots, and the solver itself."""

from cosdask.solver.engine import Engine, Settings, solver_message, solver_seed
from cosdask.solver.evaluate import Evaluator, Totals
from cosdask.solver.health import LossWatch
from cosdask.solver.loop import Emit, Loop, Pace
from cosdask.solver.policies import learning_rate
from cosdask.solver.snapshots import read_state, snapshot_names
from cosdask.solver.solver import Solver

__all__ = [
    "Emit",
    "Engine",
    "Evaluator",
    "Loop",
    "LossWatch",
    "Pace",
    "Settings",
    "Solver",
    "Totals",
    "learning_rate",
    "read_state",
    "snapshot_names",
    "solver_message",
    "solver_seed",
]
