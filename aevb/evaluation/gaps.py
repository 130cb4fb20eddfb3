"""Where the bound goes: what the family costs, what the encoder costs, what unseen data cost.

    log p(x) - L[q]  =  (log p(x) - L[q*])  +  (L[q*] - L[q])
       inference           approximation         amortization

q is the encoder's, q* the best member of its family for each datum, found by optimizing the datum's
own numbers. The difference of any of these between training and test rows is a generalization gap.
"""

import math
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.data import Rows, require_rows
from aevb.evaluation.batches import batch_for, judging
from aevb.evaluation.certificate import Certificate, finite, monte_carlo_error, standard_error
from aevb.evaluation.chunks import Array, Kept, Progress, by_chunks
from aevb.evaluation.estimates import How, Pass, Passed
from aevb.evaluation.refit import RATE, STEPS, Refiner
from aevb.evaluation.work import worth_compiling
from aevb.model import Model
from aevb.posterior import Posterior, has_rows

COLUMNS = {
    "log_p": "log p(x)",
    "best": "L*, best of the family",
    "encoder": "L, the bound",
    "approximation": "approximation, log p - L*",
    "amortization": "amortization, L* - L",
    "inference": "inference, log p - L",
}
"""What is told of training rows, of test rows and of their difference."""
GAPS = {
    "approximation": ("log_p", "best"),
    "amortization": ("best", "encoder"),
    "inference": ("log_p", "encoder"),
}
"""Each gap as a number of a datum less another of the same datum."""
SAMPLES = 1000
TITLES, CELLS = 26, 17
"""Widths of the printed table's columns, in characters."""


class Mean(NamedTuple):
    """A mean over data: how far it would move with other data, and with other noise.

        standard_error = sd_n(v_n) / sqrt(N),   monte_carlo_error = sqrt(sum_n e_n^2) / N

    Units: nats per datum.
    Example:
        >>> Mean.over(np.array([-3.0, -1.0]), np.array([0.3, 0.4])).less(Mean(-4.0, 0.0, 0.0))
        Mean(mean=2.0, standard_error=1.0, monte_carlo_error=0.25)
    """

    mean: float
    standard_error: float
    monte_carlo_error: float

    @classmethod
    def over(cls, values: Array, errors: Array) -> "Mean":
        """Of values (N,) with Monte-Carlo errors (N,)."""
        return cls(float(values.mean()), standard_error(values), monte_carlo_error(errors))

    def less(self, other: "Mean") -> "Mean":
        """The difference to a mean over other data."""
        spreads = zip(self[1:], other[1:], strict=True)
        return Mean(self.mean - other.mean, *(math.hypot(a, b) for a, b in spreads))

    def as_dict(self) -> dict[str, float | None]:
        """The mean, ready for JSON, which has no NaN."""
        return dict(finite(self._asdict()))


@dataclass(frozen=True, eq=False)
class Parts:
    """The numbers of some rows, and their Monte-Carlo errors.

    `values` and `errors` have log_p, best and encoder; `method` and `direction` are those of log_p.
    `gains` is what the last round of the optimization added to `best`.
    Shapes: (N,) for each of `values` and of `errors`, and for `gains`. Units: nats.
    Example:
        >>> values = {"log_p": np.zeros(3), "best": -np.ones(3), "encoder": np.full(3, -1.5)}
        >>> errors = dict.fromkeys(values, np.zeros(3))
        >>> parts = Parts(values, errors, np.full(3, 0.01), "exact", "exact")
        >>> parts.mean("approximation").mean, parts.mean("amortization").mean
        (1.0, 0.5)
    """

    values: Mapping[str, Array]
    errors: Mapping[str, Array]
    gains: Array
    method: str
    direction: str

    def mean(self, column: str) -> Mean:
        """The mean of a column of `COLUMNS`; of a gap, from the differences of each datum."""
        if column not in GAPS:
            return Mean.over(self.values[column], self.errors[column])
        one, other = GAPS[column]
        # The two are of the same noise, which moves them together: as if apart is no less.
        errors = np.hypot(self.errors[one], self.errors[other])
        return Mean.over(self.values[one] - self.values[other], errors)

    @property
    def left(self) -> Mean:
        """What the optimization of q* left, to its order: what its last round still gained.

        That round is twice as long as the one before, at a fifth of its rate; where the answer is
        known, at most twice the gain is left. The standard error has the noise in it.
        """
        mean, spread, _ = Mean.over(self.gains, np.zeros_like(self.gains))
        return Mean(mean, spread, spread)


@dataclass(frozen=True, eq=False)
class Gaps:
    """What is lost between log p(x) and the bound, on training rows and on test rows.

    Units: nats per datum. Source: as `gaps`.
    Example:
        >>> ones = {"log_p": np.ones(2), "best": np.zeros(2), "encoder": -np.ones(2)}
        >>> nothing = dict.fromkeys(ones, np.zeros(2))
        >>> parts = Parts(ones, nothing, np.zeros(2), "exact", "exact")
        >>> Gaps(parts, parts, 10).train.mean("inference").mean
        2.0
    """

    train: Parts
    test: Parts
    samples: int

    def generalization(self, column: str) -> Mean:
        """Training rows less test rows, of a column of `COLUMNS`: of log p(x) it is what the model
        learned by heart, of the inference gap what the encoder did."""
        return self.train.mean(column).less(self.test.mean(column))

    def remarks(self) -> list[str]:
        """What must be known before the numbers are used."""
        left = max(self.train.left.mean, self.test.left.mean)
        said = [
            f"The last round of optimization still raised L* by {left:.2g} nats, and what it left "
            "is of that order: by so much the approximation gap is overstated, and the "
            "amortization gap understated."
        ]
        if "lower" in (self.train.direction, self.test.direction):
            said.append(
                "log p(x) is a lower bound, and so are the inference gap and, but for what was "
                "left to optimize, the approximation gap."
            )
        if "upper" in (self.train.direction, self.test.direction):
            said.append("log p(x), the inference and the approximation gap are upper bounds.")
        return said

    def as_dict(self) -> dict[str, Any]:
        """The table, ready for JSON."""
        table: dict[str, Any] = {"unit": "nats", "samples": self.samples}
        for name, part in (("train", self.train), ("test", self.test)):
            table[name] = {c: part.mean(c).as_dict() for c in COLUMNS} | {
                "n": len(part.gains),
                "method": part.method,
                "direction": part.direction,
                "left": part.left.as_dict(),
            }
        table["generalization"] = {c: self.generalization(c).as_dict() for c in COLUMNS}
        return table | {"remarks": self.remarks()}

    def __str__(self) -> str:
        across = {
            "train": self.train.mean,
            "test": self.test.mean,
            "train - test": self.generalization,
        }
        lines = [" " * TITLES + "".join(name.rjust(CELLS) for name in across)]
        for column, title in COLUMNS.items():
            means = [of(column) for of in across.values()]
            cells = [f"{m.mean:.2f} ± {m.standard_error:.2f}".rjust(CELLS) for m in means]
            lines.append(title.ljust(TITLES) + "".join(cells))
        noise = max(of(column).monte_carlo_error for of in across.values() for column in COLUMNS)
        ways = " and ".join(dict.fromkeys((self.train.method, self.test.method)))
        about = [
            f"Nats per datum, of {len(self.train.gains)} training and {len(self.test.gains)} test "
            f"rows, ± the standard error over them; the Monte-Carlo error is at most {noise:.2g}.",
            f"log p(x) is by {ways}, {self.samples} samples.",
        ]
        return "\n".join([*lines, *about, *self.remarks()])


def gaps(
    model: Model,
    posterior: Posterior,
    train: Rows,
    test: Rows,
    *,
    samples: int = SAMPLES,
    evidence: Callable[[Rows], Certificate] | None = None,
    seed: int = 0,
    kept: Callable[[str], Kept] | None = None,
    progress: Progress | None = None,
) -> Gaps:
    """Split what the bound loses into the family's part, the encoder's, and that of unseen data.

        log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]),   q* = argmax of L over the family

    q* starts at the encoder's q and is the best near it. log p(x) is by importance sampling from
    q* or from q, whichever bound is higher in the mean, or by `evidence`, a function of rows that
    gives a certificate; one from below is taken where it is the highest. A posterior with free
    numbers for each datum has them fitted to these rows: it is its own best, and loses nothing to
    amortization.
    Shapes: `samples` draws for each row. Units: nats per datum. `kept` gives, for "train" and for
    "test", the place where unfinished work is kept.
    Errors: as `refit` and `evidence`.
    Source: Cremer et al. (2018), "Inference suboptimality in variational autoencoders", equations 4
    to 6; Wu et al. (2017), "On the quantitative analysis of decoder-based generative models", for
    log p(x) on training rows against test rows.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(1), aevb.bernoulli(torch.nn.Linear(1, 4)))
        >>> encoder = aevb.mean_field(torch.nn.Linear(4, 2))
        >>> rows = Rows(np.eye(4), np.arange(4), (4,))
        >>> found = gaps(model, encoder, rows.limit(2), rows, samples=50)
        >>> found.test.mean("amortization").mean > 0
        True
    """
    whole = len(require_rows(train)) + len(require_rows(test))
    found: dict[str, Parts] = {}
    for name, rows, before in (("train", train, 0), ("test", test, len(train))):

        def told(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, whole)

        with judging(model, posterior):
            measure = _Measure(model, posterior, rows, samples, seed)
            table, _ = by_chunks(
                *(model, rows, measure.chunk, len(_Measured._fields), measure),
                kept=kept and kept(name),
                progress=told,
            )
        given = None if evidence is None else evidence(rows)
        found[name] = _parts(_Measured(*table), given)
    return Gaps(found["train"], found["test"], samples)


_Measured = namedtuple(
    "_Measured", "encoder encoder_error p p_error best best_error p_best p_best_error gains"
)
"""Of each datum: bound and log p^(x), with errors, of q and q*; the gain of the last round."""


class _Measure:
    """What is measured of a chunk of rows: `_Measured`.

    What is refined is put into the same two posteriors for every chunk: they are compiled once.
    """

    def __init__(
        self, model: Model, posterior: Posterior, rows: Rows, samples: int, seed: int
    ) -> None:
        self.model = model
        self.refine = Refiner(model, posterior, rows, STEPS, RATE, seed)
        self.chunk = min(self.refine.chunk, len(rows))
        nothing = torch.zeros(self.chunk, self.refine.outputs)
        self.fitted = [self.refine.posterior_with(nothing) for _ in range(2)]
        how = How(seed, worth_compiling(model, posterior, rows, 3 * samples))
        free = has_rows(posterior)
        judged = self.fitted if free else [*self.fitted, posterior]
        self.passes = [Pass(model, [q], [samples], rows, how) for q in judged]

    def __call__(self, positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
        for posterior, numbers in zip(self.fitted, self.refine(positions, x), strict=True):
            posterior.put(numbers)
        before, best, *others = (self._passed(one, positions, x) for one in self.passes)
        (encoder,) = others or [best]  # free numbers are their own best
        told = [
            number
            for found in (encoder, best)
            for number in (found.bound, found.bound_error, found.value, found.error)
        ]
        return [*told, best.bound - before.bound]

    def _passed(self, one: Pass, positions: NDArray[np.int64], x: Tensor) -> Passed:
        """Of the chunk, in as many parts as suit the memory; fitted numbers go by its places."""
        places = np.arange(len(x))
        parts = [
            one(batch_for(self.model, x[p], p), positions[p])
            for p in np.split(places, places[one.chunk :: one.chunk])
        ]
        return Passed(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _parts(found: _Measured, given: Certificate | None) -> Parts:
    """The numbers of all rows, with the best that there is for log p(x)."""
    ways = [
        ("importance from the best of the family", "lower", found.p_best, found.p_best_error),
        ("importance from the encoder", "lower", found.p, found.p_error),
    ]
    if given is not None:
        own = given.method, given.direction, given.values, given.errors
        ways = [own, *ways] if given.direction == "lower" else [own]
    method, direction, log_p, log_p_error = max(ways, key=lambda way: float(way[2].mean()))
    values = {"log_p": log_p, "best": found.best, "encoder": found.encoder}
    errors = {"log_p": log_p_error, "best": found.best_error, "encoder": found.encoder_error}
    return Parts(values, errors, found.gains, method, direction)
