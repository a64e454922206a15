"""CaffeOnSpark's MyMLPipeline on Dask: train a net, take features from it, train a logistic regression on them.

The options are CaffeOnSpark's: the first name of -features is what the regression reads, -label what it predicts, and
-output the folder for its model. One more says where it runs; nothing else changes:

    python pipeline.py -conf lenet_solver.prototxt -model out/lenet.caffemodel -features ip1 -label label -output out/lr
    python pipeline.py --cluster yarn --workers 4 --environment venv:///opt/cosdask \
        -conf hdfs:///lenet_solver.prototxt -model hdfs:///lenet.caffemodel -features ip1 -label label -output hdfs:///lr
"""

from __future__ import annotations

import argparse
import io
import sys
from typing import Any

import numpy as np
from distributed import Client
from sklearn.linear_model import LogisticRegression

import cosdask
from cosdask.storage import atomic_write


def open_cluster(options: argparse.Namespace) -> Any:
    """Workers of this machine, or containers of a YARN application."""
    if options.cluster == "local":
        return cosdask.LocalCluster(n_workers=options.workers)
    return cosdask.YarnCluster(
        options.workers,
        environment=options.environment,
        worker_memory=options.worker_memory,
        worker_env=dict(pair.split("=", 1) for pair in options.worker_env),
    )


def matrix(frame: Any, blob: str) -> np.ndarray:
    """A column of features as a matrix, a row a sample."""
    return np.stack([np.asarray(cell, np.float32) for cell in frame[blob]])


def run(client: Client, config: cosdask.Config) -> float:
    """Train, take features, fit and store the regression; the share of test rows that it gets right."""
    cos = cosdask.CaffeOnDask(client, config)
    result = cos.train()
    print(f"trained {result.iterations} iterations: {result.model_path}")

    # features are lazy dask dataframes: rows stay with the workers until they are asked for
    blob, label = config.features[0], config.label
    train = cos.features(cosdask.get_source(config, phase="TRAIN")).compute()
    test = cos.features().compute()

    regression = LogisticRegression(max_iter=200)
    regression.fit(matrix(train, blob), matrix(train, label)[:, 0].astype(int))
    accuracy = float(regression.score(matrix(test, blob), matrix(test, label)[:, 0].astype(int)))
    print(f"logistic regression on {blob}: {accuracy:.4f} of {len(test)} test rows right")

    # plain arrays: whoever reads the model runs no code of it
    model = io.BytesIO()
    np.savez(model, coefficients=regression.coef_, intercepts=regression.intercept_, classes=regression.classes_)
    atomic_write(f"{config.output.rstrip('/')}/logistic_regression.npz", model.getvalue())
    return accuracy


def main(arguments: list[str]) -> float:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--cluster", choices=["local", "yarn"], default="local")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worker-memory", default="4 GiB", help="of a container")
    parser.add_argument("--environment", help="Python of the containers: an archive, venv:///path, python:///path, ...")
    parser.add_argument("--worker-env", action="append", default=[], metavar="NAME=VALUE", help="for the containers")
    own, rest = parser.parse_known_args(arguments)
    config = cosdask.Config.from_args([*rest, "-train"])
    with open_cluster(own) as cluster, Client(cluster) as client:
        return run(client, config)


if __name__ == "__main__":
    main(sys.argv[1:])
