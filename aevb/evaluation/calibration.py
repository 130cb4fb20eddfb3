"""Simulation-based calibration: whether a posterior is right for data that the model itself makes.

    z* ~ p(z), x ~ p(x given z*), z_1 ... z_L ~ q(z given x)
    rank = #{l: z_l < z*} + U{0, ..., #{l: z_l = z*}}

For the exact posterior z* is one more draw beside the z_l, so that its rank, equals put in order by
lot, is uniform on 0, ..., L in every dimension, and for every function of (x, z).
"""

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.devices import tensor_of
from aevb.distributions.reparameterization import drawn
from aevb.errors import UsageError
from aevb.evaluation.batches import evaluating
from aevb.evaluation.certificate import finite
from aevb.posterior import Batch
from aevb.randomness import Stream, generator, torch_seeded, uniform

LEVEL = 1e-4
"""The chance that a calibrated posterior is called something else, over all tests."""
CELLS_AT_ONCE = 4_000_000
MOST_JOINT_CELLS = 400_000_000
"""Cells of x to be decoded for the ranks of log p(x, z): beyond, these are left out."""
BINS = 20
FULL = 5
"""Ranks that are expected in each bin, at least."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the true z among L draws, for Q quantities over M simulations.

        r_m = (z*_m - mean_l z_ml) / (sd_l(z_ml) sqrt(1 + 1/L))
        shift = mean_m r_m,   ratio = (mean_m r_m^2 (L - 3) / (L - 1))^(-1/2)

    `names` says which: "z1", "z2", ... and "log p(x, z)". `shift` is how far q lies too low,
    `ratio` its deviation over that which it should have: about 0 and 1 of an exact posterior, and
    NaN where all draws of some datum are equal, as those of a sure coin.
    Shapes: `ranks` (M, Q) in 0, ..., L; `shift` and `ratio` (D,).
    Units: `shift` in deviations of q. Source: as `calibrate`.
    Example:
        >>> even = np.arange(1000)[:, None] % 100
        >>> Calibration(even, 99, ("z1",), np.zeros(1), np.ones(1)).calibrated
        True
        >>> ends = np.where(even < 50, 0, 99)  # outside all draws: they are too near together
        >>> Calibration(ends, 99, ("z1",), np.zeros(1), np.full(1, 0.5)).verdicts
        ('The posterior of z1 is too narrow by about 50.0 %.',)
    """

    ranks: NDArray[np.int64]
    draws: int
    names: tuple[str, ...]
    shift: NDArray[np.float64]
    ratio: NDArray[np.float64]

    @property
    def simulations(self) -> int:
        """M, how many data were made by the model."""
        return len(self.ranks)

    @cached_property
    def p_values(self) -> dict[str, NDArray[np.float64]]:
        """Of three tests of uniformity for each quantity, (Q,): of bins, of location, of spread.

        Location and spread are those of the normal scores of the ranks, whose moments under
        uniformity are known exactly; the sum of their squares is nearly of a gamma law.
        """
        from scipy.special import chdtrc, gdtr, gdtrc, ndtr, ndtri  # late: a tenth of a second

        m, levels = self.simulations, self.draws + 1
        even = [k for k in range(3, BINS + 1) if levels % k == 0 and m >= FULL * k]
        bins = max(even, default=2)
        found = self.ranks * bins // levels
        counts = np.stack([(found == k).sum(0) for k in range(bins)])
        held = np.bincount(np.arange(levels) * bins // levels, minlength=bins)
        expected = (m * held / levels)[:, None]
        statistic = ((counts - expected) ** 2 / expected).sum(0)
        score = ndtri((np.arange(levels) + 0.5) / levels)
        mean, variance = np.mean(score**2), np.var(score**2)
        squares = mean / variance, m * mean**2 / variance, (score**2)[self.ranks].sum(0)
        return {
            "bins": chdtrc(bins - 1, statistic),
            "location": 2 * ndtr(-np.abs(score[self.ranks].mean(0)) / math.sqrt(mean / m)),
            "spread": np.minimum(2 * np.minimum(gdtr(*squares), gdtrc(*squares)), 1.0),
        }

    @property
    def smallest_p(self) -> float:
        """The smallest p-value, times how many there are (Bonferroni)."""
        every = np.concatenate(list(self.p_values.values()))
        return float(min(1.0, every.min() * len(every)))

    @property
    def calibrated(self) -> bool:
        """Whether nothing speaks against uniform ranks, at the level 1e-4."""
        return self.smallest_p >= LEVEL

    @property
    def verdicts(self) -> tuple[str, ...]:
        """A sentence for each quantity whose ranks are not uniform."""
        limit = LEVEL / (3 * len(self.names))
        found = []
        for i, name in enumerate(self.names):
            p = {test: values[i] for test, values in self.p_values.items()}
            said = []
            figures = i < len(self.ratio) and np.isfinite(self.ratio[i])
            if figures and p["spread"] < limit:
                off = 100 * (self.ratio[i] - 1)
                said.append(f"too {'wide' if off > 0 else 'narrow'} by about {abs(off):.1f} %")
            if figures and p["location"] < limit:
                side = "low" if self.shift[i] > 0 else "high"
                said.append(f"too {side} by about {abs(self.shift[i]):.2g} of its deviations")
            if not said and min(p.values()) < limit:
                said.append(f"not that of the model (p = {min(p.values()):.1g})")
            if said:
                found.append(f"The posterior of {name} is {' and '.join(said)}.")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """The calibration without its ranks, ready for JSON."""
        told = {
            "simulations": self.simulations,
            "draws": self.draws,
            "calibrated": self.calibrated,
            "smallest_p": self.smallest_p,
            "quantities": list(self.names),
            "p_values": {test: values.tolist() for test, values in self.p_values.items()},
            "shift": self.shift.tolist(),
            "ratio": self.ratio.tolist(),
            "verdicts": list(self.verdicts),
        }
        return dict(finite(told))

    def __str__(self) -> str:
        head = f"Calibration, {self.simulations:,} simulations of {self.draws} draws:"
        if self.calibrated:
            return f"{head} nothing speaks against it (p = {self.smallest_p:.2g})."
        return f"{head} {' '.join(self.verdicts)}"


def calibrate(
    model: Any,
    posterior: Any,
    simulations: int = 1000,
    draws: int = 99,
    *,
    like: Tensor | None = None,
    seed: int = 0,
) -> Calibration:
    """Hold a posterior to the data that the model itself makes: simulation-based calibration.

        rank = #{l: z_l < z*} + U{0, ..., #{l: z_l = z*}}
        z* ~ p(z), x ~ p(x given z*), z_1 ... z_L ~ q(z given x)

    An exact posterior has uniform ranks. One that is too narrow has too many at the ends, one that
    is too wide too many in the middle. An amortized posterior is hardly ever exact, and fits data
    sets better than what an untrained model makes: its figures say how far it is off.
    Shapes: `simulations` M, `draws` L; ranks (M, D), and of log p(x, z) where that is cheap.
    Units: ranks are whole numbers, 0 to L; `shift` in deviations of q.
    `like` has the dtype and device of the data, for a model without parameters.
    Errors: UsageError for fewer than 20 simulations or 4 draws, or codes that are no vectors;
    that of a posterior with free parameters for each datum, which has none for simulated data.
    Source: Talts et al. (2018), "Validating Bayesian inference algorithms with simulation-based
    calibration"; Modrak et al. (2023) for the rank of the log-density.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [8], 5)))
        >>> found = calibrate(model, aevb.mean_field(aevb.MLP(5, [8], 4)), 100)
        >>> found.ranks.shape, found.names
        ((100, 3), ('z1', 'z2', 'log p(x, z)'))
    """
    if simulations < 20 or draws < 4:
        raise UsageError(
            f"calibration needs at least 20 simulations and 4 draws, found {simulations} and "
            f"{draws}"
        )
    like = tensor_of(model) if like is None else like
    with evaluating(model, posterior):
        first = _simulated(model, 1, seed, 2**62, like)
        size = first[0].shape[-1]
        joint = simulations * draws * first[1].numel() <= MOST_JOINT_CELLS
        chunk = max(1, min(simulations, CELLS_AT_ONCE // (draws * max(size, first[1].numel()))))
        parts = []
        for start in range(0, simulations, chunk):
            m = min(chunk, simulations - start)
            z, x = _simulated(model, m, seed, start, like)
            parts.append(_ranked(model, posterior, z, x, draws, joint, seed, start))
    ranks, residuals = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    # A residual of L draws and one more is Student's, wider than its law by (L - 1) / (L - 3).
    spread = np.square(residuals).mean(0) * (draws - 3) / (draws - 1)
    names = [f"z{d + 1}" for d in range(size)] + ["log p(x, z)"] * joint
    return Calibration(ranks, draws, tuple(names), residuals.mean(0), spread**-0.5)


def _simulated(model: Any, m: int, seed: int, start: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """z* (M, D) and x (M, *X), from numbers that are named by the first simulation."""
    with torch_seeded(generator(seed, Stream.CALIBRATION, start), like.device):
        z = model.prior().sample((m,))
        if z.ndim != 2:
            found = tuple(z.shape[1:])
            raise UsageError(f"calibration needs codes that are vectors, found {found}")
        x: Tensor = model.likelihood(z.unsqueeze(0)).sample()[0]
        return z, x.to(like)  # classes are drawn as whole numbers


def _ranked(
    model: Any, posterior: Any, z: Tensor, x: Tensor, draws: int, joint: bool, seed: int, start: int
) -> tuple[Tensor, Tensor]:
    """Ranks (M, Q) and standardized residuals (M, D) of z among draws of its posterior."""
    source = partial(generator, seed, Stream.CALIBRATION, start)
    codes = drawn(posterior(Batch(x)), (draws,), source(1), z)
    below, equal = codes < z, codes == z
    if joint:
        there = model.log_joint(x, codes)
        here = model.log_joint(x, z.unsqueeze(0))
        same = equal.all(-1)  # such codes have one density, whatever it was rounded to
        below = torch.cat([below, ((there < here) & ~same).unsqueeze(-1)], -1)
        equal = torch.cat([equal, ((there == here) | same).unsqueeze(-1)], -1)
    lots = uniform(source(2), below.shape[1:], torch.float64).to(z.device)
    ranks = below.sum(0) + (lots * (equal.sum(0) + 1)).long()
    apart = z.double() - codes.double().mean(0)
    deviation = codes.double().std(0) * math.sqrt(1 + 1 / draws)
    return ranks, apart / torch.where(deviation > 0, deviation, math.nan)
