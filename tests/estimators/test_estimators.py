"""Caffe nets as scikit-learn's estimators: its own checks, pipelines, and the kinds of rows that people have."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import cosdask
from cosdask import LocalCluster, NetClassifier, NetFeatures
from cosdask.errors import ConfigError, DataError, NetError, SolverError

HIDDEN = """
layer {{ name: "data" type: "Input" top: "data" {shape} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param {{ num_output: 4
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param {{ num_output: 2
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }}
"""
FREE = HIDDEN.format(shape="")
IMAGES = """
layer { name: "in" type: "MemoryData" top: "data" top: "label" source_class: "ImageDataFrame"
  memory_data_param { source: "x" batch_size: 8 channels: 1 height: 2 width: 2 } transform_param { scale: 0.00390625 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2
  weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@parametrize_with_checks([NetClassifier(), NetFeatures(max_iter=2)])
@pytest.mark.slow
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    """scikit-learn's contract, every check: input, clone, pickle, the same result each time, subsets, and so on."""
    check(estimator)


@pytest.fixture(scope="module")
def moons() -> tuple[np.ndarray, np.ndarray]:
    """Two groups of rows that a line can tell apart."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 32)
    return (rng.normal(0, 0.2, (64, 3)) + 4.0 * labels[:, None] - 2.0).astype(np.float32), np.array(["no", "yes"])[
        labels
    ]


def test_pipelines_searches_and_clones(moons: tuple[np.ndarray, np.ndarray]) -> None:
    """Classifier and features stand in Pipeline, GridSearchCV and cross-validation like any other."""
    X, y = moons
    classifier = NetClassifier(FREE, epochs=10, batch_size=16, random_state=1)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), classifier), {"netclassifier__learning_rate": [1e-6, 0.05]}, cv=2
    )
    search.fit(X, y)
    assert search.best_params_ == {"netclassifier__learning_rate": 0.05} and search.score(X, y) > 0.9
    features = NetFeatures(FREE, blobs=["ip1", "prob"], epochs=5, random_state=1)
    chain = make_pipeline(features, LogisticRegression())
    assert cross_val_score(chain, X, y, cv=2).mean() > 0.9
    fitted = clone(features).fit(X, y)
    assert fitted.transform(X).shape == (64, 6) and fitted.transform(X).dtype == np.float32
    assert fitted.get_feature_names_out()[[0, 5]].tolist() == ["ip1_0", "prob_1"]
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))


def test_clones_and_copies_keep_what_was_set(moons: tuple[np.ndarray, np.ndarray]) -> None:
    """As other estimators: ``set_output`` survives a clone; a fitted one can be stored though it has a client."""
    X, y = moons
    features = NetFeatures(FREE, blobs=["ip1"], max_iter=2, random_state=1).set_output(transform="pandas")
    assert list(clone(features).fit(X, y).transform(X).columns) == [f"ip1_{i}" for i in range(4)]
    fitted = NetClassifier(FREE, max_iter=2, random_state=1).fit(X, y)
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        fitted.client = client
        again = pickle.loads(pickle.dumps(fitted))
    assert again.client is None
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


def test_rows_that_would_be_misread_are_refused(moons: tuple[np.ndarray, np.ndarray]) -> None:
    """Columns in another order, numbers that are none, images with their channels last: an error, no wrong answer."""
    X, y = moons
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    made = NetClassifier(FREE, max_iter=2, random_state=3).fit(dd.from_pandas(frame, npartitions=2), y)
    with pytest.raises(ValueError, match="feature names"):
        made.predict(dd.from_pandas(frame[["b", "a", "c"]], npartitions=2))
    bad = da.from_array(np.where(np.arange(3) == 1, np.nan, X), chunks=(20, 3))
    with pytest.raises(ValueError, match="X contains NaN"):
        made.predict(bad).compute()
    wide = HIDDEN.format(shape="input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } }")
    with pytest.raises(DataError, match="transpose them"):
        NetClassifier(wide, max_iter=1).fit(np.zeros((4, 4, 4, 3), np.float32), [0, 1, 0, 1])


def test_pandas_and_dask_give_what_numpy_gives(moons: tuple[np.ndarray, np.ndarray]) -> None:
    """The same rows as a frame, a dask frame and a dask array: the same answers, lazy for dask."""
    X, y = moons
    made = NetClassifier(FREE, max_iter=20, random_state=3).fit(X, y)
    proba, labels = made.predict_proba(X), made.predict(X)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    of_frame = NetClassifier(FREE, max_iter=20, random_state=3).fit(frame, pd.Series(y))
    np.testing.assert_array_equal(of_frame.predict_proba(frame), proba)
    lazy = made.predict_proba(da.from_array(X, chunks=(20, 2)))
    assert isinstance(lazy, da.Array) and lazy.shape == (64, 2)
    np.testing.assert_allclose(lazy.compute(), proba, atol=1e-6)
    parts = dd.from_pandas(frame, npartitions=3)
    predicted = of_frame.predict(parts)
    assert isinstance(predicted, da.Array) and (predicted.compute() == labels).all()
    of_dask = NetClassifier(FREE, max_iter=20, random_state=3).fit(parts, dd.from_pandas(pd.Series(y), npartitions=3))
    np.testing.assert_allclose(of_dask.predict_proba(frame), proba, atol=1e-6)
    assert of_dask.score(parts, y) == made.score(X, y) > 0.9


def test_images_go_through_the_nets_own_transform() -> None:
    """Encoded pictures in a frame, and the same pixels as an array: one training, one answer; scale is applied once."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    pixels = (rng.integers(0, 60, (24, 1, 2, 2)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    encoded = [cv2.imencode(".png", image[0])[1].tobytes() for image in pixels]
    frame = pd.DataFrame({"data": pd.array(encoded, dtype="object")})
    settings: dict[str, Any] = dict(max_iter=30, learning_rate=0.05, random_state=0)
    of_frame = NetClassifier(IMAGES, **settings).fit(frame, labels)
    of_array = NetClassifier(IMAGES, **settings).fit(pixels.astype(np.float32), labels)
    np.testing.assert_allclose(of_frame.predict_proba(frame), of_array.predict_proba(pixels), atol=1e-5)
    assert of_frame.score(frame, labels) == 1.0
    weight, bias = of_array.net_.to_blobs(of_array.net_.params)["ip"]
    wanted = pixels.reshape(24, 4) / 256 @ weight.T + bias
    np.testing.assert_allclose(of_array.decision_scores(pixels), wanted, atol=1e-5)


def test_fine_tuning_and_features_from_published_weights(moons: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Weights by layer name; NetFeatures with weights needs no labels and leaves them as they are."""
    X, y = moons
    path = str(tmp_path / "published.caffemodel")
    first = NetClassifier(FREE, max_iter=40, random_state=0).fit(X, y)
    first.net_.save(path)
    features = NetFeatures(FREE, blobs="ip1", weights=path).fit(X)
    wanted = first.net_.forward({"data": X[:32]}, ["ip1"])["ip1"]
    np.testing.assert_allclose(features.transform(X)[:32], wanted, rtol=1e-5)
    assert features.get_params()["weights"] == path
    tuned = NetClassifier(FREE, max_iter=1, learning_rate=1e-6, weights=path).fit(X, y)
    assert tuned.score(X, y) == first.score(X, y) > 0.9
    with pytest.raises(ConfigError, match="requires y"):
        NetFeatures(FREE).fit(X)


def test_solver_files_and_functions_say_the_rest(moons: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """A solver prototxt brings net and settings; a function makes a net for the rows and classes at hand."""
    X, y = moons
    (tmp_path / "net.prototxt").write_text(HIDDEN.format(shape="input_param { shape { dim: 1 dim: 3 } }"))
    solver = tmp_path / "solver.prototxt"
    solver.write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 25 random_seed: 5')
    made = NetClassifier(solver=str(solver)).fit(X, y)
    assert made.n_iter_ == 25 and made.score(X, y) > 0.9

    def build(shape: tuple[int, ...], classes: int) -> str:
        assert (shape, classes) == ((3,), 2)
        return FREE

    assert NetClassifier(build, max_iter=2).fit(X, y).n_iter_ == 2


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (dict(net=FREE.replace("num_output: 2", "num_output: 1")), NetError, "1 numbers a row, and y has 2 classes"),
        (dict(net=FREE, scores="ip3"), NetError, 'no blob "ip3".*"ip2"'),
        (dict(net=7), ConfigError, "not int"),
        (dict(solver="Adm"), Exception, '"Adm".*"Adam"'),
        (dict(net=FREE, solver="SGD", learning_rate=1e38, max_iter=5), SolverError, "loss of iteration 4 is nan"),
        (dict(net=FREE, client="tcp://x"), ConfigError, 'distributed.Client or "current"'),
        (dict(net=HIDDEN.format(shape="input_param { shape { dim: 1 dim: 4 } }")), Exception, r"\(3,\).*\(4,\)"),
    ],
)
def test_mistakes_are_named(
    settings: dict[str, Any], error: type[Exception], words: str, moons: tuple[np.ndarray, np.ndarray]
) -> None:
    """Invariant 8, before anything is trained."""
    with pytest.raises(error, match=words):
        NetClassifier(**{"max_iter": 1, **settings}).fit(*moons)


@pytest.mark.slow
def test_a_cluster_trains_from_where_the_rows_are(moons: tuple[np.ndarray, np.ndarray]) -> None:
    """With a client the group of workers trains, also from a dask dataframe; clone passes the client on."""
    X, y = moons
    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
        made = NetClassifier(FREE, epochs=5, batch_size=8, random_state=3, client=client)
        assert clone(made).client is client
        of_array = made.fit(X, y)
        # five times 64 rows, of which two workers take 16 an iteration
        assert of_array.n_iter_ == 20
        assert of_array.score(X, y) > 0.9
        parts = dd.from_pandas(pd.DataFrame(X), npartitions=4)
        of_dask = NetClassifier(FREE, max_iter=20, batch_size=8, random_state=3, client="current").fit(parts, y)
        assert of_dask.score(parts, y) > 0.9
        np.testing.assert_allclose(of_dask.predict_proba(X), of_array.predict_proba(X), atol=1e-5)


def test_without_scikit_learn_the_error_says_what_to_install(repository: Path) -> None:
    """scikit-learn is an extra: cosdask imports without it, and its estimators say what is missing."""
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import cosdask\n"
        "try: cosdask.NetClassifier\n"
        "except cosdask.errors.ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, timeout=120)
    assert "cosdask[demo]" in done.stdout, done.stderr
    assert cosdask.NetFeatures is NetFeatures
