"""Data outside the likelihood's support, half precision, and densities that overflow."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from aevb.distributions import on_reals, support_of_cells
from aevb.distributions.reparameterization import drawn
from aevb.errors import DataError
from aevb.evaluation.examination.subject import Subject
from aevb.evaluation.findings import Finding, Skipped
from aevb.posterior import Batch

FAR = (1.0, 10.0, 100.0)


def examine_precision(subject: Subject) -> Iterator[Finding]:
    """Whether the parameters have the digits that densities need."""
    if subject.own_dtype in (torch.float16, torch.bfloat16):
        bits = torch.finfo(subject.own_dtype).bits
        yield Finding(
            "half-precision",
            f"The parameters are kept in {bits} bits, where a sum over pixels loses nats and "
            "small steps of learning vanish.",
            float(bits),
            "Keep parameters in float32; products alone may be in bfloat16, under autocast.",
        )


def outside(subject: Subject) -> tuple[float, str]:
    """The share of cells outside the likelihood's support, and what is expected there."""
    x = subject.looked_at
    family = getattr(subject.model, "family", None)
    if family is not None:  # it knows its domain
        inside = family.inside(x)
        try:
            family.check(x)
            said = ""
        except DataError as error:
            said = str(error)
        return 1 - float(inside.double().mean()), said
    with torch.no_grad():
        z = subject.z(1, subject.some(range(min(2, len(x)))))
    p = subject.model.likelihood(z)
    if p.event_shape != x.shape[1:]:
        raise Skipped("rows and the likelihood's events have different shapes")
    try:
        support: Any = p.support
    except NotImplementedError:
        return 1 - float(torch.isfinite(x).double().mean()), "finite numbers"
    low, high = float(x.nan_to_num(nan=0.0).min()), float(x.nan_to_num(nan=0.0).max())
    within = support.check(x.unsqueeze(1)) & torch.isfinite(x).flatten(1).all(1, keepdim=True)
    said = f"{_called(support)}, found values from {low:g} to {high:g}"
    return 1 - float(within.double().mean()), said


def _called(support: Any) -> str:
    support = support_of_cells(support)
    return "zeros and ones" if support is constraints.boolean else str(support)


def examine_support(subject: Subject) -> Iterator[Finding]:
    """Whether the data lie where the likelihood has its density.

    Where they do not, the rows become draws of the likelihood, so that other checks can go on.
    """
    share, said = outside(subject)
    if share > 0:
        yield Finding(
            "outside-support",
            f"{100 * share:.3g} % of the data lie outside the support of the likelihood: {said}.",
            share,
            "Choose a likelihood for such data, or bring the data to its support (binarize, "
            "scale, count).",
        )
        x = subject.model.likelihood(subject.z(1)).sample()[0]
        subject.batch = Batch(x, subject.batch.rows)


def examine_far(subject: Subject) -> Iterator[Finding]:
    """Whether log-densities, and their slopes, are numbers for codes far out, in own precision."""
    model, posterior = subject.own
    single = torch.float64 if subject.own_dtype == torch.float64 else torch.float32
    batch = Batch(subject.batch.x.to(single), subject.batch.rows)
    q = posterior(batch)
    if not on_reals(q) and not _positive(q):
        raise Skipped("codes cannot be moved outward within their support")
    z = drawn(q, (4,), subject.source(8), batch.x).detach()
    for factor in FAR:
        if not bool(torch.isfinite(factor * z).all()):
            return
        with torch.enable_grad():
            code = (factor * z).requires_grad_()
            likelihood = model.likelihood(code).log_prob(batch.x)
            slope = torch.autograd.grad(likelihood.sum(), [code], allow_unused=True)[0]
        values = {
            "log p(x given z)": likelihood.detach(),
            "the slope of log p(x given z)": torch.zeros(1) if slope is None else slope,
            "log p(z)": model.prior().log_prob(factor * z),
        }
        if factor == 1:
            values["log q(z given x)"] = q.log_prob(z)
        yield from _not_finite(values, factor)


def _positive(q: Any) -> bool:
    """Whether a draw times a number above 1 is still a possible draw."""
    support = support_of_cells(q.support)
    low = getattr(support, "lower_bound", math.inf)
    return bool(torch.as_tensor(low == 0).all()) and not hasattr(support, "upper_bound")


def _not_finite(values: dict[str, Tensor], factor: float) -> Iterator[Finding]:
    for what, value in values.items():
        share = 1 - float(torch.isfinite(value).double().mean())
        if share > 0:
            where = "at draws" if factor == 1 else f"at draws times {factor:g}"
            yield Finding(
                "not-finite",
                f"{what} is infinite or no number for {100 * share:.3g} % of the codes {where} of "
                "the posterior.",
                share,
                "Compute it from logits (softplus, log_softmax), never as log of a sigmoid.",
            )
            return
