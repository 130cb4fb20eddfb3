"""Likelihoods by name: the family of x given z that suits the data, sized for it."""

import math
from collections.abc import Callable

from torch.distributions import Distribution

from aevb import distributions as zoo
from aevb.data import Dataset
from aevb.errors import DataError, UsageError
from aevb.families import (
    LIKELIHOOD_MIN_VARIANCE,
    Bernoulli,
    Categorical,
    Columns,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Elementwise,
    Family,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    Standardized,
    ZeroInflatedNegativeBinomial,
)
from aevb.settings import Settings

OF_CLASSES = ("categorical", "ordinal", "discretized-logistic", "discretized-logistic-mixture")
"""Those whose values are of so many classes, grades or levels."""
MIXED = 5
"""Components of a mixture of discretized logistics."""


def _gaussian(data: Dataset, settings: Settings) -> Family:
    if data.in_unit_interval:
        return Normal(LIKELIHOOD_MIN_VARIANCE, sigmoid_mean=True)
    return _real(math.prod(data.shape))


def _real(width: int) -> Family:
    """Real columns, each with one noise variance for all z, as in factor analysis.

    A variance that the decoder gives can follow single extreme cells, on which training diverges.
    """
    return Standardized(Normal(LIKELIHOOD_MIN_VARIANCE, noise_shape=(width,)), width)


def _full_gaussian(data: Dataset, settings: Settings) -> Family:
    return Standardized(MultivariateNormal(LIKELIHOOD_MIN_VARIANCE), math.prod(data.shape))


def _mixed(data: Dataset, settings: Settings) -> Family:
    """One family for all columns of a kind; classes are of a kind where they are as many."""
    if not data.source.columns:
        raise UsageError(
            "--likelihood mixed needs a table whose columns are of several kinds: choose auto"
        )
    groups: dict[tuple[str, int], list[int]] = {}
    for i, column in enumerate(data.source.columns):
        groups.setdefault((column.kind, len(column.levels)), []).append(i)
    made: dict[str, Callable[[int, int], Family]] = {
        "real": lambda width, levels: _real(width),
        "count": lambda width, levels: NegativeBinomial(),
        "binary": lambda width, levels: Bernoulli(),
        "category": lambda width, levels: Categorical(levels),
    }
    families = [made[kind](len(group), levels) for (kind, levels), group in groups.items()]
    return Columns(families, list(groups.values()))


def _classes(data: Dataset, settings: Settings) -> int:
    """How many classes or grades there are: as given, or up to the largest."""
    if settings.classes:
        return settings.classes
    largest = max(x.nan_to_num(nan=0.0).max() for _, x in data.train.chunks(10_000))
    return int(largest) + 1


def _standardized(distribution: type[Distribution]) -> Callable[[Dataset, Settings], Family]:
    """Real columns of a law with heavier tails; its scale is bounded below, as a Gaussian's is."""

    def make(data: Dataset, settings: Settings) -> Family:
        family = Elementwise(distribution, least=LIKELIHOOD_MIN_VARIANCE**0.5)
        return Standardized(family, math.prod(data.shape))

    return make


def _levels(components: int) -> Callable[[Dataset, Settings], Family]:
    """Levels of grey: as many as given, or as the smallest step between two values says."""

    def make(data: Dataset, settings: Settings) -> Family:
        if settings.classes:
            return DiscretizedLogistic(settings.classes, components)
        if not data.in_unit_interval:
            raise UsageError(
                "--likelihood discretized-logistic needs levels of grey between 0 and 1: choose "
                "auto"
            )
        steps = [x.unique().diff() for _, x in data.train.chunks(10_000)]
        found = [float(step[step > 0].min()) for step in steps if bool((step > 0).any())]
        if not found:
            raise DataError(
                f"{data.name}: every value is the same, which shows no step between two levels: "
                "say --classes"
            )
        return DiscretizedLogistic(round(1 / min(found)) + 1, components)

    return make


LIKELIHOODS: dict[str, Callable[[Dataset, Settings], Family]] = {
    "bernoulli": lambda data, settings: Bernoulli(),
    "continuous-bernoulli": lambda data, settings: ContinuousBernoulli(),
    "gaussian": _gaussian,
    "full-gaussian": _full_gaussian,
    "categorical": lambda data, settings: Categorical(_classes(data, settings)),
    "ordinal": lambda data, settings: Ordinal(_classes(data, settings), math.prod(data.shape)),
    "poisson": lambda data, settings: Poisson(),
    "negative-binomial": lambda data, settings: NegativeBinomial(),
    "zero-inflated-negative-binomial": lambda data, settings: ZeroInflatedNegativeBinomial(),
    "laplace": _standardized(zoo.Laplace),
    "logistic": _standardized(zoo.Logistic),
    "student-t": _standardized(zoo.StudentT),
    "log-normal": lambda data, settings: Elementwise(zoo.LogNormal, least=LIKELIHOOD_MIN_VARIANCE),
    "gamma": lambda data, settings: Elementwise(zoo.Gamma),  # a least rate would bound the mean
    "discretized-logistic": _levels(1),
    "discretized-logistic-mixture": _levels(MIXED),
    "mixed": _mixed,
}
