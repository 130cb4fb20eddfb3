"""`VAEDetector`: anomalies are rows that the model finds improbable."""

from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from aevb.errors import ModelFileError, UsageError
from aevb.estimator.vae import VAE
from aevb.storage import RunFolder


class VAEDetector(OutlierMixin, VAE):  # type: ignore[misc]
    """A detector of anomalies: a `VAE` and a threshold on log p(x).

        decision(x) = log p(x) - offset,   an outlier where it is negative

    `offset_` is the quantile of the training rows' log p(x) at `contamination`, the share of them
    that is taken for outliers.
    Parameters: `contamination` in (0, 0.5], and those of `VAE`.
    Shapes: X (N, X); decisions (N,). Units: nats. Errors: as `VAE`; ValueError for another share.
    Source: scores by the log-likelihood of a density model, as in scikit-learn's
    `EllipticEnvelope`; what such a score can miss is said in Nalisnick et al. (2019), "Do deep
    generative models know what they don't know?".
    Example:
        >>> from sklearn.datasets import load_digits
        >>> X = load_digits().data[:200] / 16
        >>> detector = VAEDetector(hidden=(32,), epochs=5, contamination=0.05).fit(X)
        >>> int((detector.predict(X) == -1).sum())
        10
    """

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        contamination: float = 0.05,
        **settings: Any,
    ) -> None:
        super().__init__(latent_dim, **settings)
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None, *, X_val: Any = None) -> Self:
        """Fit the model to X, and the threshold to the scores of its rows."""
        self._check_contamination()
        super().fit(X, X_val=X_val)
        return self._draw_the_line(X)

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """One pass over X, and the threshold of the scores of its rows."""
        self._check_contamination()
        super().partial_fit(X)
        return self._draw_the_line(X)

    def _check_contamination(self) -> None:
        number = isinstance(self.contamination, Real)
        if not number or not 0 < self.contamination <= 0.5:
            raise UsageError(
                f"contamination is the share of outliers among the rows, in (0, 0.5], found "
                f"{self.contamination!r}"
            )

    def _draw_the_line(self, X: Any) -> Self:
        self.offset_ = float(np.quantile(self.score_samples(X), self.contamination))
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """log p(x) - offset of each row, (N,): negative for outliers."""
        check_is_fitted(self, "offset_")
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """1 for each row that is like those fitted, -1 for an outlier, (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _own_facts(self) -> dict[str, Any]:
        return {"detector": {"offset": self.offset_, "contamination": self.contamination}}

    def _restore(self, run: RunFolder) -> None:
        super()._restore(run)
        facts = run.config().get("detector")
        if not isinstance(facts, dict) or not {"offset", "contamination"} <= set(facts):
            raise ModelFileError(
                f"{run.path} holds no threshold of a detector: load it by VAE.load, or fit anew"
            )
        self.offset_, self.contamination = float(facts["offset"]), float(facts["contamination"])
