"""`VAEClassifier`: Bayes' rule over one model for each class."""

import math
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from aevb.data.arrays import of_tensor
from aevb.errors import DataError, UsageError
from aevb.estimator.detector import VAEDetector
from aevb.estimator.parts import load_parts, save_parts
from aevb.estimator.reading import take_columns
from aevb.estimator.vae import VAE
from aevb.evaluation import score_rows

Array = NDArray[np.float64]
NO_CLASS = (None, math.inf, -math.inf)
"""And NaN, which is not even itself."""


class VAEClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that knows what each class looks like: one density for each, and Bayes' rule.

        p(y given x) = p(x given y) p(y) / sum_y' p(x given y') p(y')

    Each log p(x given y) is that of a model fitted to the rows of the class, by importance
    sampling; units, likelihood and starting values are taken from all rows, so that the densities
    can be compared.
    Parameters: `estimator`, the `VAE` that is fitted to each class (None: as it is usual);
    `priors` p(y), in the order of `classes_` (None: the shares of the rows); `samples` of z for
    each row and class.
    Attributes: `classes_`, `priors_`, `models_` (a fitted `VAE` for each class), `columns_`,
    `n_features_in_`, `feature_names_in_`.
    Shapes: X (N, X), y (N,) numbers or texts; probabilities (N, K).
    Units: log-probabilities in nats.
    Errors: ValueError, one sentence: a single class, labels that are missing, priors that are no
    probabilities, and all that `VAE` refuses.
    Source: Bayes' rule; Bishop (2006), section 1.5.4, "generative models"; the estimate of
    log p(x given y) is that of Burda et al. (2015), from below.
    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> settings = VAE(1, hidden=(16,), epochs=60, lr=0.01)
        >>> VAEClassifier(settings).fit(X, y).score(X, y) > 0.8
        True
    """

    def __init__(
        self,
        estimator: VAE | None = None,
        *,
        priors: Sequence[float] | None = None,
        samples: int = 100,
    ) -> None:
        self.estimator = estimator
        self.priors = priors
        self.samples = samples

    def fit(self, X: Any, y: Any) -> Self:
        """Fit a model to the rows of each class."""
        self.__dict__.pop("models_", None)
        template = template_of(self.estimator, VAE(), "estimator")
        source = template._source(X, reset=True)
        classes, codes = classes_of(y, source.values)
        self.classes_ = classes
        self.priors_ = self._check_priors(np.bincount(codes) / len(codes))
        models = [copy(template) for _ in classes]
        for k, model in enumerate(models):
            model._fit(source, np.flatnonzero(codes == k))
        self.models_ = models
        take_columns(self, models[0])
        return self

    def _check_priors(self, shares: Array) -> Array:
        if self.priors is None:
            return shares
        try:
            priors = np.asarray(self.priors, np.float64)
        except (TypeError, ValueError):
            priors = np.empty(0)
        fits = priors.shape == shares.shape and (priors >= 0).all()
        if not fits or not np.isclose(priors.sum(), 1):
            raise UsageError(
                f"priors must be {len(shares)} probabilities that add up to 1, one for each class, "
                f"found {str(self.priors)[:80]}"
            )
        return priors

    def log_likelihoods(self, X: Any) -> Array:
        """log p(x given y) of each row and class, a lower bound by importance sampling, (N, K)."""
        check_is_fitted(self)
        # All were fitted in the same units, so that the rows are read once for all of them.
        rows = self.models_[0]._rows(X)
        each = [
            score_rows(*(*model._pair_for(rows), rows, self.samples), seed=model.settings_.seed)
            for model in self.models_
        ]
        return np.stack(each, axis=1)

    def predict_joint_log_proba(self, X: Any) -> Array:
        """log p(x, y) = log p(x given y) + log p(y) of each row and class, (N, K)."""
        with np.errstate(divide="ignore"):  # a prior of 0 excludes a class
            return self.log_likelihoods(X) + np.log(self.priors_)

    def predict_log_proba(self, X: Any) -> Array:
        """log p(y given x) of each row and class, (N, K)."""
        joint = self.predict_joint_log_proba(X)
        with np.errstate(divide="ignore"):
            # A row so far out that it has no density under any class tells nothing of its own.
            joint[np.isneginf(joint).all(axis=1)] = np.log(self.priors_)
        log_proba: Array = log_softmax(joint, axis=1)
        return log_proba

    def predict_proba(self, X: Any) -> Array:
        """p(y given x) of each row and class, (N, K): each row adds up to 1."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row, (N,)."""
        best = self.predict_log_proba(X).argmax(axis=1)
        chosen: NDArray[Any] = self.classes_[best]
        return chosen

    # -- files ------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write a folder with a run folder for each class, which `load` reads; data, never code."""
        check_is_fitted(self)
        facts = {"priors": self.priors_.tolist(), "samples": self.samples}
        save_parts(folder, "VAEClassifier", self.classes_, self.models_, facts)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The classifier that `save` wrote."""
        parts = load_parts(folder, "VAEClassifier")
        models = [VAE.load(path) for path in parts.folders]
        priors = parts.numbers("priors", len(models))
        classifier = cls(clone(models[0]), priors=priors.tolist(), samples=parts.whole("samples"))
        classifier.classes_, classifier.priors_, classifier.models_ = parts.classes, priors, models
        take_columns(classifier, models[0])
        return classifier

    # -- plumbing ---------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "models_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = bool(getattr(self.estimator, "allow_nan", False))
        return tags


def template_of(given: VAE | None, usual: VAE, name: str) -> VAE:
    """An unfitted copy of what was given, or of what is usual where nothing was.

    Errors: UsageError for another estimator than a `VAE`, which has no density to learn, and for a
    detector, whose threshold nobody would draw.
    """
    if given is not None and (not isinstance(given, VAE) or isinstance(given, VAEDetector)):
        raise UsageError(
            f"{name} must be a VAE, found {type(given).__name__}; steps before it belong into a "
            "pipeline around the classifier"
        )
    copied: VAE = clone(usual if given is None else given)
    return copied


def classes_of(
    y: Any, rows: Any, *, unlabeled: int | None = None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes in y (N,), sorted, and the place of each row's among them, (N,).

    With `unlabeled` a row of that label has no class that is known, and -1 for its place.
    Errors: DataError for labels that are missing or are no classes, or fewer than two classes;
    ValueError for another number of rows.
    """
    if y is None:
        raise DataError(
            "a classifier requires y to be passed, but the target y is None: give a class for "
            "each row"
        )
    y = of_tensor(y)
    if isinstance(y, list | tuple) and any(isinstance(label, str) for label in y):
        y = np.array(y, object)  # numpy would make texts of all of them, of NaN and -1 too
    masked = np.flatnonzero(np.ma.getmask(y))
    y = column_or_1d(y, warn=True)
    labels = y.tolist()
    for row in masked:
        labels[row] = None
    _check_labels(labels, unlabeled)
    check_consistent_length(rows, y)
    known = np.array([unlabeled is None or label != unlabeled for label in labels], bool)
    if not known.any():
        raise DataError(f"y: every row is {unlabeled}, unlabeled: at least two classes are needed")
    named = y[known] if y.dtype != object else np.array(y[known].tolist())  # texts, beside a -1
    check_classification_targets(named)
    classes, codes = np.unique(named, return_inverse=True)
    if len(classes) < 2:
        raise DataError("y must hold at least two classes, found 1 class: there is no choice")
    places = np.full(len(y), -1)
    places[known] = codes
    return classes, places


def _check_labels(labels: list[Any], unlabeled: int | None) -> None:
    missing = [i for i, label in enumerate(labels) if not _is_class(label)]
    if missing:
        found = "infinity" if str(labels[missing[0]]) in ("inf", "-inf") else "NaN"
        cure = "leave these rows out" if unlabeled is None else f"give them {unlabeled}"
        raise DataError(
            f"y, row {missing[0] + 1}: expected a class, found {found} ({len(missing)} such rows "
            f"in all); {cure}"
        )
    if unlabeled is not None and str(unlabeled) in labels:
        raise DataError(
            f"y, row {labels.index(str(unlabeled)) + 1}: found the text '{unlabeled}': among texts "
            f"the number {unlabeled} says that there is no class, in a list or an array of objects"
        )


def _is_class(label: Any) -> bool:
    try:
        return bool(label == label) and label not in NO_CLASS
    except TypeError:  # pandas' NA is neither itself nor another
        return False
