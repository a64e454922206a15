"""Caffe nets as scikit-learn's estimators: :class:`NetClassifier` and :class:`NetFeatures`."""

from cosdask.errors import ConfigError

try:
    import sklearn  # noqa: F401  (looked for here, so that what is missing is said in words)
except ImportError as _error:
    raise ConfigError(
        "NetClassifier and NetFeatures are scikit-learn estimators, and scikit-learn is not installed: "
        "pip install 'cosdask[demo]'."
    ) from _error

from cosdask.estimators.classifier import NetClassifier
from cosdask.estimators.features import NetFeatures

__all__ = ["NetClassifier", "NetFeatures"]
