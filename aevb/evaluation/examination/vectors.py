"""Densities of vectors: their integral by importance sampling, draws by the score, and their maps.

    integral   E_t[q(u) / t(u)] = 1,  t a mixture of Student's laws fitted to draws of q
    score      E_q[d log q / du_i] = 0  and  E_q[(u_i - m_i) d log q / du_i] = -1
    map        log q(g(e)) + log |det dg/de| = log r(e),  r the law of the noise

All are over u, which is z carried to the reals where the support is not all of them.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution, biject_to

from aevb.distributions import route
from aevb.distributions.reparameterization import base_of, drawn
from aevb.errors import UsageError
from aevb.evaluation.examination.elements import is_discrete
from aevb.evaluation.examination.subject import Law, Subject, sigmas
from aevb.evaluation.findings import Finding, Skipped
from aevb.evaluation.pareto import RELIABLE, largest, tail_shape
from aevb.flows import FlowDistribution

DRAWS = 4000
PROPOSALS = 8192
MOST_DIMENSIONS = 20
LEAST_EFFECTIVE = 400
FEWEST_BEYOND = 20
MOST_MISSED = 0.05
"""Of draws, with weights beyond the 20 largest of the proposals."""
FREEDOMS = (4.0, 30.0)
"""Degrees of freedom of the two halves of the proposal: one for tails, one for the middle."""
MAPPED = 16
"""Draws at which log-determinants are compared."""
MOST_MAPPED = 128


def to_reals(d: Distribution) -> Any:
    """The bijection from the reals onto the support of a law of vectors."""
    if is_discrete(d):
        raise Skipped("its values are separate")
    try:
        return biject_to(d.support)
    except NotImplementedError:
        raise Skipped("no map from the reals onto its support is known") from None


def examine_vectors(subject: Subject, law: Law) -> Iterator[Finding]:
    """Whether a density of vectors integrates to one, and draws follow it."""
    d = law.distribution
    if len(d.event_shape) != 1:
        raise Skipped(f"events of shape {tuple(d.event_shape)} are no vectors")
    if d.event_shape[0] > MOST_DIMENSIONS:
        raise Skipped(f"events have more than {MOST_DIMENSIONS} dimensions")
    way = to_reals(d)
    z = subject.draws(law, DRAWS, 2)
    u = way.inv(z)
    astray = float((d.log_prob(way(u)) - d.log_prob(z)).abs().max())
    u = u.reshape(DRAWS, -1, u.shape[-1])
    if not bool(torch.isfinite(u).all()) or astray > 0.01:
        raise Skipped("some of its draws lie at an end of its support, where digits run out")
    yield from _scores(law, way, u)
    totals = [_integral(subject, law, way, u[:, b], b) for b in range(u.shape[1])]
    known = [found for found in totals if found is not None]
    if not known:
        raise Skipped("no proposal fits its density well enough to integrate it")
    off = [(mean, error) for mean, error in known if _is_off(mean, error, len(known))]
    if off:
        mean, error = max(off, key=lambda found: abs(math.log(max(found[0], 1e-300))))
        yield Finding(
            f"{law.name}-integral",
            f"The density of {law.title} integrates to {mean:.4g} ± {error:.1g} instead of 1.",
            mean,
            "Write its log_prob with every constant and log-determinant, once.",
        )


def _is_off(mean: float, error: float, tests: int) -> bool:
    return not math.isfinite(mean) or abs(mean - 1) > sigmas(tests) * error + 0.02


def _log_density(law: Law, way: Any, u: Tensor, b: int | None = None) -> Tensor:
    """log of the density over u, (M, B); for u (M, D'), of element b of the batch."""
    d = law.distribution
    batch = d.batch_shape.numel()
    if b is not None:  # the whole batch gets the points: a law cannot be indexed
        u = u.unsqueeze(1).expand(-1, batch, -1)
    u = u.reshape(len(u), *d.batch_shape, u.shape[-1])
    z = way(u)
    log_p = (d.log_prob(z) + _volume(way, u, z)).reshape(len(u), batch)
    return log_p if b is None else log_p[:, b]


def _volume(way: Any, u: Tensor, z: Tensor) -> Tensor:
    """log |det dz/du|, (..., )."""
    log_det: Tensor = way.log_abs_det_jacobian(u, z)
    return log_det.sum(-1) if log_det.ndim == u.ndim else log_det


def _scores(law: Law, way: Any, u: Tensor) -> Iterator[Finding]:
    centered = u - u.median(0).values
    scale = centered.abs().mean(0).clamp_min(1e-30)
    if not bool(torch.isfinite(_log_density(law, way, u + 3 * scale * torch.randn_like(u))).all()):
        return  # the density has an end within the reals, where the identities need not hold
    with torch.enable_grad():
        leaf = u.detach().clone().requires_grad_()
        log_q = _log_density(law, way, leaf)
        if not log_q.requires_grad:
            return
        (score,) = torch.autograd.grad(log_q.sum(), [leaf])
    first, second = score.double() * scale, (score * centered).double() + 1
    for values, what in ((first, "mean"), (second, "spread")):
        error = values.std(0) / math.sqrt(len(values))
        mean = values.mean(0)
        off = mean.abs() - sigmas(2 * mean.numel()) * error
        # Scores with hardly a variance have means that are not normal: those are left out.
        kurtosis = ((values - mean) / values.std(0).clamp_min(1e-30)).pow(4).mean(0)
        off = torch.where((kurtosis < 300) & torch.isfinite(mean), off, -math.inf)
        if float(off.max()) > 0.05:
            i = int(off.flatten().argmax())
            figure = float(mean.flatten()[i]) - (what == "spread")
            yield Finding(
                f"{law.name}-draws",
                f"Draws of {law.title} do not follow its log_prob: in dimension "
                f"{i % mean.shape[-1] + 1} {_said(what, figure)}.",
                figure,
                "Let rsample and log_prob use the same parameters and the same maps.",
            )
            return


def _said(what: str, figure: float) -> str:
    """What a failed identity of the score means in words."""
    if what == "mean":
        return f"the mean score is {figure:.3g} spreads instead of 0: they are shifted"
    side = "wider" if figure < -1 else "narrower"
    return f"E[(z - m) d log q/dz] is {figure:.3g} instead of -1: they are {side} than it says"


def _integral(
    subject: Subject, law: Law, way: Any, u: Tensor, b: int
) -> tuple[float, float] | None:
    """The integral and its error; None where the weights cannot be trusted."""
    u = u.double()
    middle = u.median(0).values
    factor = torch.linalg.cholesky_ex(_spread(u - middle)).L
    points = middle + _proposed(u.shape[1], subject.source(5, b)) @ factor.T
    log_w = _log_density(law, way, points.to(subject.dtype), b).double()
    log_w = log_w - _log_proposal(points, middle, factor)
    if bool(torch.isnan(log_w).any()):
        return math.nan, math.nan
    there = _log_density(law, way, u.to(subject.dtype), b).double()
    there = there - _log_proposal(u, middle, factor)
    # Draws whose weight hardly a proposal has lie where the proposal hardly goes.
    missed = float((there > log_w.topk(FEWEST_BEYOND).values[-1]).double().mean())
    w = torch.exp(log_w)
    effective = float(w.sum() ** 2 / w.square().sum())
    heavy = float(tail_shape(largest(log_w.unsqueeze(1), PROPOSALS))) > RELIABLE
    if missed > MOST_MISSED or heavy or effective < LEAST_EFFECTIVE:
        return None
    return float(w.mean()), float(w.std()) / math.sqrt(PROPOSALS)


def _proposed(size: int, source: np.random.Generator) -> Tensor:
    """Draws of Student's laws about 0, half of them of each freedom, (PROPOSALS, D)."""
    freedom = np.repeat(FREEDOMS, PROPOSALS // 2)[:, None]
    normal = source.standard_normal((PROPOSALS, size))
    return torch.from_numpy(normal / np.sqrt(source.chisquare(freedom) / freedom))


def _log_proposal(points: Tensor, middle: Tensor, factor: Tensor) -> Tensor:
    """log t at points (M, D)."""
    standard = torch.linalg.solve_triangular(factor, (points - middle).T, upper=False).T
    squares, log_det = standard.square().sum(1), factor.diagonal().log().sum()
    one, other = (_student(squares, nu, points.shape[1]) for nu in FREEDOMS)
    return torch.logaddexp(one, other) - math.log(2) - log_det


def _spread(centered: Tensor) -> Tensor:
    """A covariance of draws that does not need their variance: each is weighed down by its size."""
    scale = centered.abs().median(0).values.clamp_min(1e-30) / 0.6745
    standard = centered / scale
    weights = 1 / (1 + standard.square().mean(1))
    covariance = (standard * weights.unsqueeze(1)).T @ standard / weights.sum()
    covariance = covariance / covariance.diagonal().mean()
    covariance += 1e-6 * torch.eye(len(scale)).to(covariance)
    return 1.2 * covariance * scale.unsqueeze(1) * scale


def _student(squares: Tensor, nu: float, size: int) -> Tensor:
    constant = (
        math.lgamma((nu + size) / 2) - math.lgamma(nu / 2) - size / 2 * math.log(nu * math.pi)
    )
    return constant - (nu + size) / 2 * torch.log1p(squares / nu)


# -- maps ------------------------------------------------------------------------------------------


def examine_route(subject: Subject) -> Iterator[Finding]:
    """Whether log q(g(e)) is the law of the noise less the log-determinant of g, by autograd."""
    law = subject.law("posterior")
    q = law.distribution
    try:
        way = route(q)
    except UsageError:
        raise Skipped("the posterior has no known map of noise") from None
    size = q.event_shape.numel()
    if way.noise.shape.numel() != size or size > MOST_MAPPED or is_discrete(q):
        raise Skipped("the noise of a draw is not shaped like the draw, or there is too much of it")
    noise = way.noise.draw(subject.source(6), (MAPPED, *q.batch_shape), subject.dtype)
    base = way.noise.log_prob(noise)
    if base is None:
        raise Skipped("the density of the noise is not known")
    if to_reals(q).inv(subject.draws(law, 1, 3)).numel() != q.batch_shape.numel() * size:
        raise Skipped("its draws fill a surface, where a log-determinant is another thing")
    z, log_det = jacobian(way.transform, noise, q.batch_shape)
    yield from _compared(subject, q.log_prob(z.detach().clone()), base - log_det, "its noise")
    kept = q.log_prob(way.transform(noise))
    yield from _compared(subject, kept, base - log_det, "its noise")


def jacobian(function: Any, noise: Tensor, batch: torch.Size) -> tuple[Tensor, Tensor]:
    """A map's values and log |det| of its derivative, for each draw of each datum by itself."""
    with torch.enable_grad():
        leaf = noise.detach().clone().requires_grad_()
        value = function(leaf)
        if not value.requires_grad:
            raise Skipped("draws carry no gradient")
        lead = len(noise) * batch.numel()
        flat = value.reshape(lead, -1)
        rows = [
            torch.autograd.grad(flat[:, i].sum(), [leaf], retain_graph=True)[0].reshape(lead, -1)
            for i in range(flat.shape[1])
        ]
    log_det = torch.linalg.slogdet(torch.stack(rows, 1).double()).logabsdet
    return value, log_det.reshape(len(noise), *batch)


def _compared(subject: Subject, found: Tensor, expected: Tensor, over: str) -> Iterator[Finding]:
    """A finding where log-densities differ at more than a few of the draws."""
    difference = (found.detach().double() - expected.double()).flatten()
    limit = (1e-4 if subject.dtype == torch.float64 else 1e-2) * (1 + expected.abs().flatten())
    off = ~(difference.abs() <= limit)
    if float(off.double().mean()) > 0.2:
        figure = float(difference.nanmedian())
        yield Finding(
            "log-determinant",
            f"log q(z given x) differs by {figure:+.3g} nats from the density that the map of "
            f"{over} gives z by autograd.",
            figure,
            "Take the logarithm of |det dz/dnoise| of the very map that makes z.",
        )


def examine_maps(subject: Subject) -> Iterator[Finding]:
    """Whether each invertible map of a flow is inverted by its inverse, with the log-determinant
    that autograd finds."""
    maps = list(_maps(subject, subject.law("posterior").distribution))
    maps += list(_maps(subject, subject.model.prior()))
    if not maps:
        raise Skipped("neither the posterior nor the prior is a flow of maps")
    for name, there, back, x, batch in maps:
        if x.shape[-1] > MOST_MAPPED:
            continue
        with torch.no_grad():
            y, claimed = there(x)
            again, inverse_claimed = back(y)
        _, log_det = jacobian(lambda e, there=there: there(e)[0], x, batch)
        off = float((again - x).abs().max() / (1 + x.abs().max()))
        if not off < max(1e-4, 10 * subject.tolerance):
            yield Finding(
                "inverse",
                f"The inverse of {name} misses the point it started from by {off:.2g}.",
                off,
                "Undo the steps of its forward map in reverse order.",
            )
        for said, which in ((claimed, "reports"), (inverse_claimed, "reports going back")):
            said = said.detach().double().expand(log_det.shape)
            figure = float((said - log_det).flatten().median())
            apart = (said - log_det).abs() > 100 * subject.tolerance * (1 + log_det.abs())
            if float(apart.double().mean()) > 0.2:
                yield Finding(
                    "log-determinant",
                    f"The log-determinant that {name} {which} differs by {figure:+.3g} nats from "
                    "that of autograd.",
                    figure,
                    "Return log |det dy/dx| of the map as it is applied.",
                )
                break


def _maps(subject: Subject, d: Distribution) -> Iterator[tuple[str, Any, Any, Tensor, torch.Size]]:
    """Each map as (name, forward, inverse, points x, batch): both give a point and log |det|."""
    d = base_of(d)
    batch = d.batch_shape
    if isinstance(d, FlowDistribution):
        x = drawn(d.base, (MAPPED,), subject.source(7), subject.batch.x).detach()
        for step in d.maps:
            yield type(step).__name__, step.forward, step.inverse, x, batch
            x = step.forward(x)[0].detach()
    elif isinstance(d, TransformedDistribution):
        x = d.base_dist.sample((MAPPED,))
        for t in d.transforms:
            vector = len(d.event_shape) == 1 or t.domain.event_dim == 1

            def there(x: Tensor, t: Any = t, vector: bool = vector) -> tuple[Tensor, Tensor]:
                y = t(x)
                log_det = t.log_abs_det_jacobian(x, y)
                # An elementwise map of vectors gives a number for each element.
                return y, log_det.sum(-1) if vector and log_det.ndim == x.ndim else log_det

            def back(y: Tensor, t: Any = t, there: Any = there) -> tuple[Tensor, Tensor]:
                x = t.inv(y)
                return x, there(x)[1]

            yield type(t).__name__, there, back, x, batch
            x = t(x).detach()
