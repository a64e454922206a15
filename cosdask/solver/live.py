"""The TRAIN net as users of a solver see it: its weights are always those of the training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosdask.nn.execute import Params
from cosdask.nn.net import Net

if TYPE_CHECKING:
    from cosdask.solver.engine import Engine


class TrainNet(Net):
    """A net whose weights are a training's: reading them gives the current ones, setting them trains on from others.

    Args:
        net: the net that was built for the training.
        engine: the training.
    """

    def __init__(self, net: Net, engine: Engine) -> None:
        self.__dict__.update(net.__dict__, _params=None, _weights_file=None)
        self._engine = engine

    @property
    def params(self) -> Params:
        """A copy of the training's current weights, which stays as it is when training goes on."""
        return self._engine.current_params()

    @params.setter
    def params(self, params: Params) -> None:
        self.check_params(params)
        self._engine.replace_params(params)
        self._weights_file = None

    def copy(self) -> Net:
        """A plain net with the current weights, which training leaves alone."""
        twin = super().copy()
        del twin.__dict__["_engine"]
        return twin
