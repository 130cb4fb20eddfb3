"""A number with its certificate: what it estimates, from which side, how well, on which data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevb.data import Rows
from aevb.devices import tensor_of
from aevb.distributions import on_reals
from aevb.errors import UsageError
from aevb.evaluation.pareto import verdict
from aevb.evaluation.weights import Weighted
from aevb.model import Model

SIDES = {
    "lower": "a lower bound on log p(x)",
    "upper": "an upper bound on log p(x)",
    "exact": "the value itself",
}


@dataclass(frozen=True, eq=False)
class Certificate:
    """An estimate for each datum, (N,) nats, with all that one must know to use its mean.

        mean = sum_n values_n / N,   standard_error = sd_n(values) / sqrt(N),
        monte_carlo_error = sqrt(sum_n errors_n^2) / N

    `standard_error` says how far the mean would move with other data, `monte_carlo_error` how far
    with other noise. `direction` is the side the expectation lies on: "lower" than log p(x),
    "upper", or "exact". `effective_sample_size` is the mean over data of (sum w)^2 / sum w^2.
    Shapes: `values` and `errors` (N,), `pareto_k` (N,) or None; `width` is X, the cells of a datum
    that are observed in the mean. Units: nats per datum.
    Source: Burda et al. (2015), section 3, for the side; Owen (2013), "Monte Carlo theory, methods
    and examples", section 9.3, for the effective sample size.
    Example:
        >>> values, errors = np.array([-1.0, -3.0]), np.array([0.3, 0.4])
        >>> about = "importance", "log p(x)", "lower", 1000
        >>> found = Certificate(*about, values, errors, 800.0, 2, "test", "none")
        >>> found.mean, round(found.standard_error, 2), round(found.monte_carlo_error, 2)
        (-2.0, 1.0, 0.25)
    """

    method: str
    estimand: str
    direction: str
    samples: int
    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    effective_sample_size: float
    width: float
    data: str
    binarize: str
    precision: str = "float32"
    """Of the matrix products; densities and sums are float32 at least."""
    pareto_k: NDArray[np.float64] | None = None
    """The shape of the tail of each datum's weights, (N,): see `aevb.evaluation.pareto`."""
    remarks: tuple[str, ...] = ()
    """Sentences that one must have read before the number is used."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the method adds, ready for JSON: temperatures, acceptance, ...."""

    @classmethod
    def of(cls, found: Weighted, rows: Rows, width: float, **facts: Any) -> "Certificate":
        """Of what a method found for each row, arrays (N,), and its `facts`, the other fields."""
        lost = int((~np.isfinite(found.value)).sum())
        remark = (
            f"{lost} of {len(rows)} rows lie so far from what the model can make that their "
            "estimates are not finite: no more is the mean"
        )
        return cls(
            values=found.value,
            errors=found.error,
            effective_sample_size=float(found.ess.mean()),
            pareto_k=found.pareto_k,
            width=width,
            data=rows.name,
            binarize=rows.stated,
            remarks=facts.pop("remarks", ()) + ((remark,) if lost else ()),
            **{"estimand": "log p(x)", **facts},
        )

    @property
    def n(self) -> int:
        """How many data."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Over data, nats."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """How far the mean would move with other data, nats."""
        return standard_error(self.values)

    @property
    def monte_carlo_error(self) -> float:
        """How far the mean would move with other noise, nats."""
        return monte_carlo_error(self.errors)

    @property
    def bits_per_dimension(self) -> float:
        """-mean / (X log 2), X the cells of a datum, those observed in the mean."""
        return -self.mean / (self.width * math.log(2)) if self.width else math.nan

    def as_dict(self) -> dict[str, Any]:
        """The certificate without the values of each datum, ready for JSON."""
        told = {
            "method": self.method,
            "estimand": self.estimand,
            "direction": self.direction,
            "unit": "nats",
            "samples": self.samples,
            "n": self.n,
            "mean": self.mean,
            "standard_error": self.standard_error,
            "monte_carlo_error": self.monte_carlo_error,
            "effective_sample_size": self.effective_sample_size,
            "bits_per_dimension": self.bits_per_dimension,
            "data": self.data,
            "binarize": self.binarize,
            "precision": self.precision,
            "pareto_k": None if self.pareto_k is None else verdict(self.pareto_k, self.samples),
            "remarks": list(self.remarks),
            **self.details,
        }
        return dict(finite(told))

    def __str__(self) -> str:
        side = SIDES[self.direction]
        beside = ", products in bfloat16" if self.precision == "bfloat16" else ""
        return (
            f"{self.estimand}: {self.mean:.2f} ± {self.standard_error:.2f} nats "
            f"({side}, {self.method}, {self.samples} samples, {self.n} data, "
            f"{self.data}, binarize {self.binarize}{beside})"
        )


def standard_error(values: NDArray[np.float64]) -> float:
    """The standard error of the mean of independent values.

        sd(values) / sqrt(N),   sd with divisor N - 1

    Shapes: values (N,); NaN for a single one. Units: those of the values.
    Example:
        >>> round(standard_error(np.array([1.0, 3.0])), 6)
        1.0
    """
    n = len(values)
    with np.errstate(invalid="ignore"):  # a datum may have no density
        return float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def monte_carlo_error(errors: NDArray[np.float64]) -> float:
    """The error of the mean of values with independent errors.

        sqrt(sum_n errors_n^2) / N

    Shapes: errors (N,). Units: those of the errors.
    Example:
        >>> round(monte_carlo_error(np.array([0.3, 0.4])), 6)
        0.25
    """
    return float(np.sqrt(np.square(errors).sum()) / len(errors))


def finite(value: Any) -> Any:
    """A number, or all in a list or dictionary, with None where JSON has none: NaN and infinity.

    Example:
        >>> finite({"mean": math.nan, "bounds": [-1.5, math.inf]})
        {'mean': None, 'bounds': [-1.5, None]}
    """
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_reals(model: Model, method: str) -> None:
    """UsageError for a method that moves codes along a gradient, unless they are free reals."""
    prior = model.prior()
    if len(prior.event_shape) != 1 or not on_reals(prior):
        raise UsageError(
            f"{method} moves codes along a gradient, for which they must be free real numbers, "
            f"found the prior {type(prior).__name__} over {prior.support}: use importance"
        )


def precision_of(model: Model) -> str:
    """The dtype that a model computes in, as it stands beside a number.

    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> precision_of(linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0).double())
        'float64'
    """
    return str(tensor_of(model).dtype).removeprefix("torch.")
