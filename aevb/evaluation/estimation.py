"""Every estimate of log p(x) by its name, and what two of them say together.

elbo, importance, ais    from below          hmc    from above          exact    the value itself
bidirectional            from both sides, on rows that the model made
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from aevb.data import Rows
from aevb.errors import UsageError, at_least
from aevb.evaluation.annealing import Annealing, annealed, bidirectional, simulate
from aevb.evaluation.certificate import Certificate, finite, standard_error
from aevb.evaluation.chunks import Kept, Progress
from aevb.evaluation.estimates import Evidence, evidence, multiple_importance
from aevb.evaluation.exact import exact
from aevb.evaluation.reciprocal import reciprocal
from aevb.evaluation.refit import posterior_for, refit
from aevb.model import Model
from aevb.posterior import FromPrior, Posterior

PROPOSALS = ("encoder", "fitted", "prior")
PRIOR_SHARE = 0.1


@dataclass(frozen=True)
class Sandwich:
    """A lower and an upper bound on the mean of log p(x) over the same data.

    Units: nats per datum.
    Source: Grosse et al. (2015), "Sandwiching the marginal likelihood using bidirectional Monte
    Carlo".
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.zeros((3, 2)), np.arange(3), (2,))
        >>> pair = model, FromPrior(model.prior)
        >>> between = Sandwich(evidence(*pair, rows).elbo, exact(*pair, rows))
        >>> between.crossed, abs(between.width - 0.153) < 0.1  # KL(p(z) || p(z given x))
        (False, True)
    """

    lower: Certificate
    upper: Certificate

    @property
    def width(self) -> float:
        """The mean of the upper bound less that of the lower one, nats."""
        return self.upper.mean - self.lower.mean

    @property
    def standard_error(self) -> float:
        """Of the width: over data, of the differences datum by datum."""
        return standard_error(self.upper.values - self.lower.values)

    @property
    def crossed(self) -> bool:
        """Whether the lower bound lies above the upper one by more than their errors allow."""
        errors = np.hypot(self.lower.monte_carlo_error, self.upper.monte_carlo_error)
        return bool(self.width < -5 * np.nan_to_num(errors) - 1e-6 * abs(self.upper.mean))

    def as_dict(self) -> dict[str, Any]:
        """[lower, upper] with the methods they are by, ready for JSON."""
        told = {
            "bounds": [self.lower.mean, self.upper.mean],
            "methods": [self.lower.method, self.upper.method],
            "width": self.width,
            "standard_error": self.standard_error,
            "crossed": self.crossed,
            "data": self.lower.data,
            "unit": "nats",
        }
        return dict(finite(told))


@dataclass(frozen=True)
class Estimates:
    """What was asked for, in that order; `evidence` of a pass of importance sampling, if any.

    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.zeros((3, 2)), np.arange(3), (2,))
        >>> found = estimate(model, FromPrior(model.prior), rows, ["elbo", "exact"])
        >>> [certificate.direction for certificate in found.certificates]
        ['lower', 'exact']
    """

    certificates: tuple[Certificate, ...]
    evidence: Evidence | None = None

    def sandwiches(self) -> list[Sandwich]:
        """For each data set with bounds from both sides, the highest lower and lowest upper one.

        An exact value takes the place of what is missing, and of every upper bound.
        """
        found = []
        for data in dict.fromkeys(c.data for c in self.certificates):
            side = {
                direction: [
                    c for c in self.certificates if c.data == data and c.direction == direction
                ]
                for direction in ("lower", "exact", "upper")
            }
            lower, upper = side["lower"] or side["exact"], side["exact"] or side["upper"]
            if lower and upper and lower != upper:
                best = max(lower, key=lambda c: c.mean), min(upper, key=lambda c: c.mean)
                found.append(Sandwich(*best))
        return found


@dataclass(frozen=True)
class Asked:
    """How to estimate: what is left None is as usual for each method.

    `samples` draws (for ais: chains) of each datum; `proposals` are what importance sampling draws
    from, and `start` the one where annealing begins: the encoder, posteriors "fitted" to each
    datum, or the prior, which takes a tenth of the draws beside others.
    Errors: UsageError for fewer than 1 sample, no proposals, or one that is unknown or named twice.
    Example:
        >>> Asked().samples_of("ais"), Asked(samples=50).samples_of("ais")
        (16, 50)
    """

    samples: int | None = None
    annealing: Annealing = field(default_factory=Annealing)
    start: str = "encoder"
    proposals: Sequence[str] = ("encoder",)
    seed: int = 0
    precision: str = "float32"
    compiled: bool | None = None

    def __post_init__(self) -> None:
        if self.samples is not None:
            at_least(1, self.samples, "the number of samples")
        unknown = [name for name in (*self.proposals, self.start) if name not in PROPOSALS]
        if unknown or not self.proposals or len(set(self.proposals)) < len(self.proposals):
            raise UsageError(
                f"proposals are one or more of {', '.join(PROPOSALS)}, each once, found "
                f"{', '.join(unknown or self.proposals) or 'none'}"
            )

    def samples_of(self, method: str) -> int:
        """How many of each datum a method takes."""
        return SAMPLES[method] if self.samples is None else self.samples


def estimate(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    methods: Sequence[str] = ("importance",),
    asked: Asked = Asked(),
    *,
    kept: Callable[[str], Kept] | None = None,
    progress: Progress | None = None,
) -> Estimates:
    """Estimate log p(x) of every row by one method or several.

    Shapes: N rows; bidirectional makes as many of its own. `kept` gives a place for the unfinished
    work of a method.
    Units: nats per datum. Errors: UsageError for an unknown method, and those of each method.
    Source: that of each method's function.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.zeros((3, 2)), np.arange(3), (2,))
        >>> found = estimate(model, FromPrior(model.prior), rows, ["importance", "exact"])
        >>> found.sandwiches()[0].upper.method
        'exact'
    """
    check_methods(methods)
    work = _Estimation(model, posterior, rows, tuple(methods), asked, kept, progress)
    found = [each for method in dict.fromkeys(methods) for each in getattr(work, method)()]
    return Estimates(tuple(found), vars(work).get("evidence"))


def check_methods(methods: Sequence[str]) -> None:
    """Refuse methods that are not known, listing what there is.

    Errors: UsageError for no method, or one that is not known.
    Example:
        >>> check_methods(["ais", "best"])
        Traceback (most recent call last):
        aevb.errors.UsageError: 'best' is not known: choose of importance, elbo, ais, ...
    """
    unknown = [name for name in methods if name not in SAMPLES]
    if unknown or not methods:
        known = ", ".join(SAMPLES)
        found = f"{unknown[0]!r} is not known" if unknown else "no method was named"
        raise UsageError(f"{found}: choose of {known}, several with commas between")


@dataclass(frozen=True)
class _Estimation:
    """The work on one data set: each method of `SAMPLES` by its name."""

    model: Model
    posterior: Posterior
    rows: Rows
    methods: Sequence[str]
    asked: Asked
    kept: Callable[[str], Kept] | None
    progress: Progress | None

    @property
    def plain(self) -> bool:
        """Whether importance samples come from the encoder alone, as those of the bound do."""
        return tuple(self.asked.proposals) == ("encoder",)

    @cached_property
    def evidence(self) -> Evidence:
        """One pass serves both numbers that come of it."""
        method = "importance" if self.plain and "importance" in self.methods else "elbo"
        how = self._sampling | self._how(method)
        return evidence(*self._whose(method, self.posterior), **how)

    def proposal(self, name: str, rows: Rows) -> Posterior:
        """What draws the codes of these rows, by its name."""
        model, posterior = self.model, self.posterior
        if name == "prior":
            return FromPrior(model.prior)
        if name == "encoder" and rows is self.rows:
            return posterior
        fit = refit if name == "fitted" else posterior_for
        return fit(model, posterior, rows, seed=self.asked.seed)

    def elbo(self) -> list[Certificate]:
        return [self.evidence.elbo]

    def importance(self) -> list[Certificate]:
        if self.plain:
            return [self.evidence.importance]
        names = self.asked.proposals
        others = len(set(names) - {"prior"})
        share = {
            name: PRIOR_SHARE if name == "prior" else (1 - PRIOR_SHARE) / others for name in names
        }
        laws = {name: (self.proposal(name, self.rows), share[name]) for name in names}
        how = self._sampling | self._how("importance")
        return [multiple_importance(*self._whose("importance", laws), **how)]

    def ais(self) -> list[Certificate]:
        start = self.proposal(self.asked.start, self.rows)
        how = self._how("ais")
        return self._begun([annealed(*self._whose("ais", start), self.asked.annealing, **how)])

    def bidirectional(self) -> list[Certificate]:
        asked, how = self.asked, self._how("bidirectional")
        z, made = simulate(self.model, len(self.rows), seed=asked.seed)
        start, samples = self.proposal(asked.start, made), asked.samples_of("bidirectional")
        given = self.model, start, made, z, samples, asked.annealing
        return self._begun(bidirectional(*given, **how))

    def hmc(self) -> list[Certificate]:
        return [reciprocal(*self._whose("hmc", self.posterior), **self._how("hmc"))]

    def exact(self) -> list[Certificate]:
        return [exact(self.model, self.posterior, self.rows, **self._how("exact"))]

    @property
    def _sampling(self) -> dict[str, Any]:
        return {"precision": self.asked.precision, "compiled": self.asked.compiled}

    def _whose(self, method: str, posterior: Any) -> tuple[Model, Any, Rows, int]:
        return self.model, posterior, self.rows, self.asked.samples_of(method)

    def _how(self, method: str) -> dict[str, Any]:
        kept = self.kept and self.kept(method)
        return {"seed": self.asked.seed, "kept": kept, "progress": self.progress}

    def _begun(self, found: Iterable[Certificate]) -> list[Certificate]:
        """With the name of where their chains began."""
        start = {"start": self.asked.start}
        return [replace(each, details={**each.details, **start}) for each in found]


_METHODS = ("importance", "elbo", "ais", "bidirectional", "hmc", "exact")
SAMPLES = dict.fromkeys(_METHODS, 1000) | dict.fromkeys(("ais", "bidirectional"), 16)
"""How many samples (for ais: chains) of each datum a method takes where nothing is said."""
