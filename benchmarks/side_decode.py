"""The other side of reading JPEGs: nothing but OpenCV's decoder, in as many threads as there are cores."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

# As many threads as cores decode; OpenCV's own would come on top.
os.environ["OPENCV_FOR_THREADS_NUM"] = "1"

import cv2
import numpy as np

from benchmarks.cases import side_arguments
from benchmarks.measure import cores, report, time_steps
from benchmarks.pictures import jpegs


def main() -> None:
    """Measure and print."""
    options = side_arguments("bare cv2.imdecode")
    cv2.setNumThreads(0)
    files = [np.frombuffer(data, np.uint8) for data in jpegs()]
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:

        def step(count: int) -> None:
            rows = count * options.batch

            def work(first: int) -> None:
                for row in range(first, rows, threads):
                    cv2.imdecode(files[row % len(files)], cv2.IMREAD_COLOR)

            list(pool.map(work, range(threads)))

        report(time_steps(step, options.steps, options.chunk, options.warmup), threads=threads)


if __name__ == "__main__":
    main()
