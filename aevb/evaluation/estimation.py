"""Every estimate of log p(x) by its name, and what two of them say together.

elbo, importance, ais    from below          hmc    from above          exact    the value itself
bidirectional            from both sides, on rows that the model made
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from aevb.data import Rows
from aevb.errors import UsageError
from aevb.evaluation.annealing import Annealing, annealed, bidirectional, simulate
from aevb.evaluation.certificate import Certificate, finite, standard_error
from aevb.evaluation.chunks import Kept, Progress
from aevb.evaluation.estimates import Evidence, evidence, multiple_importance
from aevb.evaluation.exact import exact
from aevb.evaluation.reciprocal import reciprocal
from aevb.evaluation.refit import refit
from aevb.model import Model
from aevb.posterior import FromPrior, PerDatum, Posterior

PROPOSALS = ("encoder", "fitted", "prior")
PRIOR_SHARE = 0.1


@dataclass(frozen=True)
class Sandwich:
    """A lower and an upper bound on the mean of log p(x) over the same data, nats."""

    lower: Certificate
    upper: Certificate

    @property
    def width(self) -> float:
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
        return {
            "bounds": [self.lower.mean, self.upper.mean],
            "methods": [self.lower.method, self.upper.method],
            "width": self.width,
            "standard_error": finite(self.standard_error),
            "crossed": self.crossed,
            "data": self.lower.data,
            "unit": "nats",
        }


@dataclass(frozen=True)
class Estimates:
    """What was asked for, in that order; `evidence` of a pass of importance sampling, if any."""

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
    from: the encoder, posteriors "fitted" to each datum, and the prior, which takes a tenth.
    """

    samples: int | None = None
    annealing: Annealing = field(default_factory=Annealing)
    proposals: Sequence[str] = ("encoder",)
    seed: int = 0
    data: str = "data"
    precision: str = "float32"
    compiled: bool | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.proposals if name not in PROPOSALS]
        if unknown or not self.proposals or len(set(self.proposals)) < len(self.proposals):
            raise UsageError(
                f"proposals are one or more of {', '.join(PROPOSALS)}, each once, found "
                f"{', '.join(self.proposals) or 'none'}"
            )


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
        >>> import aevb
        >>> digits = aevb.data.load("digits").test.limit(2)
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> encoder = aevb.mean_field(aevb.MLP(64, [8], 4))
        >>> found = estimate(model, encoder, digits, ["importance", "exact"])
        >>> found.sandwiches()[0].upper.method
        'exact'
    """
    check_methods(methods)
    certificates: list[Certificate] = []
    passes: list[Evidence] = []
    for method in dict.fromkeys(methods):
        task = _Task(
            *(model, posterior, rows, asked, asked.samples or SAMPLES[method]),
            *(kept and kept(method), progress, passes),
        )
        certificates += _METHODS[method](task)
    return Estimates(tuple(certificates), passes[0] if passes else None)


def check_methods(methods: Sequence[str]) -> None:
    """UsageError, listing what there is, unless all methods are known and there is one.

    Example:
        >>> check_methods(["ais", "hmc"])
    """
    unknown = [name for name in methods if name not in _METHODS]
    if unknown or not methods:
        known = ", ".join(_METHODS)
        found = f"{unknown[0]!r} is not known" if unknown else "no method was named"
        raise UsageError(f"{found}: choose of {known}, several with commas between")


class _Task(NamedTuple):
    """One method's work; `passes` are those of importance sampling that were made before."""

    model: Model
    posterior: Posterior
    rows: Rows
    asked: Asked
    samples: int
    kept: Kept | None
    progress: Progress | None
    passes: list[Evidence]

    @property
    def usual(self) -> dict[str, Any]:
        """What every method takes."""
        return {"seed": self.asked.seed, "kept": self.kept, "progress": self.progress}

    @property
    def named(self) -> dict[str, Any]:
        return self.usual | {"data": self.asked.data}


def _pass(task: _Task) -> Evidence:
    """One pass serves both numbers that come of it."""
    made = [found for found in task.passes if found.elbo.samples == task.samples]
    if made:
        return made[0]
    found = evidence(
        *(task.model, task.posterior, task.rows, task.samples),
        precision=task.asked.precision,
        compiled=task.asked.compiled,
        **task.named,
    )
    task.passes.append(found)
    return found


def _elbo(task: _Task) -> list[Certificate]:
    return [_pass(task).elbo]


def _importance(task: _Task) -> list[Certificate]:
    model, asked = task.model, task.asked
    if tuple(asked.proposals) == ("encoder",):
        return [_pass(task).importance]
    others = [name for name in asked.proposals if name != "prior"]
    shares = dict.fromkeys(others, (1 - PRIOR_SHARE) / max(len(others), 1)) | {"prior": PRIOR_SHARE}
    laws = {name: (_proposal(task, name), shares[name]) for name in asked.proposals}
    found = multiple_importance(
        *(model, laws, task.rows, task.samples),
        compiled=asked.compiled,
        precision=asked.precision,
        **task.named,
    )
    return [found]


def _proposal(task: _Task, name: str) -> Posterior:
    if name == "prior":
        return FromPrior(task.model.prior)
    if name == "fitted":
        return refit(task.model, task.posterior, task.rows, seed=task.asked.seed)
    return task.posterior


def _ais(task: _Task) -> list[Certificate]:
    pair = task.model, task.posterior
    return [annealed(*pair, task.rows, task.samples, task.asked.annealing, **task.named)]


def _bidirectional(task: _Task) -> list[Certificate]:
    model, posterior, asked = task.model, task.posterior, task.asked
    z, made = simulate(model, len(task.rows), seed=asked.seed)
    if isinstance(posterior, PerDatum) and asked.annealing.start == "encoder":
        posterior = refit(model, posterior, made, seed=asked.seed)
    found = bidirectional(model, posterior, made, z, task.samples, asked.annealing, **task.usual)
    return list(found)


def _hmc(task: _Task) -> list[Certificate]:
    return [reciprocal(task.model, task.posterior, task.rows, task.samples, **task.named)]


def _exact(task: _Task) -> list[Certificate]:
    return [exact(task.model, task.posterior, task.rows, **task.named)]


_METHODS: dict[str, Callable[[_Task], list[Certificate]]] = {
    "importance": _importance,
    "elbo": _elbo,
    "ais": _ais,
    "bidirectional": _bidirectional,
    "hmc": _hmc,
    "exact": _exact,
}
SAMPLES = dict.fromkeys(_METHODS, 1000) | dict.fromkeys(("ais", "bidirectional"), 16)
"""How many samples (for ais: chains) of each datum a method takes where nothing is said."""
