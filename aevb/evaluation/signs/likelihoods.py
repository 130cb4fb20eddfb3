"""Signs of a likelihood that does not suit the data: its domain, its noise, its certainty."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from aevb.data.suggestion import column_kinds
from aevb.distributions import support_of_cells
from aevb.evaluation.case import Case, Part
from aevb.evaluation.findings import Finding, Skipped
from aevb.evaluation.signs.latents import ERRORS
from aevb.families import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Elementwise,
    Family,
    Normal,
)

SMALL_COUNT = 30.0
MOST_AT_FLOOR = 0.1
AT_FLOOR = 1.2
"""A variance below so many times the least one is at its floor."""
CERTAIN = 14.0
"""Nats that a cell costs under a law that was certain of something else: P below 1e-6."""
MOST_LOST = 0.05
COUNTED = (Bernoulli, Categorical, ContinuousBernoulli)


def outside_domain(case: Case) -> Finding | None:
    """Rows hold values to which the likelihood gives no probability at all."""
    family = case.family
    outside = ~family.inside(case.x)
    if not bool(outside.any()):
        return None
    rows = int(outside.any(1).sum())
    row, column = (int(k) for k in outside.nonzero()[0])
    own = family.family_of(column, case.x.shape[1])
    return Finding(
        "outside-the-domain",
        f"{rows} of {len(case.x)} rows hold values that the likelihood gives no probability: "
        f"{own.title} expects {own.domain}, found {float(case.x[row, column]):g} in row {row + 1}, "
        f"column {column + 1}.",
        rows / len(case.x),
        _to_be_inside(case, own),
    )


def _to_be_inside(case: Case, family: Family) -> str:
    if case.learned is not None and bool(case.family.inside(case.train_x).all()):
        return "Name DATA in the units of training: the rows of training do lie in the domain."
    if isinstance(family, Bernoulli) and _unit(case.x):
        return "Train with --binarize threshold."
    return "Train with --likelihood auto, which looks at the values."


def density_on_steps(case: Case) -> Finding | None:
    """A density is fitted to values that are 0 or 1, or small counts: it has no upper bound there,
    and its nats are not those of a probability."""
    x = case.train_x
    kinds = column_kinds(x.numpy(), 1.0) if x.shape[1] else []
    mean = x.nanmean(0)
    for family, columns, _, _ in case.family.leaves(torch.arange(x.shape[1])):
        group = columns.tolist()
        if not _is_density(family):
            continue
        binary = [i for i in group if kinds[i] == "binary"]
        counts = [i for i in group if kinds[i] == "count" and float(mean[i]) < SMALL_COUNT]
        if _all_zero_or_one(x[:, group]):
            found, name = group, "bernoulli"
        elif _unit(x[:, group]):  # grey levels have columns that are seldom anything but 0
            continue
        else:
            found, name = (binary, "mixed") if binary else (counts, "mixed")
            if len(counts) == len(group):
                found, name = counts, "negative-binomial"
            elif len(binary) + len(counts) < len(group) / 2 and x.shape[1] > WIDE:
                continue
        if found:
            return _about_steps(family, len(found), len(group), found[0], name, bool(binary))
    return None


WIDE = 100
"""Rows of so many columns are no table whose columns one looks at."""


def _about_steps(
    family: Family, found: int, of: int, first: int, name: str, binary: bool
) -> Finding:
    what = "0 and 1 alone" if binary or name == "bernoulli" else "small counts"
    return Finding(
        "density-on-discrete-values",
        f"{family.title} is a density, and {found} of its {of} columns (the first is column "
        f"{first + 1}) hold {what}: its value has no upper bound there.",
        found / of,
        f"Train with --likelihood {name}.",
    )


def noise_at_floor(case: Case) -> Finding | None:
    """More than a tenth of the cells of columns that vary have a noise variance at the least one.

    Columns that never vary are there by right, and not counted.
    """
    at_floor = counted = 0
    least = 0.0
    for part in case.parts:
        floor = _floor(part)
        if floor is None:
            continue
        variance, least = floor
        seen = ~torch.isnan(part.x) & _varies(part, least)
        at_floor += int((seen & (variance < AT_FLOOR * least)).sum())
        counted += int(seen.sum())
    if not counted or at_floor / counted <= MOST_AT_FLOOR:
        return None
    share, unit = at_floor / counted, _unit(case.x)
    return Finding(
        "noise-at-its-floor",
        f"{100 * share:.0f} % of the cells have a noise variance at its least value, {least:g}"
        f"{'' if unit else ' of the variance of the column'}: the density there is as large as the "
        "floor lets it be, and the nats say little of the model.",
        share,
        "Train with --likelihood discretized-logistic, whose probabilities need no floor."
        if unit
        else "Train with a smaller --latent-dim, which copies fewer columns to the letter.",
    )


def _floor(part: Part) -> tuple[Tensor, float] | None:
    """The variance of each cell in units of its column, and its least value, where it has one."""
    family: Any = part.family
    if isinstance(family, Normal) and family.min_variance:
        scale: Tensor = part.law.scale
    elif isinstance(family, Elementwise) and family.least and "scale" in family.free:
        scale = part.law.scale
    else:
        return None
    bound = family.min_variance if isinstance(family, Normal) else family.least**2
    return (scale / part.unit).square().expand(part.x.shape), float(bound)


def _varies(part: Part, least: float) -> Tensor:
    """Which columns vary in the held-out rows by more than a hundred least variances, (C,)."""
    scaled = part.x.double() / part.unit
    return (scaled - scaled.nanmean(0)).square().nanmean(0) > 100 * least


def certain_and_wrong(case: Case) -> Finding | None:
    """Cells of which the decoder was certain and wrong cost more than a twentieth of all nats.

    Such a cell has P below 1e-6, and for a density below e^-14. A pixel that is always black, and
    held for black with certainty, costs nothing.
    """
    lost, all_nats = [], []
    for part in case.parts:
        if not isinstance(part.family, COUNTED):
            continue
        seen = ~torch.isnan(part.x)
        with torch.no_grad():
            each = part.law.log_prob(part.x.nan_to_num(nan=0.0)).double() * seen
        lost.append(-(each * (each < -CERTAIN)).sum(1))
        all_nats.append(each.abs().sum(1))
    if not lost:
        raise Skipped("no column is of coins, classes or grey levels")
    by_row, total = torch.stack(lost).sum(0), float(torch.stack(all_nats).sum(0).mean())
    mean, error = float(by_row.mean()), float(by_row.std()) / math.sqrt(len(by_row))
    if not mean - ERRORS * error > MOST_LOST * total:
        return None
    return Finding(
        "certain-and-wrong",
        f"The decoder was certain and wrong in cells that cost {mean:.2f} of {total:.2f} nats per "
        f"row ({100 * mean / total:.0f} %): its logits are saturated.",
        mean / total,
        "Train with --weight-prior normal, which keeps weights, and so logits, small.",
    )


def _is_density(family: nn.Module) -> bool:
    """Whether a family is over numbers that may lie anywhere in an interval."""
    support = support_of_cells(getattr(family, "support", None))
    levels = hasattr(family, "bins")
    return support is not None and not support.is_discrete and not levels


def _all_zero_or_one(x: Tensor) -> bool:
    """Whether every cell is 0 or 1, and both are there."""
    zero, one = x == 0, x == 1
    return bool((zero | one | torch.isnan(x)).all() and zero.any() and one.any())


def _unit(x: Tensor) -> bool:
    return bool((((x >= 0) & (x <= 1)) | torch.isnan(x)).all())
