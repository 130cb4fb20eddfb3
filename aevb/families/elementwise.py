"""Any distribution of single numbers as a family: each argument from an unconstrained number."""

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints
from torch.distributions.constraints import Constraint

from aevb import distributions
from aevb.errors import UsageError, at_least
from aevb.families.family import MOST, Family, blocks, independent, positive

LARGEST = 1e6
"""Of an argument that is fixed."""
STEPS = 200
ROWS = 500

Arguments = dict[str, Tensor]


def _interval(raw: Sequence[Tensor]) -> Arguments:
    """Middle and half the width, which is 1 at 0."""
    middle, half = raw[0], positive(raw[1])
    return {"low": middle - half, "high": middle + half}


def _triangle(raw: Sequence[Tensor]) -> Arguments:
    ends = _interval(raw)
    share = torch.sigmoid(raw[2])
    return {**ends, "mode": ends["low"] + share * (ends["high"] - ends["low"])}


def _decades(raw: Sequence[Tensor]) -> Arguments:
    low = positive(raw[0])
    return {"low": low, "high": low * torch.exp(positive(raw[1]).clamp_max(MOST))}


DEPENDENT: dict[type[Distribution], tuple[int, Callable[[Sequence[Tensor]], Arguments]]] = {
    distributions.Uniform: (2, _interval),
    distributions.Triangular: (3, _triangle),
    distributions.Reciprocal: (2, _decades),
}
"""Arguments that bound each other: how many numbers they take, and how."""
MOVING: dict[type[Distribution], Constraint] = {
    distributions.Uniform: constraints.real,
    distributions.Triangular: constraints.real,
    distributions.Pareto: constraints.positive,
    distributions.Reciprocal: constraints.positive,
}
"""Where draws can lie, of those whose support moves with their arguments."""


def _same(raw: Tensor) -> Tensor:
    return raw


def _link(limits: Any) -> Callable[[Tensor], Tensor] | None:
    """How a number becomes an argument within limits; None for limits of another kind."""
    if isinstance(limits, type(constraints.real)):
        return _same
    if hasattr(limits, "upper_bound"):
        return torch.sigmoid if limits.lower_bound == 0 and limits.upper_bound == 1 else None
    return positive if getattr(limits, "lower_bound", None) == 0 else None


class Elementwise(Family):
    """A distribution of single numbers for each element, its arguments from a network.

        argument = raw where it is any number, exp(raw) where positive, sigmoid(raw) in (0, 1)

    So raw zeros are location 0 and scale, rate or concentration 1. Arguments that bound each other
    (an interval) come as a middle and the log of half the width. `fixed` gives arguments that are
    not learned, such as the shape of an Erlang; `least` is added to every positive one, and meant
    for scales: the likelihood of a scale that may go to 0 is unbounded.
    Shapes: raw (*batch, A X): a block of X for each of the A arguments that are free, in the order
    of the class. Units: nats, normalized as the distribution is.
    Errors: UsageError for a class that is not over single numbers, for arguments that it lacks, or
    that cannot be made from a number alone.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> from aevb.distributions import Laplace
        >>> q = Elementwise(Laplace)(torch.zeros(3, 4), 1)
        >>> q.batch_shape, q.event_shape
        (torch.Size([3]), torch.Size([2]))
    """

    def __init__(
        self,
        distribution: type[Distribution],
        fixed: dict[str, float] | None = None,
        least: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(0, least, "least")
        self.distribution = distribution
        self.fixed = dict(fixed or {})
        self.least = least
        known = _arguments(distribution, self.fixed)
        self._dependent = None if self.fixed else DEPENDENT.get(distribution)
        # Of two that say the same, as probs and logits, the unconstrained one.
        limits: Any = {} if self._dependent else distribution.arg_constraints
        twice = {"probs"} if "logits" in limits else set()
        free = [n for n in known if n in limits and n not in {*self.fixed, *twice}]
        self._links: dict[str, Any] = {name: _link(limits[name]) for name in free}
        self.free = tuple(free)
        self.each = self._dependent[0] if self._dependent else len(free)
        odd = [name for name, link in self._links.items() if link is None]
        if odd or not self.each:
            raise UsageError(
                f"{distribution.__name__} cannot be made of numbers for each element: give "
                f"{', '.join(odd) or 'other arguments'} as fixed"
            )

    @cached_property
    def support(self) -> Constraint:  # type: ignore[override]
        """Where draws can lie, for some arguments."""
        example: Any = self(torch.zeros(1, self.each), 1)
        found: Constraint = MOVING.get(self.distribution, example.base_dist.support)
        # At 0 a density on the positive numbers may be anything, infinity too.
        return constraints.positive if found is constraints.nonnegative else found

    @property
    def title(self) -> str:
        return self.distribution.__name__

    @property
    def domain(self) -> str:  # type: ignore[override]
        """The support in words."""
        # A fixed argument may bound the values elsewhere than the words say.
        own = self.fixed and _link(self.support) is not torch.sigmoid
        kind = "" if own else type(self.support).__name__.lstrip("_")
        return _DOMAINS.get(kind, f"values in the support of {self.distribution.__name__}")

    @property
    def moves(self) -> bool:  # type: ignore[override]
        """Whether the support is that of a location: of a logarithm's it is not."""
        return {"loc", "scale"} <= {*self.free} and _link(self.support) is _same

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        parts = blocks(raw, batch_ndim, self.each)
        if self._dependent:
            return self._made(self._dependent[1](parts), batch_ndim)
        pairs = zip(self._links.items(), parts, strict=True)
        arguments = {
            name: link(part) + (self.least if link is positive else 0.0)
            for (name, link), part in pairs
        }
        return self._made(arguments, batch_ndim)

    def moved(self, law: Any, loc: Tensor, scale: Tensor) -> Distribution:
        arguments = {name: getattr(law.base_dist, name) for name in self.free}
        arguments["loc"] = loc + scale * arguments["loc"]
        arguments["scale"] = scale * arguments["scale"]
        return self._made(arguments, len(law.batch_shape))

    def _made(self, arguments: Arguments, batch_ndim: int) -> Distribution:
        law: Any = self.distribution
        return independent(law(**arguments, **self.fixed, validate_args=False), batch_ndim)

    def encode_marginals(self, x: Tensor) -> Tensor:
        """The numbers that fit the columns best, by ascent on the likelihood of some rows."""
        x = x.flatten(1)
        some = x[torch.linspace(0, len(x) - 1, min(len(x), ROWS), device=x.device).long()]
        raw = torch.zeros(self.each, x.shape[1]).to(some)
        if "loc" in self.free:
            raw[self.free.index("loc")] = biject_to(self.support).inv(some).mean(0)
        raw = raw.flatten().requires_grad_()
        # By signs alone: columns do not disturb each other, and logarithms come far in few steps.
        optimizer = torch.optim.Rprop([raw], lr=0.05, step_sizes=(1e-6, 1.0))
        for _ in range(STEPS):
            with torch.enable_grad():
                loss = -self(raw[None], 1).log_prob(some).mean()
                (raw.grad,) = torch.autograd.grad(loss, [raw])
            raw.grad = raw.grad.nan_to_num(0.0)
            optimizer.step()
        return raw.detach()


def _arguments(distribution: type[Distribution], fixed: dict[str, float]) -> list[str]:
    """The names of a distribution's arguments; UsageError for fixed ones that it cannot take."""
    known = list(inspect.signature(distribution).parameters)
    if odd := sorted(set(fixed) - set(known)):
        raise UsageError(
            f"{distribution.__name__} has no argument {odd[0]!r}: it has {', '.join(known)}"
        )
    for name, value in fixed.items():
        if not abs(value) <= LARGEST:  # NaN is not either
            raise UsageError(
                f"{name} of {distribution.__name__} must be a number up to {LARGEST:g}, "
                f"found {value}"
            )
    return known


_DOMAINS = {
    "Real": "finite numbers",
    "GreaterThan": "positive numbers",
    "Interval": "values between 0 and 1",
    "IntegerGreaterThan": "counts (whole numbers from 0)",
}
