"""A family: how unconstrained numbers, as a network gives them, become a distribution."""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints
from torch.distributions.constraints import Constraint

from aevb.data.suggestion import suggest
from aevb.distributions.reparameterization import base_of
from aevb.distributions.summary import center
from aevb.errors import DataError, UsageError
from aevb.networks import Standardizer


class Leaf(NamedTuple):
    """A family that is not made of others, and where it stands in the one that is.

    `columns` (C,) are the numbers, from 0, of its columns; `unit` has their units, where they are
    learned standardized; `law` is the law of its cells, where that of the whole was given.
    """

    family: "Family"
    columns: Tensor
    unit: Standardizer | None
    law: Any


class Family(nn.Module, ABC):
    """A map from unconstrained numbers to a `torch.distributions.Distribution`.

    Shapes: `forward(raw, batch_ndim)` takes raw of shape (*batch, ...) with `batch_ndim` leading
    batch axes and gives a distribution with batch shape `batch` and event shape X. The parameters
    lie as blocks along the first axis behind the batch: for two parameters of a flat datum,
    (*batch, 2X) is split into (*batch, X) and (*batch, X).
    Units: the log-densities are normalized, in nats.
    Errors: DataError, of `check`, for data outside the support; UsageError, of `forward`, for a
    number of outputs that does not split.
    Example:
        >>> from aevb.families import Normal
        >>> family = Normal()
        >>> family.outputs(5), family(torch.zeros(3, 10), 1).event_shape
        (10, torch.Size([5]))
    """

    each: int = 1
    """How many numbers encode the law of an element, for most."""
    support: Constraint = constraints.real
    domain: str = "finite numbers"
    """What the support is called in a sentence, and for `check`."""
    remedy: str = ""
    """What else than another likelihood may help data outside the domain."""
    moves: bool = False
    """Whether the laws have a location and a scale, which `moved` changes."""

    @property
    def title(self) -> str:
        """What the family is called in a sentence."""
        return type(self).__name__

    def outputs(self, size: int) -> int:
        """How many numbers a network must give for an event of `size` elements."""
        return self.each * size

    @abstractmethod
    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        """The distribution with the parameters that `raw` encodes."""

    @abstractmethod
    def encode_marginals(self, x: Tensor) -> Tensor:
        """The raw numbers, (outputs,), whose distribution matches each column of x (N, X) alone.

        A decoder whose output bias starts there begins at the best model without latents.
        """

    def fit(self, x: Tensor) -> None:
        """Take from training data x (N, X) what is fixed before learning: nothing, for most."""

    def moments(self, distribution: Distribution) -> Tensor:
        """Numbers of a distribution that may be averaged over draws of z, (*batch, ...)."""
        return center(distribution)  # a heavy tail may have no mean, and a flow no formula for it

    def summarize(self, moments: Tensor) -> Tensor:
        """The value to show for moments, averaged or not, (*batch, *X)."""
        return moments

    def moment_count(self, size: int) -> int:
        """How many moments an event of `size` elements has."""
        return size

    def moved(self, law: Any, loc: Tensor, scale: Tensor) -> Distribution:
        """The law of loc + scale x for x of a law of this family, where the family `moves`."""
        raise NotImplementedError

    def leaves(self, columns: Tensor, law: Any = None) -> list[Leaf]:
        """The families that this one is made of, over the columns (X,): itself, for most."""
        return [Leaf(self, columns, None, law)]

    def family_of(self, column: int, width: int) -> "Family":
        """The family that one of `width` columns, numbered from 0, is an observation of."""
        leaves = self.leaves(torch.arange(width))
        return next(leaf.family for leaf in leaves if column in leaf.columns)

    def inside(self, x: Tensor) -> Tensor:
        """Which cells of x (N, ...) lie in the support, as a mask of its shape."""
        inside: Tensor = self.support.check(x) & torch.isfinite(x)
        return inside

    def check(self, x: Tensor, first_row: int = 1) -> None:
        """Raise DataError, naming the first offending cell, unless x (N, ...) is in the support.

        `first_row` is the number of the first row of x, where x is part of something longer.
        """
        inside = self.inside(x)
        if bool(inside.all()):
            return
        flat = inside.reshape(len(x), -1)
        row = int((~flat).any(1).int().argmax())
        column = int((~flat[row]).int().argmax())
        value = float(x.reshape(len(x), -1)[row, column])
        family = self.family_of(column, flat.shape[1])
        several = len(self.leaves(torch.arange(flat.shape[1]))) > 1
        raise DataError(
            f"{family.title} expects {family.domain}, found {value:g} in row "
            f"{row + first_row}, column {column + 1} ({int((~flat).sum())} of {flat.numel()} cells "
            f"do not fit): {_advice(family, x, value, several=several)}"
        )


class Wrapped(Family):
    """What a family that changes another one has of it unchanged."""

    family: Family

    def outputs(self, size: int) -> int:
        return self.family.outputs(size)

    def fit(self, x: Tensor) -> None:
        self.family.fit(x)

    def moments(self, distribution: Distribution) -> Tensor:
        return self.family.moments(distribution)

    def summarize(self, moments: Tensor) -> Tensor:
        return self.family.summarize(moments)

    def moment_count(self, size: int) -> int:
        return self.family.moment_count(size)

    def leaves(self, columns: Tensor, law: Any = None) -> list[Leaf]:
        return self.family.leaves(columns, law)


def _advice(family: Family, x: Tensor, value: float, *, several: bool) -> str:
    """What to do about a value of x that does not fit a family that is one of several, or all."""
    if not math.isfinite(value):
        return "mend the cell, which no likelihood takes"
    seen = torch.where(torch.isfinite(x), x, torch.nan)  # what else is there to go by
    name, reason = suggest(np.array(seen.tolist()), 1.0)  # a tensor within a gradient is no array
    if name == "mixed" and several:
        return "mend the row"
    return f"choose the likelihood {name}, since {reason}{family.remedy}"


def blocks(raw: Tensor, batch_ndim: int, count: int) -> tuple[Tensor, ...]:
    """Split the first axis behind the batch into `count` parameters of equal size."""
    width = raw.shape[batch_ndim]
    if width % count:
        raise UsageError(
            f"the network gives {width} numbers, expected a multiple of {count}: "
            f"the family has {count} parameters for each element"
        )
    split: Tensor = raw.unflatten(batch_ndim, (count, width // count))
    return split.unbind(batch_ndim)


MOST = 15.0
"""Bound on the logarithm of a positive argument: between 3e-7 and 3e6."""


def positive(raw: Tensor) -> Tensor:
    """A positive argument from its logarithm, which is held to [-15, 15]."""
    return torch.exp(raw.clamp(-MOST, MOST))


def independent(base: Distribution, batch_ndim: int) -> Distribution:
    """Read every axis of `base` behind the batch as one event."""
    return Independent(base, len(base.batch_shape) - batch_ndim, validate_args=False)


def cells(distribution: Distribution) -> Any:
    """The law of each element, where they are independent; UsageError where they are not."""
    base = base_of(distribution)
    if base.event_shape:
        raise UsageError(
            f"{type(base).__name__} does not factorize over columns, as missing cells and mixed "
            "tables need: choose gaussian instead of full-gaussian, or --covariance diagonal"
        )
    return base
