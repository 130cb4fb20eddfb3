"""Numbers that should be a bound and are not: the usual mistakes, each as the formula it makes.

Candidates are formulas that are often taken for the bound; and the fit  u = a R - b K + c  of the
user's numbers u by ours, R the mean log-likelihood and K the divergence of each datum, with one of
a, b, c free at a time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from aevb.distributions import center
from aevb.evaluation.examination.subject import Subject
from aevb.evaluation.findings import Finding
from aevb.objectives import Draw, draw


@dataclass
class Reference:
    """Our numbers at one noise: a draw, and what mistakes put in place of its parts."""

    draw: Draw
    standard: Tensor
    """log w with N(0, I) in place of the prior, (S, N)."""
    at_center: Tensor
    """log p(x given z) where z is the mean of q, (N,)."""
    width: int
    size: int

    @cached_property
    def log_w(self) -> Tensor:
        return self.draw.log_weights()

    @property
    def elbo_a(self) -> Tensor:
        return self.log_w.mean(0)

    @cached_property
    def kl(self) -> Tensor:
        """In closed form where there is one, else by samples."""
        return self.draw.kl_estimate()

    def bounds(self) -> dict[str, Tensor]:
        """What an objective may be, (N,) each."""
        return {
            "elbo_a": self.elbo_a,
            "elbo_b": self.draw.reconstruction() - self.kl,
            "iwae": _log_mean(self.log_w),
        }


def _log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


def reference(subject: Subject, noise: Tensor) -> Reference:
    """All parts at this noise."""
    model, batch = subject.model, subject.batch
    drawn = draw(model, subject.posterior, batch, noise)
    q, z = drawn.posterior, drawn.z
    normal = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).flatten(2).sum(-1)
    middle = model.log_likelihood(batch.x, center(q).unsqueeze(0))[0]
    standard = normal + drawn.log_likelihood - q.log_prob(z)
    return Reference(drawn, standard, middle, batch.x[0].numel(), q.event_shape.numel())


class Mistake(NamedTuple):
    """A usual mistake: what it makes of the bound, and the line to change."""

    name: str
    said: str
    advice: str
    figure: float | None = None
    """The number behind it; None for how far the objective is off."""


def same(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two vectors of nats are one but for rounding."""
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance * (1 + b.abs())).all())


def recognized(ours: Reference, found: Tensor) -> Finding | None:
    """The mistake that explains the numbers, where one of the usual ones does."""
    for look in (_as_known, _fitted, _plane):
        for sign, word in ((1, ""), (-1, "minus ")):
            mistake = look(ours, sign * found)
            if mistake is not None:
                name, said, advice, figure = mistake
                off = float((found - ours.elbo_a).mean())
                sentence = f"The objective is {word}{said}: {off:+.3g} nats in the mean."
                figure = off if figure is None else figure
                return Finding(f"objective-{name}", sentence, figure, advice)
    return None


def _as_known(ours: Reference, found: Tensor) -> Mistake | None:
    """A bound with its sign turned, or a formula that is often taken for one."""
    for name, value in ours.bounds().items():
        if same(found, value):
            return Mistake("sign", f"{name}, a loss", "Leave the sign out: bounds are maximized.")
    for name, said, formula, advice in CANDIDATES:
        made = formula(ours)
        if made is not None and same(found, made):
            return Mistake(name, said, advice)
    return None


def _weighted(ours: Reference, sign: int) -> Tensor:
    return (torch.softmax(sign * ours.log_w, 0) * ours.log_w).sum(0)


def _closed_in_weights(ours: Reference) -> Tensor | None:
    closed = ours.draw.closed_kl()
    return None if closed is None else _log_mean(ours.draw.log_likelihood - closed)


def _over_data(ours: Reference) -> Tensor:
    n = ours.log_w.shape[1]
    return _log_mean(ours.elbo_a).expand(n)


CANDIDATES: tuple[tuple[str, str, Callable[[Reference], Tensor | None], str], ...] = (
    (
        "center",
        "the bound with the posterior's mean in place of draws",
        lambda r: r.at_center - r.kl,
        "Average over draws of z: the mean alone gives no bound.",
    ),
    (
        "weights",
        "a mean weighted by 1 / w, since the weights come from the loss",
        lambda r: _weighted(r, -1),
        "Weigh by softmax of log w, and not of -log w.",
    ),
    (
        "weights",
        "the weighted mean of log w, where the bound is the logarithm of the mean of w",
        lambda r: _weighted(r, 1),
        "Return logsumexp(log w) - log K; weights in a gradient are detached.",
    ),
    (
        "weights",
        "an importance bound with the closed KL(q || p) in its weights",
        _closed_in_weights,
        "Each sample needs its own log p(z) - log q(z given x) in its weight.",
    ),
    (
        "prior",
        "estimator A with the prior N(0, I) in place of the model's",
        lambda r: r.standard.mean(0),
        "Use model.prior().",
    ),
    (
        "prior",
        "the importance bound with the prior N(0, I) in place of the model's",
        lambda r: _log_mean(r.standard),
        "Use model.prior().",
    ),
    (
        "axis",
        "the log-sum-exp over data instead of over samples",
        _over_data,
        "Sum over axis 0, the samples.",
    ),
    (
        "constant",
        "logsumexp(log w) without - log K",
        lambda r: r.log_w.logsumexp(0),
        "Subtract the logarithm of the number of samples.",
    ),
)


def _fitted(ours: Reference, found: Tensor) -> Mistake | None:
    """A scaled likelihood, a weighted divergence or a constant, where that alone explains all."""
    r = ours.draw.reconstruction()
    for k in _divergences(ours):
        a = _slope(found + k, r)
        if a is not None:
            return _scaled(a, ours)
        b = _slope(r - found, k)
        if b is not None:
            return _weight(b, ours)
    for name, value in ours.bounds().items():
        difference = found - value
        if same(difference, difference.mean().expand_as(difference)):
            return _constant(float(difference.mean()), name, ours)
    a = _inside(ours, found)
    return None if a is None else _scaled(a, ours, "the importance form of ")


def _divergences(ours: Reference) -> tuple[Tensor, Tensor]:
    """KL(q || p) in closed form where there is one, and by samples, (N,) each."""
    return ours.kl, ours.draw.reconstruction() - ours.elbo_a


def _plane(ours: Reference, found: Tensor) -> Mistake | None:
    """a R - b K for all data, where R and K are no multiples of one another."""
    for k in _divergences(ours):
        matrix = torch.stack([ours.draw.reconstruction(), -k], 1).double()
        if len(found) < 6 or float(torch.linalg.cond(matrix)) > 1e6:
            continue
        fit = torch.linalg.lstsq(matrix, found.double().unsqueeze(1)).solution
        if bool((((matrix @ fit)[:, 0] - found).abs() <= 1e-5 * (1 + found.abs())).all()):
            a, b = float(fit[0]), float(fit[1])
            said = f"{_factor(a, ours)} times log p(x given z) less {_factor(b, ours)} times "
            advice = "Sum both, unscaled: a bound has no weights."
            return Mistake("scaled-likelihood", f"{said}KL(q || p)", advice, a)
    return None


def _inside(ours: Reference, found: Tensor) -> float | None:
    """a with u = log mean_s exp(a log p(x given z) + log p(z) - log q): by bisection on a datum."""

    def value(a: float) -> Tensor:
        return _log_mean(ours.log_w + (a - 1) * ours.draw.log_likelihood)

    low, high = (math.log(1e-6), math.log(1e3))
    rising = bool(value(math.exp(high))[0] > value(math.exp(low))[0])
    for _ in range(80):
        middle = (low + high) / 2
        below = bool(value(math.exp(middle))[0] < found[0])
        low, high = (middle, high) if below == rising else (low, middle)
    return math.exp(low) if same(found, value(math.exp(low))) else None


def _slope(y: Tensor, x: Tensor) -> float | None:
    """a with y = a x for all data; None where there is none, or x is hardly anything."""
    norm = float(x.square().sum())
    if norm < 1e-12:
        return None
    a = float((x * y).sum()) / norm
    limit = 1e-4 * (1 + x.abs())
    return a if bool(((y - a * x).abs() <= limit).all()) else None


def _factor(value: float, ours: Reference) -> str:
    """A factor in words, where it is one over the pixels or the codes."""
    for count, what in ((ours.width, "values of a datum"), (ours.size, "dimensions of z")):
        if count > 1 and abs(value * count - 1) < 1e-3:
            return f"1 / {count}, a mean over the {what}"
    return f"{value:.4g}"


def _scaled(a: float, ours: Reference, form: str = "") -> Mistake:
    said = f"{form}the bound with log p(x given z) multiplied by {_factor(a, ours)}"
    return Mistake("scaled-likelihood", said, "Sum log p over the event, unscaled.", a)


def _weight(b: float, ours: Reference) -> Mistake:
    if abs(b) < 1e-3:
        said = f"leaves out KL(q || p), {float(ours.kl.mean()):.3g} nats in the mean"
    elif abs(b + 1) < 1e-3:
        said = "adds KL(q || p) where the bound subtracts it"
    else:
        said = f"weighs KL(q || p) by {_factor(b, ours)}"
    advice = "Report KL(q || p) with weight 1; train as you like."
    return Mistake("kl-weight", f"the bound, but {said}", advice, b)


def _constant(c: float, name: str, ours: Reference) -> Mistake:
    samples = len(ours.log_w)
    half = 0.5 * math.log(2 * math.pi)
    of_x, of_z = (f"{n}/2 log 2 pi, a constant of the Gaussian density of" for n in "XD")
    known = {
        math.log(samples): "log K, K the samples: a sum where a mean belongs",
        -math.log(samples): "-log K, K the samples, subtracted twice",
        **dict.fromkeys((ours.width * half, -ours.width * half), f"{of_x} x"),
        **dict.fromkeys((ours.size * half, -ours.size * half), f"{of_z} z"),
    }
    reasons = [why for value, why in known.items() if abs(c - value) < 1e-3 * abs(value)]
    reason = f" ({reasons[0]})" if reasons else ""
    said = f"{name}, but {c:+.4g} nats for every datum{reason}"
    return Mistake("constant", said, "Keep every constant of the densities, once.", c)


def of_other_shape(ours: Reference, found: Tensor, n: int) -> Finding:
    """An objective that reduces what it should not, or does not reduce what it should."""
    shape = tuple(found.shape)
    said, why = f"has shape {shape} where (N,) = ({n},) is expected", ""
    for name, bound in ours.bounds().items():
        for kind, value in (("mean", bound.mean()), ("sum", bound.sum())):
            for sign, word in ((1, ""), (-1, "minus ")):
                if same(found.reshape(-1), sign * value.reshape(1)):
                    why = f": it is {word}the {kind} over data of {name}"
    over_data = ours.log_w.logsumexp(1)
    count = math.log(n)
    if not why and (same(found, over_data) or same(found, over_data - count)):
        why = ": it is the log-sum-exp over data instead of over samples"
    total = ours.log_w.flatten().logsumexp(0)
    means = (over_data.mean(), (over_data - count).mean(), over_data.sum())
    if found.numel() == 1 and not why:
        singles = [total, total - count, total - math.log(len(ours.log_w)), *means]
        singles.append(total - math.log(ours.log_w.numel()))
        if any(same(found.reshape(1), s * value.reshape(1)) for value in singles for s in (1, -1)):
            why = ": it is the log-sum-exp over data, too, instead of over samples alone"
    if found.shape == ours.log_w.shape and not why:
        why = ": it is not reduced over samples"
    return Finding(
        "objective-shape",
        f"The objective {said}{why}.",
        float(found.numel()),
        "Reduce over samples alone, axis 0; the loop takes the mean over data.",
    )
