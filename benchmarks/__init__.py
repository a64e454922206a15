"""Speed, measured: pairs of processes that take turns on the same cores. Run with ``python -m benchmarks.run``."""
