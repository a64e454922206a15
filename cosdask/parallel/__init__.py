"""What happens on Dask workers: the group of ranks that trains, and evaluation and features in ordinary tasks."""

from cosdask.parallel.driver import CaffeOnDask
from cosdask.parallel.results import TrainResult

__all__ = ["CaffeOnDask", "TrainResult"]
