"""Shapes that broadcast by accident, rows that feel one another, and layers that are random."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from aevb.evaluation.examination.subject import Subject
from aevb.evaluation.findings import Finding
from aevb.posterior import Batch

SAMPLES = 3
ADVICE = "Let no layer average over the batch at evaluation, and squeeze no batch axis."


def examine_shapes(subject: Subject) -> Iterator[Finding]:
    """Whether batches and events of all three laws are those of S samples, N data, D codes."""
    batch = subject.some(range(min(5, len(subject.batch.x))))
    n, s = len(batch.x), SAMPLES
    q, prior = subject.posterior(batch), subject.model.prior()
    event = "wrap its elements in Independent(law, 1), so that their log-densities are summed"
    yield from _shape("the posterior's batch", q.batch_shape, (n,), event)
    if len(q.batch_shape) != 1:
        return
    yield from _shape("the prior's batch", prior.batch_shape, (), event)
    size = tuple(q.event_shape)
    told = "give prior and posterior the same number of dimensions"
    yield from _shape("the prior's event", prior.event_shape, size, told)
    z = subject.z(s, batch)
    yield from _shape("a draw of the posterior", z.shape, (s, n, *size), "keep (S, N, D)")
    p = subject.model.likelihood(z)
    yield from _shape("the likelihood's batch", p.batch_shape, (s, n), event)
    decoder = "size the decoder's output for the data"
    yield from _shape("the likelihood's event", p.event_shape, batch.x.shape[1:], decoder)
    x = subject.model.likelihood(z).sample()[0]
    inside = Batch(x, batch.rows)
    for name, value in _numbers(subject, inside, q, prior, z):
        yield from _shape(name, value.shape, (s, n), "let log_prob sum over the event alone")


def _numbers(
    subject: Subject, batch: Batch, q: Any, prior: Any, z: Tensor
) -> Iterator[tuple[str, Tensor]]:
    yield "log p(z)", prior.log_prob(z)
    yield "log q(z given x)", q.log_prob(z)
    yield "log p(x given z)", subject.model.likelihood(z).log_prob(batch.x)
    yield "log_likelihood(x, z)", subject.model.log_likelihood(batch.x, z)
    yield "log_joint(x, z)", subject.model.log_joint(batch.x, z)


def _shape(what: str, found: Any, expected: Any, advice: str) -> Iterator[Finding]:
    found, expected = tuple(found), tuple(expected)
    if found != expected:
        yield Finding(
            "shape",
            f"{what[0].upper()}{what[1:]} has shape {found} where {expected} is expected "
            f"(S = {SAMPLES} samples of each datum).",
            float(len(found)),
            f"{advice[0].upper()}{advice[1:]}.",
        )


def examine_rows(subject: Subject) -> Iterator[Finding]:
    """Whether a row's numbers are the same alone, in company, in another order, with one sample."""
    n = min(6, len(subject.batch.x))
    if n < 2:
        return
    whole = subject.some(range(n))
    z = subject.z(3, whole)
    together = _of_rows(subject, whole, z)
    everyone, every = list(range(n)), slice(None)
    companies: list[tuple[Any, list[int]]] = [
        (every, everyone[::-1]),
        (every, [0]),
        (every, everyone[1:]),
        ([0], everyone),
    ]
    for samples, rows in companies:
        try:
            apart = _of_rows(subject, subject.some(rows), z[samples][:, rows])
        except Exception as error:
            yield Finding(
                "rows-mixed",
                f"{len(rows)} of {n} rows cannot be evaluated without the others: {error}.",
                float(len(rows)),
                ADVICE,
            )
            return
        for what, value in apart.items():
            expected = together[what][samples][:, rows]
            off = (value - expected).abs() / (1 + expected.abs())
            figure = float(off.nan_to_num(nan=0.0).max())
            if figure > 100 * subject.tolerance:
                beside = "samples" if samples == [0] else "rows"
                yield Finding(
                    "rows-mixed",
                    f"{what} of a row changes by a share of {figure:.2g} with the {beside} that "
                    "stand beside it.",
                    figure,
                    ADVICE,
                )
                return


def _of_rows(subject: Subject, batch: Batch, z: Tensor) -> dict[str, Tensor]:
    p = subject.model.likelihood(z)
    values = {"log q(z given x)": subject.posterior(batch).log_prob(z.clone())}
    if p.event_shape == batch.x.shape[1:]:
        values["log p(x given z)"] = p.log_prob(batch.x)
    return values


def examine_repeats(subject: Subject) -> Iterator[Finding]:
    """Whether two evaluations give the same numbers, and leave the model as it was."""
    batch = subject.some(range(min(8, len(subject.batch.x))))
    z = subject.z(2, batch)
    before = _state(subject)
    first, second = _of_rows(subject, batch, z), _of_rows(subject, batch, z)
    prior = subject.model.prior().log_prob(z), subject.model.prior().log_prob(z)
    pairs = [(k, first[k], second[k]) for k in first] + [("log p(z)", *prior)]
    for what, one, other in pairs:
        off = float((one - other).abs().nan_to_num(nan=0.0).max())
        if off > subject.tolerance * (1 + float(one.abs().nan_to_num(nan=0.0).max())):
            yield Finding(
                "random-at-evaluation",
                f"{what} differs by {off:.3g} nats between two evaluations of the same numbers in "
                "evaluation mode.",
                off,
                "Make dropout a layer that eval() turns off, or pass training=self.training.",
            )
    training = [type(m).__name__ for m in _modules(subject) if m.training]
    if training:
        yield Finding(
            "training-mode",
            f"{len(training)} layers are in training mode although eval() was called, the first a "
            f"{training[0]}.",
            float(len(training)),
            "Let train() and eval() reach every layer, and call neither in forward.",
        )
    after = _state(subject)
    changed = [k for k in before if not torch.equal(before[k], after[k])]
    if changed:
        yield Finding(
            "state-changes",
            f"{len(changed)} buffers change while the model is only evaluated, the first "
            f"{changed[0]}.",
            float(len(changed)),
            "Update running averages in training mode alone.",
        )


def _modules(subject: Subject) -> list[Any]:
    return [m for part in (subject.model, subject.posterior) for m in part.modules()]


def _state(subject: Subject) -> dict[str, Tensor]:
    """Every buffer under its name; NaN is made a number, so that it equals itself."""
    return {
        name: buffer.detach().clone().nan_to_num()
        for part in (subject.model, subject.posterior)
        for name, buffer in part.named_buffers()
    }
