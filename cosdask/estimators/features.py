"""A Caffe net's blobs as features for scikit-learn's pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from cosdask.errors import ConfigError
from cosdask.estimators import nets
from cosdask.estimators.base import NetEstimator
from cosdask.estimators.classifier import _labels


class NetFeatures(TransformerMixin, NetEstimator):
    """Blobs of a net as features: trained on the labels first, or with published weights as they are.

    Args:
        net: see :class:`NetClassifier`, as all arguments not named here.
        blobs: names of the blobs, or one name; default: the scores.
        train: None trains where no ``weights`` are given; True fine-tunes from them; False never trains.

    Example:
        >>> rows = np.repeat(np.eye(2, dtype=np.float32), 8, axis=0)
        >>> features = NetFeatures(epochs=1, random_state=0).fit(rows, [0] * 8 + [1] * 8)
        >>> features.transform(rows).shape
        (16, 2)
    """

    def __init__(
        self,
        net: nets.NetLike = None,
        blobs: str | Sequence[str] | None = None,
        *,
        train: bool | None = None,
        solver: Any = "Adam",
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        epochs: float = 30,
        max_iter: int | None = None,
        batch_size: int = 32,
        weights: str | None = None,
        scores: str | None = None,
        column: str = "data",
        client: Any = None,
        folder: str | None = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            net,
            solver=solver,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            epochs=epochs,
            max_iter=max_iter,
            batch_size=batch_size,
            weights=weights,
            scores=scores,
            column=column,
            client=client,
            folder=folder,
            random_state=random_state,
        )
        self.blobs = blobs
        self.train = train

    def _trains(self) -> bool:
        return self.weights is None if self.train is None else self.train

    def fit(self, X: Any, y: Any = None) -> NetFeatures:
        """Train on labels, or only look at the rows' shape.

        Args:
            X: see :meth:`NetClassifier.fit`.
            y: n labels; not looked at where nothing is trained.

        Raises:
            ConfigError: where labels are needed and none are given.
        """
        rows = self._rows(X, reset=True)
        if not self._trains():
            self._open(rows, 1)
            self._check_blobs()
            return self
        if y is None:
            raise ConfigError(
                "this NetFeatures requires y to be passed, but the target y is None: it trains its net, as no weights "
                "are given."
            )
        classes, labels = np.unique(_labels(y), return_inverse=True)
        self._open(rows, len(classes))
        self._check_blobs()
        self._train(rows, labels.astype(np.int64))
        return self

    def _check_blobs(self) -> None:
        for blob in self._names():
            self.net_.batch_axis(blob)

    def _names(self) -> list[str]:
        if self.blobs is None:
            return [self._roles.scores]
        return [self.blobs] if isinstance(self.blobs, str) else list(self.blobs)

    def transform(self, X: Any) -> Any:
        """The blobs of every row, side by side: float32 (n, numbers); a lazy dask array for dask."""
        check_is_fitted(self, "net_")
        return self._blobs(self._rows(X, reset=False), self._names())

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """``<blob>_<number>`` for every number."""
        check_is_fitted(self, "net_")
        names = [f"{blob}_{i}" for blob in self._names() for i in range(self._width(blob))]
        return np.asarray(names, dtype=object)

    def __sklearn_tags__(self) -> Any:
        """Labels are needed where the net is trained; features are float32 whatever comes in."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.target_tags.required = self._trains()
        return tags


__all__ = ["NetFeatures"]
