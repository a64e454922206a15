"""Where workers come from."""

from cosdask.cluster.local import LocalCluster

__all__ = ["LocalCluster"]
