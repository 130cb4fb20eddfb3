"""`SemiSupervisedVAE`: a classifier that learns from rows without a class too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from aevb import codes
from aevb.algorithms import Learner
from aevb.algorithms.semi_supervised import Labeled, SemiSupervised
from aevb.data import Dataset, Rows
from aevb.data.source import UNLABELED
from aevb.devices import tensor_of
from aevb.errors import UsageError
from aevb.estimator.classifier import classes_of, template_of
from aevb.estimator.parameters import Randomness
from aevb.estimator.parts import load_parts, save_parts
from aevb.estimator.reading import take_columns
from aevb.estimator.vae import VAE
from aevb.evaluation import evaluating, in_batches
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.settings import Settings
from aevb.storage import build_with_class
from aevb.storage.learners import gradient_options

Array = NDArray[np.float64]
MODELS = ("m1", "m2", "m1+m2")
FEATURES = 50
"""Latent dimensions of M1, as in the paper."""


class _ClassAndCode(VAE):
    """A `VAE` whose code begins with a class, which is known for some rows: M2."""

    labels: NDArray[np.intp]
    class_count: int
    classification: float

    def with_classes(self, labels: NDArray[np.intp], classes: int, classification: float) -> Self:
        """This model for rows of these classes (N,), numbered from 0, -1 where one is not known."""
        self.labels, self.class_count, self.classification = labels, classes, classification
        return self

    def _built(self, data: Dataset) -> tuple[Model, Posterior]:
        return build_with_class(self.settings_, data, self.class_count)

    def _learner(self, settings: Settings, rows: Rows) -> Learner:
        device = tensor_of(self.model_).device
        known = np.flatnonzero(self.labels != UNLABELED)
        return SemiSupervised(
            *(self.model_, self.posterior_),
            Labeled(torch.from_numpy(self.labels).to(device), rows.take(known).to(device)),
            self.classification,
            **gradient_options(settings, len(rows)),
        )

    def log_probabilities(self, X: Any) -> Array:
        """log q(y given x), (N, K)."""
        return self._by_rows(X, lambda q: q.first.logits)

    def styles(self, X: Any) -> Array:
        """The mean of q(z given x, y) at the most probable class y of each row, (N, D)."""

        def mean(q: Any) -> torch.Tensor:
            likely = torch.eye(q.sizes[0]).to(q.first.logits)[q.first.logits.argmax(-1)]
            found: torch.Tensor = q.links[0](likely).mean
            return found

        return self._by_rows(X, mean)

    def decoded(self, y: NDArray[np.intp], z: Array) -> Array:
        """The mean of p(x given y, z) for classes (N,) and codes (N, D), (N, X)."""
        posterior: Any = self.posterior_
        one_hot = np.eye(posterior.conditional.sizes[0])[y]
        return self._in_units_of_x(codes.decode(self.model_, np.concatenate([one_hot, z], axis=1)))

    def _by_rows(self, X: Any, say: Callable[[Any], torch.Tensor]) -> Array:
        """What is to be said of q(y, z given x), row by row."""
        rows = self._rows(X)
        with evaluating(self.model_, self.posterior_):
            parts = [
                say(self.posterior_(batch)) for _, batch in in_batches(self.model_, rows, 1000)
            ]
        said: Array = torch.cat(parts).numpy()
        return said


class SemiSupervisedVAE(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier from a few rows with a class and many without, by a model of all of them.

        M1      codes of a VAE that is fitted to all rows, and a classifier of codes
        M2      p(x, y, z) = p(y) p(z) p(x given y, z), with q(y given x) q(z given x, y)
        M1+M2   M2 of the codes of M1

    Parameters: `model` "m1", "m2" or "m1+m2"; `estimator`, a `VAE` whose settings are M2's (its
    posterior and prior are the usual ones); `features`, the `VAE` that is M1 (None: 50 latent
    dimensions); `classifier` of M1's codes, any of scikit-learn with probabilities (None: logistic
    regression); `classification`, in M2 the weight of log q(y given x) of a labeled row beside the
    bound of any row.
    Attributes: `classes_`; `features_` and `classifier_` or `joint_`, the parts that `model` has;
    `columns_`, `n_features_in_`, `feature_names_in_`.
    Shapes: X (N, X), y (N,) with -1 for a row whose class is not known; probabilities (N, K).
    Units: log-probabilities and bounds in nats.
    Errors: ValueError, one sentence: fewer than two classes, another model, labels that are
    missing otherwise, and all that `VAE` refuses.
    Source: Kingma et al. (2014), "Semi-supervised learning with deep generative models".
    Example:
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> y[100:] = -1
        >>> small = VAE(5, hidden=(32,), likelihood="gaussian", epochs=2)
        >>> SemiSupervisedVAE(small, model="m2").fit(X / 16, y).predict_proba(X / 16).shape
        (1797, 10)
    """

    def __init__(
        self,
        estimator: VAE | None = None,
        *,
        model: Literal["m1", "m2", "m1+m2"] = "m1+m2",
        features: VAE | None = None,
        classifier: Any = None,
        classification: float = 0.1,
    ) -> None:
        self.estimator = estimator
        self.model = model
        self.features = features
        self.classifier = classifier
        self.classification = classification

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to all rows; the class of a row with y = -1 is not known."""
        for name in ("features_", "classifier_", "joint_", "classes_"):
            self.__dict__.pop(name, None)
        if self.model not in MODELS:
            raise UsageError(f"model must be {', '.join(MODELS)}, found {str(self.model)[:40]!r}")
        joint = self._m2()
        first: VAE = self._m1() if self._has_features else joint
        source = first._source(X, reset=True)
        classes, labels = classes_of(y, source.values, unlabeled=UNLABELED)
        if self._has_features:
            self.features_ = first._fit(source)
        if self.model == "m1":
            known = labels != UNLABELED
            line = LogisticRegression(max_iter=1000) if self.classifier is None else self.classifier
            self.classifier_ = clone(line).fit(first._means(X)[known], classes[labels[known]])
        else:
            joint.with_classes(labels, len(classes), self.classification)
            if joint is not first:
                source = joint._source(first._means(X), reset=True)
            self.joint_ = joint._fit(source)
        self.classes_ = classes
        take_columns(self, first)
        return self

    @property
    def _has_features(self) -> bool:
        return self.model != "m2"

    def _m1(self) -> VAE:
        return template_of(self.features, VAE(FEATURES), "features")

    def _m2(self) -> _ClassAndCode:
        settings = template_of(self.estimator, VAE(FEATURES), "estimator")
        return _ClassAndCode(**settings.get_params(deep=False))

    # -- classes ----------------------------------------------------------------------------------

    def _seen(self, X: Any) -> Any:
        """What the classifier sees of X: its rows, or their codes."""
        check_is_fitted(self)
        return self.features_._means(X) if self._has_features else X

    def predict_log_proba(self, X: Any) -> Array:
        """log q(y given x) of each row and class, (N, K)."""
        seen = self._seen(X)
        if self.model == "m1":
            with np.errstate(divide="ignore"):  # neighbors and trees are sure
                log_proba: Array = np.log(self.classifier_.predict_proba(seen))
            return log_proba
        log_q: Array = self.joint_.log_probabilities(seen)
        return log_q

    def predict_proba(self, X: Any) -> Array:
        """q(y given x) of each row and class, (N, K): each row adds up to 1."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row, (N,)."""
        best = self.predict_log_proba(X).argmax(axis=1)
        chosen: NDArray[Any] = self.classes_[best]
        return chosen

    # -- what a class looks like ------------------------------------------------------------------

    def sample(
        self, n_samples: int = 1, *, y: Any = None, random_state: Randomness = None
    ) -> Array:
        """The mean of p(x given y, z), z from the prior, of a class y or one at random, (n, X)."""
        joint = self._joint()
        seed = joint._seed(random_state)
        drawn = codes.sample_latent(joint.model_, n_samples, seed=seed)
        count = len(self.classes_)
        places = drawn[:, :count].argmax(1) if y is None else np.full(n_samples, self._place(y))
        return self._shown(joint.decoded(places, drawn[:, count:]))

    def analogies(self, X: Any) -> Array:
        """Each row as it would be of each class: its code z held, every y, (N, K, X).

        Source: Kingma et al. (2014), figure 1b.
        """
        joint = self._joint()
        z = joint.styles(self._seen(X))
        each = [joint.decoded(np.full(len(z), k), z) for k in range(len(self.classes_))]
        return np.stack([self._shown(x) for x in each], axis=1)

    def _joint(self) -> _ClassAndCode:
        check_is_fitted(self)
        if self.model == "m1":
            raise UsageError("M1 has no class in its model: choose m2 or m1+m2 for pictures of one")
        return self.joint_

    def _place(self, y: Any) -> int:
        found = np.flatnonzero(self.classes_ == y)
        if len(found) != 1:
            known = ", ".join(map(str, self.classes_[:20]))
            raise UsageError(f"y must be one of the classes {known}, found {str(y)[:40]!r}")
        return int(found[0])

    def _shown(self, x: Array) -> Array:
        """What M2 gives, as rows like X."""
        return self.features_.inverse_transform(x) if self._has_features else x

    # -- files ------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write a folder with a run folder for each part, which `load` reads; data, never code."""
        check_is_fitted(self)
        if self.model == "m1":
            raise UsageError(
                "a classifier of scikit-learn is code, which no file of data can hold: save M1 "
                "alone, features_.save(folder), or choose m2 or m1+m2"
            )
        parts = [self.features_, self.joint_] if self._has_features else [self.joint_]
        facts = {"classification": float(self.classification)}
        save_parts(folder, "SemiSupervisedVAE", self.classes_, parts, facts)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The classifier that `save` wrote."""
        parts = load_parts(folder, "SemiSupervisedVAE")
        *first, last = parts.folders
        joint = _ClassAndCode.load(last)
        new = cls(
            VAE(**joint.get_params(deep=False)),
            model="m1+m2" if first else "m2",
            features=None,
            classification=parts.number("classification"),
        )
        if first:
            new.features_ = VAE.load(first[0])
            new.features = clone(new.features_)
        new.joint_, new.classes_ = joint, parts.classes
        take_columns(new, new.features_ if first else joint)
        return new

    # -- plumbing ---------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")
