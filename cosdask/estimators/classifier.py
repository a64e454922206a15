"""A Caffe net as scikit-learn's classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_consistent_length, check_is_fitted, column_or_1d

from cosdask.errors import ConfigError, NetError
from cosdask.estimators.base import NetEstimator
from cosdask.estimators.rows import is_dask


class NetClassifier(ClassifierMixin, NetEstimator):
    """Classifies rows with a Caffe net.

    The net may be one for training or for deployment: its data layers are replaced by the rows at hand (an image
    layer's transform still applies), and a softmax loss is added where it has no loss.

    Args:
        net: path or URL, prototxt text, ``NetParameter``, ``NetSpec``, a function of (shape of a row, classes) that
            gives one, or None: the solver's net, else a linear one.
        solver: the name of a rule (``"SGD"``, ``"Adam"``, ...), or a solver prototxt (path, text or message), whose
            settings count before the four that follow.
        learning_rate: Caffe's ``base_lr``.
        momentum: of rules that have one.
        weight_decay: L2, as Caffe counts it.
        epochs: passes over the rows.
        max_iter: iterations, in place of ``epochs``.
        batch_size: rows of a batch, on each worker.
        weights: ``.caffemodel`` or ``.caffemodel.h5`` to begin with, by layer name (fine-tuning); several with commas
            between.
        scores: the blob with a number for each class; default: what the loss reads, else the last one.
        column: dataframes with this column are fed from it: encoded images, raw ones, or arrays.
        client: where to train: None for this process, a ``distributed.Client``, or ``"current"``.
        folder: where a training on a cluster puts its model; workers must see it. Default: a temporary folder here.
        random_state: of the first weights, dropout and the like.

    Attributes:
        classes_: the labels, sorted.
        net_: the trained :class:`cosdask.Net`, TEST phase.
        loss_: of the last iteration.
        n_iter_: iterations made.

    Example:
        >>> rows = np.repeat(np.eye(2, dtype=np.float32), 8, axis=0)
        >>> names = np.repeat(["cat", "dog"], 8)
        >>> NetClassifier(random_state=0, batch_size=16).fit(rows, names).predict([[0, 1], [1, 0]]).tolist()
        ['dog', 'cat']
    """

    def fit(self, X: Any, y: Any) -> NetClassifier:
        """Train.

        Args:
            X: (n, features) or (n, C, H, W), NumPy, pandas or dask; or a dataframe with ``column``.
            y: n labels of any kind.

        Raises:
            ValueError: for rows and labels that scikit-learn refuses.
            CosdaskError: for a net, solver or weights that cannot work.
        """
        rows = self._rows(X, reset=True)
        names = _labels(y)
        if not is_dask(rows):
            check_consistent_length(rows, names)
        self.classes_, labels = np.unique(names, return_inverse=True)
        self._open(rows, len(self.classes_))
        scores = self._width(self._roles.scores)
        if scores < len(self.classes_):
            raise NetError(
                f'"{self._roles.scores}" has {scores} numbers a row, and y has {len(self.classes_)} classes: set '
                "num_output of the layer that makes it, or name another blob with scores=."
            )
        self._train(rows, labels.astype(np.int64))
        return self

    def decision_scores(self, X: Any) -> Any:
        """The net's numbers before the softmax: float32 (n, classes)."""
        check_is_fitted(self, "net_")
        return self._blobs(self._rows(X, reset=False), [self._roles.scores])

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class: (n, classes), in the order of ``classes_``; lazy for dask."""
        scores = self.decision_scores(X)
        known = len(self.classes_)
        if is_dask(scores):
            return scores.map_blocks(_softmax, known, dtype=np.float64, chunks=(scores.chunks[0], (known,)))
        return _softmax(scores, known)

    def predict(self, X: Any) -> Any:
        """The most probable label of each row; lazy for dask."""
        scores = self.decision_scores(X)
        if is_dask(scores):
            return scores.map_blocks(_best, self.classes_, dtype=self.classes_.dtype, drop_axis=1)
        return _best(scores, self.classes_)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of right labels."""
        predicted = self.predict(X)
        found = predicted.compute() if is_dask(predicted) else predicted
        right = found == _labels(y)
        return float(np.average(right, weights=sample_weight))


def _labels(y: Any) -> np.ndarray:
    """Labels as one array."""
    if y is None:
        raise ConfigError("this NetClassifier requires y to be passed, but the target y is None.")
    values = column_or_1d(y.compute() if is_dask(y) else y, warn=True)
    assert_all_finite(values, input_name="y")
    check_classification_targets(values)
    return np.asarray(values)


def _softmax(scores: np.ndarray, known: int) -> np.ndarray:
    own = scores[:, :known].astype(np.float64)
    raised = np.exp(own - own.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _best(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return classes[scores[:, : len(classes)].argmax(axis=1)]


__all__ = ["NetClassifier"]
