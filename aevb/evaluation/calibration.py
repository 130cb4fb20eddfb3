"""Simulation-based calibration: whether a posterior is right for data that the model itself makes.

    z* ~ p(z), x ~ p(x given z*), z_1 ... z_L ~ q(z given x);  rank = #{l: z_l < z*}

For the exact posterior z* is one more draw beside the z_l, so that its rank is uniform on 0, ..., L
in every dimension, and for every function of (x, z).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.devices import tensor_of
from aevb.distributions import route
from aevb.errors import UsageError
from aevb.evaluation.batches import evaluating
from aevb.evaluation.certificate import finite
from aevb.posterior import Batch
from aevb.randomness import Stream, generator, seed_torch, torch_kept

LEVEL = 1e-4
"""The chance that a calibrated posterior is called something else, over all tests."""
CELLS_AT_ONCE = 4_000_000
MOST_JOINT_CELLS = 400_000_000
"""Cells of x to be decoded for the ranks of log p(x, z): beyond, these are left out."""
BINS = 20


@dataclass(frozen=True)
class Calibration:
    """Ranks (M, Q) of the true z among L draws, for Q quantities over M simulations.

    `names` says which: "z1", "z2", ... and "log p(x, z)". `shift` (D,) is the mean of (z* - mean) /
    deviation of the draws, `ratio` (D,) the deviation of q over that which it should have.
    """

    ranks: NDArray[np.int64]
    draws: int
    names: tuple[str, ...]
    shift: NDArray[np.float64]
    ratio: NDArray[np.float64]

    @property
    def simulations(self) -> int:
        return len(self.ranks)

    @cached_property
    def p_values(self) -> dict[str, NDArray[np.float64]]:
        """Of three tests of uniformity for each quantity, (Q,): of bins, of location, of spread.

        Location and spread are those of the normal scores of the ranks, whose moments under
        uniformity are known exactly.
        """
        from scipy.special import chdtrc, ndtr, ndtri  # late: it takes a tenth of a second

        m, levels = self.simulations, self.draws + 1
        bins = max(k for k in range(2, BINS + 1) if levels % k == 0 or k == 2)
        found = self.ranks * bins // levels
        counts = np.stack([(found == k).sum(0) for k in range(bins)])
        held = np.bincount(np.arange(levels) * bins // levels, minlength=bins)
        expected = (m * held / levels)[:, None]
        statistic = ((counts - expected) ** 2 / expected).sum(0)
        score = ndtri((np.arange(levels) + 0.5) / levels)
        sizes = {"location": score, "spread": score**2 - np.mean(score**2)}
        tests = {"bins": chdtrc(bins - 1, statistic)}
        for name, size in sizes.items():
            error = math.sqrt(np.mean(size**2) / m)
            tests[name] = 2 * ndtr(-np.abs(size[self.ranks].mean(0)) / error)
        return tests

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
            if i < len(self.ratio) and p["spread"] < limit:
                off = 100 * (self.ratio[i] - 1)
                said.append(f"too {'wide' if off > 0 else 'narrow'} by about {abs(off):.1f} %")
            if i < len(self.shift) and p["location"] < limit:
                side = "low" if self.shift[i] > 0 else "high"
                said.append(f"too {side} by about {abs(self.shift[i]):.2g} of its deviations")
            if not said and min(p.values()) < limit:
                said.append(f"not that of the model (p = {min(p.values()):.1g})")
            if said:
                found.append(f"The posterior of {name} is {' and '.join(said)}.")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """The calibration without its ranks, ready for JSON."""
        return {
            "simulations": self.simulations,
            "draws": self.draws,
            "calibrated": self.calibrated,
            "smallest_p": self.smallest_p,
            "quantities": list(self.names),
            "p_values": {test: values.tolist() for test, values in self.p_values.items()},
            "shift": [finite(v) for v in self.shift.tolist()],
            "ratio": [finite(v) for v in self.ratio.tolist()],
            "verdicts": list(self.verdicts),
        }

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

        rank = #{l: z_l < z*},   z* ~ p(z), x ~ p(x given z*), z_1 ... z_L ~ q(z given x)

    An exact posterior has uniform ranks. One that is too narrow has too many at the ends, one that
    is too wide too many in the middle. An amortized posterior is hardly ever exact, and fits data
    sets better than what an untrained model makes: its figures say how far it is off.
    Shapes: `simulations` M, `draws` L; ranks (M, D), and of log p(x, z) where that is cheap.
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
    with torch_kept(like.device), evaluating(model, posterior):
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
    seed_torch(int(generator(seed, Stream.CALIBRATION, start).integers(2**63)), like.device)
    z = model.prior().sample((m,))
    if z.ndim != 2:
        raise UsageError(f"calibration needs codes that are vectors, found {tuple(z.shape[1:])}")
    return z, model.likelihood(z.unsqueeze(0)).sample()[0]


def _ranked(
    model: Any, posterior: Any, z: Tensor, x: Tensor, draws: int, joint: bool, seed: int, start: int
) -> tuple[Tensor, Tensor]:
    """Ranks (M, Q) and standardized residuals (M, D) of z among draws of its posterior."""
    q = posterior(Batch(x))
    source = generator(seed, Stream.CALIBRATION, start, 1)
    try:
        way = route(q)
    except UsageError:
        seed_torch(int(source.integers(2**63)), x.device)
        drawn = q.sample((draws,))
    else:
        drawn = way.transform(way.noise.draw(source, (draws, len(x)), z.dtype).to(x.device))
    ranks = (drawn < z).sum(0)
    if joint:
        there = model.log_joint(x, drawn)
        here = model.log_joint(x, z.unsqueeze(0))
        ranks = torch.cat([ranks, (there < here).sum(0).unsqueeze(1)], 1)
    apart = z.double() - drawn.double().mean(0)
    deviation = drawn.double().std(0) * math.sqrt(1 + 1 / draws)
    return ranks, apart / deviation.clamp_min(1e-100)
