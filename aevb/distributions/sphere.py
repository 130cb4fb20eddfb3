"""Laws on the unit sphere of R^D: von Mises-Fisher and the uniform one."""

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from aevb.distributions.quadrature import nodes, reach
from aevb.distributions.reparameterization import Noise, Reparameterized, apart, side_by_side
from aevb.distributions.special import in_chunks
from aevb.randomness import normal, open_uniform

_DEPTH = 45.0  # of a density in logarithms, below which an integral does not see it
_STEPS = 6


class _Sphere(constraints.Constraint):
    """Vectors of unit length, by the squared length within 1e-5 (1e-4 in less than float64)."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        slack = 1e-5 if value.dtype == torch.float64 else 1e-4
        return (value.square().sum(-1) - 1).abs() < slack


unit_sphere = _Sphere()


def log_area(dim: int) -> float:
    """The logarithm of the area of the unit sphere of R^dim; of two points for dim = 1."""
    return math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)


class VonMisesFisher(Reparameterized):
    """The law on the unit sphere that is the sphere's Gaussian: directions around loc.

        p(z) = exp(k <loc, z>) / C(k), k = concentration
        z = reflect(w, sqrt(1 - w^2) e / |e|), w = F_k^-1(u), e ~ N(0, I of D - 1), u ~ U(0, 1)

    The angle of w = cos(angle) has a density proportional to exp(k cos) sin^(D - 2); its integrals
    are sums over Gauss-Legendre nodes, its quantile is found by Newton's steps, and its derivative
    in k is implicit. Rejection, as in Ulrich (1984), would draw w with a biased one.
    Shapes: loc (*batch, D), D >= 2, of unit length, concentration (*batch); events and noise
    (D,). Units: nats.
    Errors: ValueError for a loc that is not of unit length, has no axis or fewer than two entries,
    or a concentration that is not positive.
    Source: Mardia & Jupp (2000), section 9.3.2; Davidson et al. (2018), section 3.
    Example:
        >>> VonMisesFisher(torch.tensor([1.0, 0.0, 0.0]), torch.tensor(2.0)).mean
        tensor([0.5373, 0.0000, 0.0000])
    """

    route = "composition"
    arg_constraints: ClassVar[Any] = {"loc": unit_sphere, "concentration": constraints.positive}
    support = unit_sphere

    def __init__(
        self, loc: Tensor, concentration: Tensor | float, validate_args: bool | None = None
    ) -> None:
        if loc.ndim < 1 or loc.shape[-1] < 2:
            raise ValueError(
                f"VonMisesFisher expects loc of shape (*batch, D), D at least 2, found "
                f"{tuple(loc.shape)}: give unit vectors of the plane or a larger space"
            )
        concentration = torch.as_tensor(concentration, dtype=loc.dtype, device=loc.device)
        batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand((*batch, loc.shape[-1]))
        self.concentration = concentration.expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    @property
    def _noises(self) -> list[Noise]:
        around = torch.Size([self.event_shape[0] - 1])
        return [Noise(around, normal), Noise(torch.Size(), open_uniform)]

    @property
    def standard(self) -> Noise:
        return side_by_side(self._noises)

    def transform(self, noise: Tensor) -> Tensor:
        around, u = apart(noise, self._noises)
        k = self.concentration.expand(u.shape)
        angle: Tensor = _Angle.apply(k.double(), u.double(), self.event_shape[0])  # type: ignore[no-untyped-call]
        around = around / torch.linalg.vector_norm(around, dim=-1, keepdim=True)
        angle = angle.unsqueeze(-1).to(noise.dtype)
        return _turn(torch.cat([angle.cos(), angle.sin() * around], -1), self.loc)

    def _log_prob(self, value: Tensor) -> Tensor:
        height = (value * self.loc).sum(-1)
        return self.concentration * (height - 1) - self._log_normalizer()

    def _log_normalizer(self) -> Tensor:
        """log C(k) - k."""
        dim = self.event_shape[0]
        log_total = _whole(self.concentration.double(), dim)[0]
        return (log_area(dim - 1) + log_total).to(self.loc.dtype)

    def _height(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The mean A and variance of w = <z, loc>, and the means of 1 - w^2 and of 1 - w."""
        dim = self.event_shape[0]
        k, dtype = self.concentration.double(), self.loc.dtype
        _, angle, share = _whole(k, dim)
        squares = (share * angle.sin().square()).sum(-1)
        mean = k / (dim - 1) * squares  # by parts: no digits lost at small k
        deficit = _deficit(angle)
        short = (share * deficit).sum(-1)
        variance = (share * (deficit - short.unsqueeze(-1)).square()).sum(-1)
        return mean.to(dtype), variance.to(dtype), squares.to(dtype), short.to(dtype)

    @property
    def mean(self) -> Tensor:
        """A(k) loc. Source: Mardia & Jupp (2000), equation 9.3.7."""
        return self._height()[0].unsqueeze(-1) * self.loc

    @property
    def variance(self) -> Tensor:
        _, along, squares, _ = self._height()
        across = squares / (self.event_shape[0] - 1)
        share = self.loc.square()
        return share * along.unsqueeze(-1) + (1 - share) * across.unsqueeze(-1)

    @property
    def mode(self) -> Tensor:
        return self.loc

    def entropy(self) -> Tensor:
        return self._log_normalizer() + self.concentration * self._height()[3]


class HypersphericalUniform(Reparameterized):
    """The uniform law on the unit sphere of R^dim, von Mises-Fisher's limit for concentration 0.

        z = e / |e|, e ~ N(0, I);   log p(z) = -log area = log(Gamma(dim / 2) / (2 pi^(dim / 2)))

    Shapes: no parameters but batch_shape; events (dim,). Units: nats.
    Errors: ValueError for a dim below 2.
    Source: Davidson et al. (2018), section 3.2.
    Example:
        >>> HypersphericalUniform(2).entropy()
        tensor(1.8379)
    """

    route = "composition"
    arg_constraints: ClassVar[Any] = {"log_area": constraints.real}
    support = unit_sphere

    def __init__(
        self,
        dim: int,
        batch_shape: Sequence[int] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if dim < 2:
            raise ValueError(f"HypersphericalUniform expects dim of at least 2, found {dim}")
        self.dim = dim
        self.log_area = torch.tensor(log_area(dim), dtype=dtype, device=device).expand(batch_shape)
        super().__init__(torch.Size(batch_shape), torch.Size([dim]), validate_args=validate_args)

    def __repr__(self) -> str:
        return f"HypersphericalUniform(dim: {self.dim})"

    def transform(self, noise: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(noise, dim=-1, keepdim=True)
        return noise / length

    def _log_prob(self, value: Tensor) -> Tensor:
        return -self.log_area.expand(torch.broadcast_shapes(self.batch_shape, value.shape[:-1]))

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self.log_area).unsqueeze(-1).expand(*self.batch_shape, self.dim)

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.mean, 1 / self.dim)

    def entropy(self) -> Tensor:
        return self.log_area


def _turn(z: Tensor, loc: Tensor) -> Tensor:
    """z under an orthogonal map that takes the first axis to loc: a reflection, or minus one.

    The mirror is at right angles to loc + s e1, s the sign of loc's first entry, which is never
    short; the map is -s times the reflection.
    """
    sign = torch.where(loc[..., :1] < 0, -1.0, 1.0).to(loc.dtype)
    mirror = torch.cat([loc[..., :1] + sign, loc[..., 1:]], -1)
    along = (z * mirror).sum(-1, keepdim=True) / mirror.square().sum(-1, keepdim=True)
    turned: Tensor = -sign * (z - 2 * along * mirror)
    return turned


def _deficit(angle: Tensor) -> Tensor:
    """1 - cos(angle)."""
    return 2 * (0.5 * angle).sin().square()


def _log_density(k: Tensor, dim: int, angle: Tensor) -> Tensor:
    """k (cos - 1) + (dim - 2) log sin of an angle in [0, pi], without its normalizer."""
    sine = angle.sin().clamp(min=1e-300)
    return -k * _deficit(angle) + (dim - 2) * sine.log()


def _top(k: Tensor, dim: int) -> Tensor:
    """The angle at which the density is largest: k sin^2 = (dim - 2) cos."""
    rest = (dim - 2) / (2 * k)
    cosine = 1 / (rest + torch.sqrt(rest.square() + 1))
    return torch.atan2(torch.sqrt(2 * rest * cosine), cosine)


def _reach(k: Tensor, dim: int, start: Tensor, end: Tensor) -> Tensor:
    level, wide = _log_density(k, dim, start), k.unsqueeze(-1)
    drop = lambda angle: level.unsqueeze(-1) - _log_density(wide, dim, angle)  # noqa: E731
    return reach(drop, start, end, _DEPTH)


def _whole(k: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """log of the density's integral (...), and nodes (..., n) with their shares in it."""
    still = k.detach()
    top = _top(still, dim)
    low = _reach(still, dim, top, torch.zeros_like(top))
    high = _reach(still, dim, top, torch.full_like(top, math.pi))
    angle, weight = nodes(low, high)
    value = _log_density(k.unsqueeze(-1), dim, angle) + weight.log()
    total = torch.logsumexp(value, -1)
    return total, angle, (value - total.unsqueeze(-1)).exp()


def _part(k: Tensor, dim: int, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes between start and where the density ends on the way to end, and log-masses there."""
    stop = _reach(k, dim, start, end)
    low, high = torch.minimum(start, stop), torch.maximum(start, stop)
    angle, weight = nodes(low, high)
    return angle, _log_density(k.unsqueeze(-1), dim, angle) + weight.log()


class _Angle(torch.autograd.Function):
    """The angle that a share u of the law exceeds, so that its cosine grows with u."""

    generate_vmap_rule = True

    @staticmethod
    def forward(k: Tensor, u: Tensor, dim: int) -> Tensor:
        return in_chunks(functools.partial(_angle, dim=dim), k, u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.dim = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        k, angle = ctx.saved_tensors
        by_k = in_chunks(functools.partial(_slope, dim=ctx.dim), k, angle)
        by_u = None
        if ctx.needs_input_grad[1]:
            total = in_chunks(lambda at: _whole(at, ctx.dim)[0], k)
            by_u = -gradient * torch.exp(total - _log_density(k, ctx.dim, angle))
        return gradient * by_k, by_u, None


def _angle(k: Tensor, u: Tensor, dim: int) -> Tensor:
    total, grid, share = _whole(k, dim)
    beyond = share.flip(-1).cumsum(-1).flip(-1) - 0.5 * share
    index = (beyond > u.unsqueeze(-1)).sum(-1, keepdim=True).clamp(max=grid.shape[-1] - 1)
    angle = grid.gather(-1, index).squeeze(-1)
    upper = u < 0.5
    end = torch.where(upper, torch.full_like(k, math.pi), 0.0)
    target = torch.where(upper, u.log(), torch.log1p(-u)) + total
    distance = (end - angle).abs()
    for _ in range(_STEPS):  # in the logarithm of the distance from the end of that tail
        mass = torch.logsumexp(_part(k, dim, angle, end)[1], -1)
        step = (target - mass) * torch.exp(mass - _log_density(k, dim, angle)) / distance
        distance = (distance * step.clamp(-30.0, 3.0).exp()).clamp(1e-300, math.pi)
        angle = (end - distance).abs()
    return angle


def _slope(k: Tensor, angle: Tensor, dim: int) -> Tensor:
    """The derivative of the angle in k at fixed u."""
    _, grid, share = _whole(k, dim)
    mean = (share * _deficit(grid)).sum(-1)
    upper = _deficit(angle) > mean
    end = torch.where(upper, torch.full_like(k, math.pi), 0.0)
    at, value = _part(k, dim, angle, end)
    density = _log_density(k, dim, angle)
    lead = mean.unsqueeze(-1) - _deficit(at)  # cos - A, of one sign on this side
    moved = ((value - density.unsqueeze(-1)).exp() * lead).sum(-1)
    return torch.where(upper, moved, -moved)
