"""Distributions made of distributions: mixtures, averages, products over columns, and masks.

A draw of a mixture is a choice, which has no derivative. Its gradient is implicit: the map from a
draw to its distribution function, coordinate by coordinate, is a uniform number of no parameters,

    u_i = F(z_i given z_<i) = sum_k w_ki F_ki(z_i),   w_ki ~ pi_k prod_{j<i} p_kj(z_j)

so that dz = -(du/dz)^-1 du at fixed z, with a lower triangle du/dz.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, Independent, Normal, constraints

from aevb.distributions.reparameterization import (
    ROUTES,
    Noise,
    Reparameterized,
    apart,
    base_of,
    route,
    side_by_side,
    unchecked,
)
from aevb.distributions.special import HALF_LOG_2PI, ndtr, product
from aevb.errors import UsageError
from aevb.randomness import normal, open_uniform


class Mixture(Reparameterized, td.MixtureSameFamily):
    """A mixture of K components of one family, with a gradient through its draws.

        p(z) = sum_k pi_k p_k(z);   z of the component that u chooses, dz = -(du/dz)^-1 du

    Draws are reparameterized where the components are Normals, or Independent ones over an axis, or
    laws of a single number with a `cdf` and a draw of one noise; else `has_rsample` is False. The
    draw itself jumps where u passes from one component to the next, and the gradient is that of
    another map of the same law (see above): exact for expectations, not for finite differences of
    a draw at fixed noise. First derivatives only.
    Shapes: mixture_distribution, a Categorical, of batch (*batch) over K; component_distribution of
    batch (*batch, K) and event () or (D,). Noise (D + 1,): D normals and a uniform number.
    Units: nats. Errors: ValueError, as torch's, for shapes that do not fit; UsageError, when it is
    drawn from by noise, for other components.
    Source: Figurnov et al. (2018), "Implicit reparameterization gradients", section 4; Graves
    (2016), "Stochastic backpropagation through mixture density distributions", equation 6.
    Example:
        >>> parts = td.Normal(torch.tensor([-1.0, 1.0]), 0.5)
        >>> Mixture(td.Categorical(torch.ones(2)), parts).cdf(torch.tensor(0.0))
        tensor(0.5000)
    """

    route = "implicit"

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws of these components have a gradient."""
        component, base = self.component_distribution, self._base
        if isinstance(component, Independent) and component.reinterpreted_batch_ndims != 1:
            return False
        if isinstance(base, Normal):
            return True
        known = isinstance(base, Reparameterized) and base.has_rsample and _has_cdf(base)
        if component.event_shape or not known:
            return False
        way = base.standard
        return way.differentiable and not way.shape and way.law in (normal, open_uniform)

    @property
    def _base(self) -> Any:
        """The components' law of each number, as one of ours."""
        return unchecked(base_of(self.component_distribution))

    @property
    def support(self) -> Any:
        return _InAny(self.component_distribution.support)  # type: ignore[no-untyped-call]

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether the components' values can be listed."""
        return self.component_distribution.has_enumerate_support

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The components' values, (values, *batch), which must be the same for all of them."""
        listed: Tensor = self.component_distribution.enumerate_support(expand)
        return listed[..., 0]

    @property
    def standard(self) -> Noise:
        if not self.has_rsample:
            name = type(base_of(self.component_distribution)).__name__
            raise UsageError(
                f"no reparameterization of a mixture of {name} is known: its draws are by sample, "
                "and have no gradient"
            )
        return side_by_side(self._noises)

    @property
    def _noises(self) -> list[Noise]:
        normals = torch.Size((self.event_shape.numel(),))
        return [Noise(normals, normal), Noise(torch.Size((1,)), open_uniform)]

    def transform(self, noise: Tensor) -> Tensor:
        scalar = not self.event_shape
        z = self._drawn(noise).detach()
        base = self._base
        if isinstance(base, Normal):
            step = self._normal_step(base, z.unsqueeze(-1) if scalar else z)
            draw: Tensor = z - (step.squeeze(-1) if scalar else step)
            return draw
        weights = torch.softmax(self.mixture_distribution.logits, -1)
        u = (weights * base.cdf(z.unsqueeze(-1))).sum(-1)
        density = (weights * base.log_prob(z.unsqueeze(-1)).exp()).sum(-1).detach()
        moved: Tensor = z - (u - u.detach()) / density
        return moved

    def _drawn(self, noise: Tensor) -> Tensor:
        """A draw of the component that the last number chooses, by the others as its noise."""
        component, size = self.component_distribution, noise.shape[-1] - 1
        own, choice = apart(noise, self._noises)
        way = route(component)
        if way.noise.law is open_uniform:
            smallest = torch.finfo(own.dtype).eps / 2
            own = ndtr(own).clamp(smallest, 1 - smallest)
        draws = way.transform(own if not self.event_shape else own.unsqueeze(-2))
        thresholds = torch.softmax(self.mixture_distribution.logits, -1).cumsum(-1)[..., :-1]
        index = (choice > thresholds).sum(-1, keepdim=True)
        if not self.event_shape:
            return draws.gather(-1, index.expand((*draws.shape[:-1], 1))).squeeze(-1)
        index = index.unsqueeze(-1).expand((*draws.shape[:-2], 1, size))
        return draws.gather(-2, index).squeeze(-2)

    def _normal_step(self, parts: Normal, z: Tensor) -> Tensor:
        """0 with the derivative (du/dz)^-1 du of the distributional transform at z, (..., D).

        Rows i of du/dz: sum_k w_ki F_ki (s_kj - mean s_j) for j < i, s the scores, and the density.
        Source: Rosenblatt (1952), "Remarks on a multivariate transformation".
        """
        flat = not self.event_shape
        loc = parts.loc.unsqueeze(-1) if flat else parts.loc
        scale = parts.scale.unsqueeze(-1) if flat else parts.scale
        x = (z.unsqueeze(-2) - loc) / scale  # (..., K, D)
        log_density = -0.5 * x.square() - scale.log() - HALF_LOG_2PI
        before = torch.cumsum(log_density[..., :-1], -1)
        before = torch.cat([torch.zeros_like(x[..., :1]), before], -1)
        logits = self.mixture_distribution.logits.unsqueeze(-1)
        weights = torch.softmax(logits + before, -2)
        # F - 1 for F in the upper half: its digits are the tail's, and sum_k w_k = 1 is constant.
        upper = (weights * ndtr(x)).sum(-2, keepdim=True) > 0.5
        part = torch.where(upper, -ndtr(-x), ndtr(x))
        u = (weights * part).sum(-2)
        with torch.no_grad():
            triangle = _triangle(
                weights.detach(), part.detach(), x.detach(), scale.detach(), log_density.detach()
            )
        change = (u - u.detach()).unsqueeze(-1)
        step: Tensor = torch.linalg.solve_triangular(triangle, change, upper=False).squeeze(-1)
        return step

    def _log_prob(self, value: Tensor) -> Tensor:
        """log sum_k pi_k p_k(z), (*sample, *batch) nats."""
        component, base = self.component_distribution, self._base
        vectors = isinstance(component, Independent) and component.reinterpreted_batch_ndims == 1
        if not (vectors and isinstance(base, Normal) and base.loc.ndim == 2):
            if self.event_shape:
                return super()._log_prob(value)
            each = base.log_prob(value.unsqueeze(-1)) + self.mixture_distribution.logits
            return torch.logsumexp(each, dim=-1)
        each = _log_normals(value, base) + self.mixture_distribution.logits
        return torch.logsumexp(each, dim=-1).to(value.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        if self.has_rsample:
            return super().sample(sample_shape)
        drawn: Tensor = td.MixtureSameFamily.sample(self, torch.Size(sample_shape))
        return drawn

    def cdf(self, value: Tensor) -> Tensor:
        # That of atoms is a step function of all numbers.
        if self._validate_args and not self.support.is_discrete:
            self._validate_sample(value)
        return self._cdf(value)

    def _cdf(self, value: Tensor) -> Tensor:
        if self.event_shape:
            raise NotImplementedError("vectors have no distribution function")
        weights = torch.softmax(self.mixture_distribution.logits, -1)
        below: Tensor = self._base.cdf(value.unsqueeze(-1))
        return (weights * below).sum(-1)

    def __repr__(self) -> str:
        return f"Mixture(\n  {self.mixture_distribution},\n  {self.component_distribution})"


class _InAny(constraints.MixtureSameFamilyConstraint):
    """What lies in one of the components, where torch asks for all of them."""

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = self.base_constraint.check(value.unsqueeze(-1 - self.event_dim))
        return inside.any(-1)


def _log_normals(z: Tensor, parts: Normal) -> Tensor:
    """log N(z; m_k, diag(s_k^2)) of z (..., D) for K parts, (..., K), without an array (..., K, D).

        -1/2 sum_d (z_d^2 / s_kd^2 - 2 z_d m_kd / s_kd^2 + m_kd^2 / s_kd^2) - sum_d log s_kd - ...

    Two products of matrices, in double precision: the three terms cancel.
    """
    z, loc, scale = z.double(), parts.loc.double(), parts.scale.double()
    precision = scale.square().reciprocal()
    constant = (loc.square() * precision).sum(-1) + 2 * scale.log().sum(-1)
    squares = z.square() @ precision.mT - 2 * z @ (loc * precision).mT + constant
    return -0.5 * (squares + loc.shape[-1] * math.log(2 * math.pi))


def _has_cdf(law: Distribution) -> bool:
    """Whether a class of ours has a distribution function, its own or torch's."""
    owners = [c for c in type(law).__mro__ if c not in (Reparameterized, Distribution)]
    return any("cdf" in vars(c) or "_cdf" in vars(c) for c in owners)


def _triangle(
    weights: Tensor, part: Tensor, x: Tensor, scale: Tensor, log_density: Tensor
) -> Tensor:
    """du/dz, (..., D, D), from what is (..., K, D)."""
    mean = (weights * part).sum(-2, keepdim=True)
    below = torch.tril(product((weights * (part - mean)).mT, -x / scale), -1)
    density = (weights * log_density.exp()).sum(-2)
    return below + torch.diag_embed(density)


class Product(Distribution):
    """Independent cells whose law differs from column to column.

        log p(x_c) = log p_k(x_c), k the part that has column c

    Shapes: parts of batch (*batch, X_k) and event (), one for each group of `columns`, 0-based,
    every one of X once; batch (*batch, X), event (). Units: nats.
    Source: the heterogeneous likelihood of Nazabal et al. (2020), "Handling incomplete
    heterogeneous data using VAEs", section 3.
    Example:
        >>> parts = [td.Normal(torch.zeros(2), 1.0), td.Bernoulli(torch.tensor([0.25]))]
        >>> Product(parts, [[0, 2], [1]]).mean
        tensor([0.0000, 0.2500, 0.0000])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  # as torch has it

    def __init__(self, parts: Sequence[Distribution], columns: Sequence[Sequence[int]]) -> None:
        self.parts = tuple(parts)
        self.columns = columns
        order = [i for group in columns for i in group]
        self.position = sorted(range(len(order)), key=order.__getitem__)
        shape = torch.Size([*parts[0].batch_shape[:-1], len(order)])
        super().__init__(shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same cells under another batch; the columns stay."""
        lead = tuple(batch_shape)[:-1]
        parts = [part.expand((*lead, part.batch_shape[-1])) for part in self.parts]
        return type(self)(parts, self.columns)

    @property
    def mean(self) -> Tensor:
        return self.join([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return self.join([part.variance for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of each cell, (*batch, X) nats."""
        pairs = zip(self.parts, self.columns, strict=True)
        return self.join([p.log_prob(value[..., list(group)]) for p, group in pairs])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, (*sample_shape, *batch, X)."""
        with torch.no_grad():
            return self.join([p.sample(torch.Size(sample_shape)).double() for p in self.parts])

    def join(self, blocks: Sequence[Tensor]) -> Tensor:
        """Put blocks of columns (..., X_k) in the order of the data, (..., X)."""
        return torch.cat(list(blocks), dim=-1)[..., self.position]


def parts(d: Distribution) -> list[Distribution]:
    """The laws that a product over columns is made of, nested ones too; any other law alone.

    Example:
        >>> bits, numbers = td.Bernoulli(torch.full((1,), 0.25)), td.Normal(torch.zeros(2), 1.0)
        >>> len(parts(td.Independent(Product([bits, numbers], [[0], [1, 2]]), 1)))
        2
    """
    inner = base_of(d)
    return [p for part in inner.parts for p in parts(part)] if isinstance(inner, Product) else [d]


class Masked(Independent):  # type: ignore[type-arg]  # a class of torch's, at run time
    """Independent cells of which those that are NaN were not observed, and say nothing.

        log p(x_observed) = sum over observed i of log p(x_i)

    Shapes: as Independent's: the last axes of the batch are those of an event. Units: nats.
    Source: Mattei & Frellsen (2019), "MIWAE", equation 4.
    Example:
        >>> Masked(td.Bernoulli(torch.tensor([0.5, 0.1])), 1).log_prob(
        ...     torch.tensor([1.0, torch.nan])
        ... ).exp()
        tensor(0.5000)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of log p over the observed cells, (*batch) nats."""
        observed = ~torch.isnan(value)
        inside = _inside(self.base_dist, value)
        each = self.base_dist.log_prob(torch.where(observed, value, inside))
        each = torch.where(observed, each, torch.zeros_like(each))
        return each.flatten(each.ndim - self.reinterpreted_batch_ndims).sum(-1)


def _inside(law: Distribution, value: Tensor) -> Tensor:
    """What stands in for missing cells, (*sample, *batch): in every support, and at no pole.

    At 0 many a density has a slope without bound, which times the 0 of a cell left out is no 0.
    """
    if isinstance(law, Product):
        pairs = zip(law.parts, law.columns, strict=True)
        return law.join([_inside(part, value[..., list(group)]) for part, group in pairs])
    return torch.full_like(value, 0.5 if law.support is constraints.unit_interval else 1.0)


class Average(Reparameterized):
    """The mixture, in equal parts, of laws of one shape that may be of any kind.

        p(x) = 1/K sum_k p_k(x);   a draw is of the part that a uniform number chooses

    It is what is known of x where one of K models holds and nothing says which.
    Shapes: parts of one batch and event, which are its own. Noise (1 + E,): a uniform number, then
    what one part takes; the draw has no gradient. Units: nats.
    Errors: UsageError, when it is drawn from by noise, for parts without a route.
    Example:
        >>> parts = [td.Normal(torch.tensor(m), 1.0) for m in (-1.0, 1.0)]
        >>> Average(parts).variance
        tensor(2.)
    """

    route = "hard"
    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  # as torch has it

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = tuple(parts)
        super().__init__(parts[0].batch_shape, parts[0].event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of the parts."""
        return self.parts[0].support  # type: ignore[return-value]

    @property
    def mean(self) -> Tensor:
        return self.mean_of(lambda part: part.mean)

    @property
    def variance(self) -> Tensor:
        means = torch.stack([part.mean for part in self.parts])
        return self.mean_of(lambda part: part.variance) + means.var(0, unbiased=False)

    def mean_of(self, number: Callable[[Distribution], Tensor]) -> Tensor:
        """The mean over the parts of a number of each."""
        return torch.stack([number(part) for part in self.parts]).mean(0)

    def log_prob(self, value: Tensor) -> Tensor:
        """log of the mean over parts of p_k(x), (*sample, *batch) nats."""
        each = torch.stack([part.log_prob(value) for part in self.parts])
        return torch.logsumexp(each, dim=0) - math.log(len(self.parts))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        return type(self)([part.expand(torch.Size(batch_shape)) for part in self.parts])

    @property
    def _noises(self) -> list[Noise]:
        choice = Noise(torch.Size((1,)), open_uniform)
        return [choice, route(self.parts[0]).noise]

    @property
    def standard(self) -> Noise:
        return side_by_side(self._noises)._replace(differentiable=False)

    def transform(self, noise: Tensor) -> Tensor:
        choice, own = apart(noise, self._noises)
        index = (choice.squeeze(-1) * len(self.parts)).long()
        return self._chosen([route(part).transform(own) for part in self.parts], index)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, (*sample_shape, *batch, *event), by torch's own generator."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            draws = [part.sample(shape) for part in self.parts]
            index = torch.randint(len(draws), (*shape, *self.batch_shape), device=draws[0].device)
            return self._chosen(draws, index)

    def _chosen(self, draws: Sequence[Tensor], index: Tensor) -> Tensor:
        """Of a draw of each part, that of the part that `index` (*shape, *batch) names."""
        index = index.reshape(1, *index.shape, *(1 for _ in self.event_shape))
        stacked = torch.stack(list(draws))
        return stacked.gather(0, index.expand(1, *stacked.shape[1:])).squeeze(0)

    def __repr__(self) -> str:
        return f"Average({len(self.parts)} of {self.parts[0]})"


ROUTES |= {td.MixtureSameFamily: Mixture}
