"""log p(x) itself, where it can be had: in closed form, as a sum over all codes, by quadrature."""

import copy
import math
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Independent

from aevb.data import Rows
from aevb.distributions import Bernoulli, center, on_reals
from aevb.distributions.listed import listed
from aevb.enumeration import enumerate_codes
from aevb.errors import UsageError
from aevb.evaluation.batches import batch_for, evaluating
from aevb.evaluation.certificate import Certificate
from aevb.evaluation.chunks import Kept, Progress, by_chunks
from aevb.evaluation.lattice import Region, integrate
from aevb.evaluation.weights import Weighted
from aevb.linear_gaussian import as_linear_gaussian
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.randomness import Stream, generator

COARSE = {1: 1 / 16, 2: 1 / 8, 3: 1 / 3}
"""Spacing to begin with, in deviations of the prior, by the number of dimensions."""
DRAWS = 4000
"""Of the prior, for the region that holds it."""
MOST_COARSE = 1 << 17
HOPELESS = 30.0
"""Nats below the prior's largest density where no coarse point is laid."""
CELLS = 2_000_000
"""Of (points x data x elements) at once: 16 MB."""
AT_ONCE = {1: 512, 2: 128, 3: 16}
"""Data of one chunk, by the number of dimensions."""

Work = Callable[[NDArray[np.int64], Tensor], list[Tensor]]


def exact(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    *,
    tolerance: float = 1e-3,
    seed: int = 0,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """log p(x) of every row, with the error that is left, in double precision.

        closed form   the model is linear-Gaussian (see `as_linear_gaussian`)
        enumeration   log sum_z p(x, z), where the prior has at most 65,536 codes
        quadrature    log integral p(x, z) dz over 1 to 3 real dimensions (see `lattice`)

    `details` says which under "by". The posterior only says where to look first. An error is that
    of the logarithm, a bound in practice and no standard deviation; a row that needs more points
    than there is room for keeps a larger one, and a remark says so. `seed` names the draws of the
    prior that mark out where quadrature begins.
    Shapes: N rows. Units: nats per datum.
    Errors: UsageError for a tolerance that is not positive, more than three dimensions, or codes
    that are neither few nor free real numbers; DataError for rows outside the domain.
    Source: Trefethen & Weideman (2014), "The exponentially convergent trapezoidal rule".
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> model = aevb.Model(
        ...     aevb.standard_normal(1), aevb.continuous_bernoulli(aevb.MLP(1, [8], 64))
        ... )
        >>> found = exact(model, aevb.mean_field(aevb.MLP(64, [8], 2)), digits.test.limit(5))
        >>> found.details["by"], bool((found.errors < 1e-3).all())
        ('quadrature', True)
    """
    if not tolerance > 0:
        raise UsageError(f"the tolerance must be positive, found {tolerance}")
    # Both at once: a prior may be made of the posterior's own encoder.
    model, posterior = copy.deepcopy((model, posterior))
    model, posterior = model.double(), posterior.double()
    with evaluating(model, posterior):
        way = _closed(model) or _listing(model) or _quadrature(model, posterior, tolerance, seed)
        by, size, work = way
        fields = len(_Found._fields)
        table, width = by_chunks(model, rows, size, fields, work, kept=kept, progress=progress)
    return _told(by, _Found(*table), rows, width, tolerance)


_Found = namedtuple("_Found", "value error points spacing")
"""Of each datum: log p(x), the error that is left, how many points were laid, how densely."""

_Way = tuple[str, int, Work]
"""What it is called, how many data at once, and what is done for them."""


def _told(by: str, found: _Found, rows: Rows, width: float, tolerance: float) -> Certificate:
    """The certificate of what was found."""
    count, largest = round(float(found.points.mean())), float(found.error.max())
    rough = int((found.error > tolerance).sum())
    remark = (
        f"{rough} of {len(rows)} rows kept an error above {tolerance:g} nats, the largest "
        f"{largest:.2g}: their quadrature needs more points than there is room for"
    )
    laid = {"tolerance": tolerance, "median_spacing": float(np.median(found.spacing))}
    laid = laid if found.spacing.any() else {}
    return Certificate.of(
        *(Weighted(found.value, found.error, np.asarray(float(count)), None), rows, width),
        method="exact",
        direction="exact",
        samples=count,
        precision="float64",
        remarks=(remark,) if rough else (),
        details={"by": by, "points": count, "largest_error": largest} | laid,
    )


def _closed(model: Model) -> _Way | None:
    same = as_linear_gaussian(model)
    if same is None:
        return None
    return _summed("closed form", 1000, 1, lambda x: same.log_prob(x.to(same.offset)))


def _listing(model: Model) -> _Way | None:
    codes = listed(model.prior())
    if codes is None:
        return None

    def values(x: Tensor) -> Tensor:
        table = enumerate_codes(model, x)
        assert table is not None
        return table.log_evidence

    return _summed("enumeration", max(1, CELLS // len(codes)), len(codes), values)


def _summed(by: str, size: int, points: int, values: Callable[[Tensor], Tensor]) -> _Way:
    """A way without an error, by so many points."""

    def work(positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
        found = values(x)
        nothing = torch.zeros_like(found)
        return [found, nothing, nothing + points, nothing]

    return by, size, work


def _quadrature(model: Model, posterior: Posterior, tolerance: float, seed: int) -> _Way:
    prior = model.prior()
    size = prior.event_shape[0] if len(prior.event_shape) == 1 else 0
    free = on_reals(prior)
    if prior.batch_shape or size not in COARSE or not free:
        found = f"{size} dimensions" if size and free else "codes that are not"
        others = "importance or ais" if size and free else "importance"
        raise UsageError(
            "exact needs a linear-Gaussian model, codes that can be listed, or codes of 1 to 3 "
            f"free real numbers, found {found}: use {others}"
        )
    region = _region(model, size, seed)

    def work(positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
        batch = batch_for(model, x, positions)
        scorer = _Scorer(model, batch.x)
        table = scorer.table(region.points)
        found = integrate(scorer.pairs, table, center(posterior(batch)), region, tolerance)
        return [found.value, found.error, found.points, found.spacing.amin(-1)]

    return "quadrature", AT_ONCE[size], work


def _region(model: Model, size: int, seed: int) -> Region:
    """A coarse lattice over all that the prior holds."""
    draws = model.sample_prior(DRAWS, generator(seed, Stream.SAMPLING, 8))
    low, middle, high = torch.quantile(draws, torch.tensor([0.16, 0.5, 0.84]).to(draws), dim=0)
    deviation = (high - low) / 2
    reach = 1.3 * (draws - middle).abs().amax(0) + 2 * deviation
    spacing = COARSE[size] * deviation
    cells = (2 * reach / spacing).prod()
    spacing = spacing * (cells / MOST_COARSE).clamp_min(1) ** (1 / size)
    axes = [torch.arange(-int(n), int(n) + 1) for n in (reach / spacing).ceil()]
    steps = torch.cartesian_prod(*axes).reshape(-1, size).to(draws.device)
    density = model.prior().log_prob(middle + spacing * steps)
    return Region(middle, spacing, steps[density > density.max() - HOPELESS])


class _Scorer:
    """log p(x, z) of some data at many points, in blocks, by the shortest way there is."""

    def __init__(self, model: Model, x: Tensor) -> None:
        self.model, self.x = model, x
        law = model.likelihood(torch.zeros(1, *model.prior().event_shape).to(x))
        coins = isinstance(law, Independent) and type(law.base_dist) is Bernoulli
        own = type(model).log_joint, type(model).log_likelihood
        self.product = coins and x.ndim == 2 and own == (Model.log_joint, Model.log_likelihood)

    def table(self, z: Tensor) -> Tensor:
        """At every point with every datum, (P, D) to (P, M)."""
        cells = self.x[0].numel() * (1 if self.product else len(self.x))
        parts = z.split(max(1, CELLS // cells))
        return torch.cat([self._block(part) for part in parts]).nan_to_num(nan=-math.inf)

    def _block(self, z: Tensor) -> Tensor:
        if not self.product:
            joint: Tensor = self.model.log_joint(self.x, z.unsqueeze(1))
            whole: Tensor = joint.expand(-1, len(self.x))
            return whole
        logits: Tensor = self.model.likelihood(z).base_dist.logits
        constant = self.model.prior().log_prob(z) - F.softplus(logits, threshold=40.0).sum(-1)
        block: Tensor = logits @ self.x.mT + constant.unsqueeze(-1)
        return block

    def pairs(self, owner: Tensor, which: Tensor, z: Tensor) -> Tensor:
        """Of datum `owner` at z[which], (Q,) each; z (U, D)."""
        if self.product:
            return self._by_products(owner, which, z)
        size = max(1, CELLS // self.x[0].numel())
        parts = [
            self.model.log_joint(self.x[o], z[w].unsqueeze(0))[0]
            for o, w in zip(owner.split(size), which.split(size), strict=True)
        ]
        return torch.cat(parts)

    def _by_products(self, owner: Tensor, which: Tensor, z: Tensor) -> Tensor:
        order = which.argsort()
        size = max(1, CELLS // self.x[0].numel())
        ends = torch.searchsorted(which[order], torch.arange(0, len(z) + size, size).to(which))
        found = torch.empty(len(which)).to(z)
        for i, part in enumerate(z.split(size)):
            these = order[ends[i] : ends[i + 1]]
            found[these] = self._block(part)[which[these] - i * size, owner[these]]
        return found
