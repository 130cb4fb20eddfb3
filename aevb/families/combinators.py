"""Families made of families: one for each group of columns, and one that skips missing cells."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from aevb import distributions
from aevb.errors import UsageError
from aevb.families.family import Family, Leaf, Wrapped, cells, independent


class Columns(Family):
    """One family for each group of columns of a table: a product of densities and masses.

        log p(x) = sum_k log p_k(x_columns[k])

    Shapes: raw (*batch, R), one after the other the numbers of each family for its columns;
    `columns` lists the 0-based columns of each, every one of X once.
    Units: nats; a density in the real columns times probabilities in the others.
    Errors: UsageError for columns that are left out or given twice, or for a family that does not
    factorize over columns.
    Source: the heterogeneous likelihood of Nazabal et al. (2020), "Handling incomplete
    heterogeneous data using VAEs", section 3.
    Example:
        >>> from aevb.families import Bernoulli, Normal
        >>> mixed = Columns([Normal(), Bernoulli()], [[0, 2], [1]])
        >>> mixed(torch.zeros(4, mixed.outputs(3)), 1).event_shape
        torch.Size([3])
    """

    def __init__(self, families: Sequence[Family], columns: Sequence[Sequence[int]]) -> None:
        super().__init__()
        found = sorted(i for group in columns for i in group)
        if found != list(range(len(found))) or not found or len(families) != len(columns):
            raise UsageError(
                f"{len(families)} families need as many lists that share out the columns 0 to "
                f"{max(len(found) - 1, 0)}, found {[list(group) for group in columns]}"
            )
        self.families: Sequence[Any] = nn.ModuleList(families)  # type: ignore[assignment]
        self.columns = tuple(tuple(group) for group in columns)
        order = [i for group in self.columns for i in group]
        self._position = sorted(range(len(order)), key=order.__getitem__)

    @property
    def _groups(self) -> list[tuple[Any, tuple[int, ...]]]:
        return list(zip(self.families, self.columns, strict=True))

    def leaves(self, columns: Tensor, law: Any = None) -> list[Leaf]:
        laws = [None] * len(self.families) if law is None else law.parts
        pairs = zip(self._groups, laws, strict=True)
        return [leaf for (f, at), own in pairs for leaf in f.leaves(columns[list(at)], own)]

    def outputs(self, size: int) -> int:
        if size != len(self._position):
            raise UsageError(
                f"the families are for {len(self._position)} columns, the data have {size}"
            )
        return sum(self._outputs())

    def _outputs(self) -> list[int]:
        return [family.outputs(len(group)) for family, group in self._groups]

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        blocks = raw.flatten(batch_ndim).split(self._outputs(), dim=-1)
        pairs = zip(self.families, blocks, strict=True)
        parts = [cells(family(block, batch_ndim)) for family, block in pairs]
        return independent(distributions.Product(parts, self.columns), batch_ndim)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.cat([f.encode_marginals(part) for f, part in self._shared_out(x)])

    def fit(self, x: Tensor) -> None:
        for family, part in self._shared_out(x):
            family.fit(part)

    def inside(self, x: Tensor) -> Tensor:
        masks = [family.inside(part) for family, part in self._shared_out(x)]
        return torch.cat(masks, dim=-1)[..., self._position]

    def moments(self, distribution: Distribution) -> Tensor:
        pairs = zip(self.families, cells(distribution).parts, strict=True)
        return torch.cat([family.moments(part) for family, part in pairs], dim=-1)

    def summarize(self, moments: Tensor) -> Tensor:
        widths = [family.moment_count(len(group)) for family, group in self._groups]
        pairs = zip(self.families, moments.split(widths, dim=-1), strict=True)
        return torch.cat([f.summarize(block) for f, block in pairs], dim=-1)[..., self._position]

    def moment_count(self, size: int) -> int:
        return sum(family.moment_count(len(group)) for family, group in self._groups)

    def _shared_out(self, x: Tensor) -> list[tuple[Any, Tensor]]:
        x = x.flatten(1)
        return [(family, x[:, list(group)]) for family, group in self._groups]


class Masked(Wrapped):
    """A family over data with missing cells: NaN cells are integrated out.

        log p(x_observed) = sum over observed i of log p(x_i)

    Exact, since the cells are independent given z. Missing cells carry no information of
    their own: they are taken to be missing at random.
    Shapes: as `family`. Units: nats, of the observed cells.
    Errors: UsageError for a family whose cells are not independent, such as a full covariance.
    Source: Mattei & Frellsen (2019), "MIWAE", equation 4; Rubin (1976) for missing at random.
    Example:
        >>> from aevb.families import Bernoulli
        >>> x = torch.tensor([[1.0, torch.nan]])
        >>> Masked(Bernoulli())(torch.zeros(1, 2), 1).log_prob(x).exp()
        tensor([0.5000])
    """

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        base = cells(self.family(raw, batch_ndim))
        return distributions.Masked(base, len(base.batch_shape) - batch_ndim, validate_args=False)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return self.family.encode_marginals(_filled(x.flatten(1)))

    def inside(self, x: Tensor) -> Tensor:
        missing = torch.isnan(x)
        return self.family.inside(torch.where(missing, 0.5, x)) | missing


def _filled(x: Tensor) -> Tensor:
    """Missing cells of (N, X) filled by quantiles of what was observed in their column."""
    x = x.clone()
    missing = torch.isnan(x)
    for i in missing.any(0).nonzero().flatten().tolist():
        observed = x[~missing[:, i], i].sort().values
        count = int(missing[:, i].sum())
        spread = ((torch.arange(count) + 0.5) / count * len(observed)).long()
        x[missing[:, i], i] = observed[spread] if len(observed) else 0.5
    return x
