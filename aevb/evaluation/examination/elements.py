"""Densities of single numbers: their integral by quadrature or summation, and draws against it.

The pieces of the quadrature lie between draws of the law itself and go on geometrically to the ends
of the support: a wrong draw makes them worse placed, never the integral of a wrong density right.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from aevb.distributions import support_of_cells
from aevb.distributions.reparameterization import base_of
from aevb.evaluation.examination.subject import LEVEL, Law, Subject
from aevb.evaluation.findings import Finding, Skipped

NODES, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
BINS = 16
PLACING, COUNTED = 1000, 2000
"""Draws that place the pieces, and others that are counted in them."""
MOST_CELLS = 20_000
MOST_VALUES = 20_000
HALVINGS = 10
LEAST = 1e-280
ELEMENTS = 32
"""Of a discrete law, whose draws are counted one by one."""


def elements(d: Distribution) -> Distribution | None:
    """The law of each element where they are independent, else None."""
    inner = base_of(d)
    return None if inner.event_shape else inner


def bounds(d: Distribution) -> tuple[Tensor, Tensor]:
    """The ends of the support of each element, (*batch,), infinite where there are none."""
    support = support_of_cells(_support(d))
    ends = []
    for name, usual in (("lower_bound", -math.inf), ("upper_bound", math.inf)):
        end = torch.as_tensor(getattr(support, name, usual), dtype=torch.float64)
        ends.append(end.detach().expand(d.batch_shape))
    return ends[0], ends[1]


def _support(d: Distribution) -> Any:
    """What a law says of its support; the reals for one that says nothing."""
    try:
        return d.support
    except NotImplementedError:
        return constraints.real


def is_discrete(d: Distribution) -> bool:
    """Whether a law is of separate values."""
    return bool(getattr(_support(d), "is_discrete", False))


def knots(draws: Tensor, low: Tensor, high: Tensor, pieces: int, tail: int) -> Tensor:
    """Ends of pieces for each element, rising, (pieces + 2 (tail + HALVINGS) + 1, *batch).

    The outermost draws are far apart: what lies between them is halved again and again.
    Shapes: draws (M, *batch), low and high (*batch,).
    """
    level = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    at = torch.quantile(draws, level, dim=0)
    span = (at[-1] - at[0]).clamp_min(1e-300)
    shape = (-1, *[1] * (at.ndim - 1))
    halves = (0.5 ** torch.arange(HALVINGS, 0, -1, dtype=torch.float64)).reshape(shape)
    first = at[1] - halves.flip(0) * (at[1] - at[0])
    last = at[-2] + halves * (at[-1] - at[-2])
    far = 1e200 if tail > 100 else 1e25
    grown = torch.from_numpy(np.geomspace(1e-3, far, tail)).reshape(shape) * span
    shrunk = (0.25 ** torch.arange(1, tail + 1, dtype=torch.float64)).reshape(shape)
    right = torch.where(torch.isinf(high), at[-1] + grown, high - (high - at[-1]) * shrunk)
    left = torch.where(torch.isinf(low), at[0] - grown, low + (at[0] - low) * shrunk)
    return torch.cat([left.flip(0), at[:1], first, at[1:-1], last, at[-1:], right])


def masses(d: Distribution, ends: Tensor, dtype: torch.dtype) -> Tensor:
    """The integral of the density over each piece, (pieces, *batch)."""
    found = []
    middle = ends[len(ends) // 2]
    low, high = bounds(d)
    per_chunk = max(1, 4_000_000 // (8 * max(middle.numel(), 1)))
    for first in range(0, len(ends) - 1, per_chunk):
        some = ends[first : first + per_chunk + 1]
        left, half = some[:-1], (some[1:] - some[:-1]) / 2
        nodes = NODES.reshape(-1, *[1] * left.ndim)
        weights = WEIGHTS.reshape(-1, *[1] * left.ndim) * half
        points = left + half * (nodes + 1)
        narrowed = points.to(dtype).double()
        inside = (narrowed > low) & (narrowed < high) & (weights > 0) & torch.isfinite(narrowed)
        inside &= narrowed.abs() > LEAST  # below it a density may overflow
        points = torch.where(inside, narrowed, middle)
        log_p = d.log_prob(points.flatten(0, 1).to(dtype)).double().reshape(points.shape)
        density = torch.where(inside, log_p.exp() * weights, 0.0)
        found.append(density.nan_to_num(nan=0.0).sum(0))
    return torch.cat(found)


def examine_elements(subject: Subject, law: Law, d: Distribution) -> Iterator[Finding]:
    """Whether the density of each element, d, integrates to one, and its draws follow it."""
    if d.batch_shape.numel() > MOST_CELLS:
        raise Skipped(f"{d.batch_shape.numel():,} elements are many")
    if is_discrete(d):
        yield from _discrete(subject, law, d)
    else:
        yield from _continuous(subject, law, d)
    yield from _summed(subject, law, d)


def _summed(subject: Subject, law: Law, inner: Distribution) -> Iterator[Finding]:
    """Whether the log-density of independent elements is the sum of theirs."""
    d = law.distribution
    if type(d) is Independent or not d.event_shape:
        return
    x = d.sample((2,))
    expected = inner.log_prob(x).flatten(1 + len(d.batch_shape)).sum(-1)
    figure = float((d.log_prob(x) - expected).abs().max())
    if not figure <= 100 * subject.tolerance * (1 + float(expected.abs().max())):
        yield Finding(
            f"{law.name}-integral",
            f"log_prob of {type(d).__name__} differs by {figure:.3g} nats from the sum over its "
            "elements.",
            figure,
            "Sum the log-densities of the elements.",
        )


def _continuous(subject: Subject, law: Law, d: Distribution) -> Iterator[Finding]:
    draws = subject.draws(law._replace(distribution=d), PLACING + COUNTED, 0).double()
    finite = torch.isfinite(draws).all(0)
    draws = torch.where(finite, draws, 0.5)
    low, high = bounds(d)
    fine = d.batch_shape.numel() <= 2500
    pieces, tail = (64, 250) if fine else (16, 60)
    ends = knots(draws[:PLACING], low, high, pieces, tail)
    mass = masses(d, ends, subject.dtype)
    total = mass.sum(0)
    # At an end of the support other than 0 the digits of a number run out before the mass does.
    near = ((draws - low).abs() < 1e-7 * low.abs()) | ((high - draws).abs() < 1e-7 * high.abs())
    moving = (draws.amax(0) - draws.amin(0)) > 1e-9 * draws.abs().amax(0)
    near |= draws.abs() < 1e20 * LEAST
    known = finite & moving & (near.double().mean(0) < 1e-3)
    if not bool(known.any()):
        raise Skipped("its draws are not finite, do not move, or lie at an end of its support")
    limit = 2e-3 if subject.dtype == torch.float64 else 2e-2
    wrong = known & ((total - 1).abs() > limit)
    if bool(wrong.any()):
        finer = torch.cat(
            [ends[:1], torch.stack([(ends[:-1] + ends[1:]) / 2, ends[1:]], 1).flatten(0, 1)]
        )
        again = masses(d, finer, subject.dtype).sum(0)
        wrong &= ((again - total).abs() <= 0.05 * (total - 1).abs()) | ~torch.isfinite(again)
    if bool(wrong.any()):
        yield not_one(law, total[wrong])
    inner = [tail + HALVINGS + k * pieces // BINS for k in range(1, BINS)]
    below = torch.stack([(draws[PLACING:] < ends[i]).double().sum(0) for i in inner])
    counts = _differences(below, torch.full_like(total, COUNTED))
    expected = COUNTED * _differences(mass.cumsum(0)[[i - 1 for i in inner]], total) / total
    usable = known & ((total - 1).abs() <= limit)
    statistic = ((counts - expected).square() / expected.clamp_min(1.0)).sum(0)[usable]
    yield from misfit(law, statistic.numpy(), np.full(int(usable.sum()), BINS - 1))


def _differences(inner: Tensor, last: Tensor) -> Tensor:
    """What lies between 0, the rows of `inner`, and `last`."""
    whole = torch.cat([torch.zeros_like(inner[:1]), inner, last.unsqueeze(0)])
    return torch.diff(whole, dim=0)


def not_one(law: Law, totals: Tensor) -> Finding:
    """A density whose integral is not one: the element that is furthest off."""
    worst = float(totals[(totals.clamp_min(1e-300)).log().abs().argmax()])
    return Finding(
        f"{law.name}-integral",
        f"The density of {law.title} integrates to {worst:.4g} instead of 1"
        + (f" ({totals.numel()} of its elements do not)." if totals.numel() > 1 else "."),
        worst,
        "Write its log_prob with every constant, once, and of this support alone.",
    )


def misfit(law: Law, statistic: NDArray[Any], degrees: NDArray[Any]) -> Iterator[Finding]:
    """Draws that do not follow the density: the worst element, or all of them together."""
    from scipy.special import chdtrc  # late: it takes a tenth of a second

    if not len(statistic):
        return
    p = min(
        float(chdtrc(degrees, statistic).min()) * len(statistic),
        float(chdtrc(degrees.sum(), statistic.sum())),
    )
    if p < LEVEL / 2:
        ratio = float((statistic / degrees).max())
        yield Finding(
            f"{law.name}-draws",
            f"Draws of {law.title} do not follow its log_prob: a chi-square of "
            f"{ratio:.3g} for each degree of freedom, where 1 is expected (p = {p:.1g}).",
            ratio,
            "Let sample, rsample and log_prob use the same parameters, scales as scales.",
        )


def _discrete(subject: Subject, law: Law, d: Distribution) -> Iterator[Finding]:
    draws = subject.draws(law._replace(distribution=d), COUNTED, 0).double()
    values = _values(d, draws).to(subject.dtype)
    if values.numel() * 1.0 * (d.batch_shape.numel() / max(values[0].numel(), 1)) > 4e7:
        raise Skipped("its values are too many to be summed")
    log_p = d.log_prob(values).double()
    total = log_p.exp().sum(0)
    wrong = ~((total - 1).abs() < (1e-3 if subject.dtype == torch.float64 else 1e-2))
    if bool(wrong.any()):
        yield not_one(law, total[wrong])
    listed = values.double().expand(log_p.shape).flatten(1).numpy()
    mass = (log_p.exp() / total).flatten(1).nan_to_num().numpy()
    drawn_values = draws.flatten(1).numpy()
    chosen = np.unique(np.linspace(0, mass.shape[1] - 1, ELEMENTS).astype(int))
    fits = [_pooled(drawn_values[:, i], listed[:, i], mass[:, i]) for i in chosen]
    statistics, degrees = (np.array(column, float) for column in zip(*fits, strict=True))
    judged = degrees > 0
    yield from misfit(law, statistics[judged], degrees[judged])


def _values(d: Distribution, draws: Tensor) -> Tensor:
    """Every value that each element can take, (K, *batch), or all that matter."""
    if d.has_enumerate_support:
        return d.enumerate_support()
    most = int(min(4 * float(draws.max()) + 400, float(bounds(d)[1].max())))
    least = int(bounds(d)[0].min())
    if most - least > MOST_VALUES:
        raise Skipped(f"its values, up to {most:,}, are too many to be summed")
    counts = torch.arange(least, most + 1, dtype=torch.float64)
    return counts.reshape(-1, *[1] * len(d.batch_shape)).expand(-1, *d.batch_shape)


def _pooled(draws: NDArray[Any], values: NDArray[Any], mass: NDArray[Any]) -> tuple[float, int]:
    """Chi-square and its degrees of freedom, over neighboring values with 8 draws expected."""
    middles = (values[1:] + values[:-1]) / 2
    counts = np.bincount(np.searchsorted(middles, draws), minlength=len(values))
    groups = [[0.0, 0.0]]
    for hoped, count in zip(mass * len(draws), counts, strict=True):
        if groups[-1][0] >= 8:
            groups.append([0.0, 0.0])
        groups[-1][0] += hoped
        groups[-1][1] += count
    if len(groups) > 1 and groups[-1][0] < 8:
        hoped, count = groups.pop()
        groups[-1] = [groups[-1][0] + hoped, groups[-1][1] + count]
    return sum((o - e) ** 2 / max(e, 1.0) for e, o in groups), len(groups) - 1
