"""Sums over a support: Gauss-Legendre pieces on a line, charts of a space, simplex and sphere.

The pieces lie between draws of the law itself, and go on geometrically to the ends of the support:
a wrong draw makes them worse placed, never the integral of a wrong density right.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.distributions import constraints

NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


class Grid(NamedTuple):
    """Points (n,) or (n, D), their weights (n,) and, on a line, the ends of the pieces."""

    points: torch.Tensor
    weights: torch.Tensor
    knots: np.ndarray | None = None

    def integrate(self, values):
        """The integral of the values (n,); where the density is 0 a product of 0 and inf is 0."""
        return float((torch.nan_to_num(values, nan=0.0) * self.weights).sum())


def bounds(d):
    """The ends of the support of a law on a line, as floats."""
    support = d.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.boolean:
        return 0.0, 1.0
    low = getattr(support, "lower_bound", -math.inf)
    high = getattr(support, "upper_bound", math.inf)
    return float(low), float(high)


def pieces(knots):
    """Gauss-Legendre points and weights between knots, flat."""
    left, right = knots[:-1, None], knots[1:, None]
    half = (right - left) / 2
    return (left + half * (NODES + 1)).ravel(), (half * WEIGHTS).ravel()


def line(d, draws):
    """The grid of a law on a line from some of its draws."""
    low, high = bounds(d)
    at = np.quantile(draws, np.linspace(0, 1, 1001))
    at = np.unique(np.clip(at[np.isfinite(at)], low, high))
    inner = (at[:-1, None] + np.diff(at)[:, None] * np.linspace(0, 1, 4, endpoint=False)).ravel()
    span = max(at[-1] - at[0], 1e-300)
    grown = span * np.geomspace(1e-3, 1e30, 800)
    shrunk = 2.0 ** -np.arange(0, 1060, 1.0)
    left = at[0] - grown if math.isinf(low) else low + (at[0] - low) * shrunk
    right = at[-1] + grown if math.isinf(high) else high - (high - at[-1]) * shrunk
    if not math.isinf(low):  # also from the middle down, where draws are sparse
        left = np.concatenate([left, [low], low + (np.median(at) - low) * shrunk])
    if not math.isinf(high):
        right = np.concatenate([right, [high], high - (high - np.median(at)) * shrunk])
    knots = np.unique(np.concatenate([inner, at[-1:], left, right]))
    knots = knots[(knots >= low) & (knots <= high)]
    points, weights = pieces(knots)
    inside = (points > low) & (points < high)
    return Grid(
        torch.from_numpy(np.where(inside, points, np.median(at))),
        torch.from_numpy(np.where(inside, weights, 0)),
        knots,
    )


def space(d, draws):
    """Polar coordinates of a plane or a space around its middle, stretched as the law is."""
    center = d.loc.numpy() if hasattr(d, "loc") else np.median(draws, 0)
    distance = np.sqrt(((draws - center) ** 2).sum(1))
    near = draws[distance <= np.quantile(distance, 0.9)]
    exact = getattr(d, "scale_tril", None)
    factor = np.linalg.cholesky(np.cov(near.T)) if exact is None else exact.numpy()
    size = draws.shape[1]
    turn, angle = circle() if size == 2 else turns(*pieces(np.linspace(-1, 1, 6)), np.eye(3))
    radius, weight = pieces(
        np.concatenate([[0], np.geomspace(1e-5, 1e8, 600 if size == 2 else 90)])
    )
    points = center + (radius[:, None, None] * turn) @ factor.T
    weights = (radius ** (size - 1) * weight)[:, None] * angle * np.linalg.det(factor)
    return Grid(torch.from_numpy(points.reshape(-1, size)), torch.from_numpy(weights.ravel()))


def circle(n=48):
    angle = np.arange(n) * 2 * math.pi / n
    return np.stack([np.cos(angle), np.sin(angle)], -1), np.full(n, 2 * math.pi / n)


def turns(height, weight, basis, n=32):
    """Points (n, 3) of the sphere and their weights, for heights along the first basis vector.

    Each circle is turned by the golden angle against the one before: none sees them line up.
    """
    angle = np.arange(n) * 2 * math.pi / n + 2.39996 * np.arange(len(height))[:, None]
    around = np.stack([np.cos(angle), np.sin(angle)], -1)
    side = np.sqrt(1 - height**2)[:, None, None]
    points = height[:, None, None] * basis[:, 0] + side * (around @ basis[:, 1:].T)
    return points.reshape(-1, 3), np.repeat(weight * 2 * math.pi / n, n)


def simplex(d, draws):
    """Two logistic sticks a, b in R: (s(a), s(-a) s(b), s(-a) s(-b)), measured by two of them."""
    t = np.linspace(-5.2, 5.2, 361)
    stick, slope = 2 * np.sinh(t), 2 * np.cosh(t) * (t[1] - t[0])
    a, b = (v.ravel() for v in np.meshgrid(stick, stick, indexing="ij"))
    weight = np.outer(slope, slope).ravel()
    s, not_s, u, not_u = (1 / (1 + np.exp(np.clip(v, -700, 700))) for v in (-a, a, -b, b))
    points = np.stack([s, not_s * u, not_s * not_u], -1)
    weights = s * not_s * u * not_u * not_s * weight
    return Grid(torch.from_numpy(points), torch.from_numpy(weights))


def sphere(d, draws):
    """The height along the mean direction, and the angle around it."""
    basis = np.linalg.qr(np.column_stack([draws.mean(0), np.eye(3)[:, :2]]))[0]
    shrunk = 2.0 ** -np.arange(0, 40, 0.125)
    height, weight = pieces(np.unique(np.concatenate([1 - shrunk, shrunk - 1, [-1, 0, 1]])))
    points, weights = turns(height, weight, basis)
    return Grid(torch.from_numpy(points), torch.from_numpy(weights))


def atoms(d, draws):
    """Every point that a discrete law can take, or all that matter."""
    if d.has_enumerate_support:
        points = d.enumerate_support(expand=False).flatten().to(torch.float64)
    else:
        low, high = bounds(d)
        points = torch.arange(low, min(high, 20 * draws.max() + 400) + 1, dtype=torch.float64)
    return Grid(points, torch.ones_like(points))


def grid(d, kind, draws):
    """The grid of any law, None for a multivariate one of other sizes."""
    if kind == "discrete":
        return atoms(d, draws)
    if kind == "continuous":
        return line(d, draws)
    size = draws.shape[-1]
    if np.allclose((draws**2).sum(-1), 1):
        return sphere(d, draws) if size == 3 else None
    if np.allclose(draws.sum(-1), 1):
        return simplex(d, draws) if size == 3 else None
    return space(d, draws) if size in (2, 3) else None
