"""Numbers that should be a bound and are not: the usual mistakes, each as the formula it makes.

Candidates are formulas that are often taken for the bound; and the fit  u = a R - b K + c  of the
user's numbers u by ours, R the mean log-likelihood and K the divergence of each datum, with one of
a, b, c free at a time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aevb.distributions import center, kl, reparameterize
from aevb.evaluation.examination.subject import Subject
from aevb.evaluation.findings import Finding


@dataclass
class Reference:
    """Our numbers at one noise: log-weights (S, N), and their parts in the mean, (N,)."""

    log_w: Tensor
    log_likelihood: Tensor
    log_ratio: Tensor
    closed: Tensor | None
    standard: Tensor
    """log w with N(0, I) in place of the prior."""
    at_center: Tensor
    """log p(x given z) where z is the mean of q, (N,)."""
    width: int
    size: int

    @property
    def elbo_a(self) -> Tensor:
        return self.log_w.mean(0)

    @property
    def reconstruction(self) -> Tensor:
        return self.log_likelihood.mean(0)

    @property
    def kl(self) -> Tensor:
        """In closed form where there is one, else by samples."""
        return -self.log_ratio.mean(0) if self.closed is None else self.closed

    @property
    def iwae(self) -> Tensor:
        return self.log_w.logsumexp(0) - math.log(len(self.log_w))

    def bounds(self) -> dict[str, Tensor]:
        """What an objective may be, (N,) each."""
        return {
            "elbo_a": self.elbo_a,
            "elbo_b": self.reconstruction - self.kl,
            "iwae": self.iwae,
        }


def reference(subject: Subject, noise: Tensor) -> Reference:
    """All parts at this noise."""
    batch = subject.batch
    q, prior = subject.posterior(batch), subject.model.prior()
    z = reparameterize(q, noise)
    log_q, log_p = q.log_prob(z), prior.log_prob(z)
    likelihood = subject.model.log_likelihood(batch.x, z)
    normal = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).flatten(2).sum(-1)
    middle = subject.model.log_likelihood(batch.x, center(q).unsqueeze(0))[0]
    return Reference(
        log_p + likelihood - log_q,
        likelihood,
        log_p - log_q,
        kl(q, prior),
        normal + likelihood - log_q,
        middle,
        batch.x[0].numel(),
        q.event_shape.numel(),
    )


def same(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two vectors of nats are one but for rounding."""
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance * (1 + b.abs())).all())


def recognized(ours: Reference, found: Tensor) -> Finding | None:
    """The mistake that explains the numbers, where one of the usual ones does."""
    for name, value in ours.bounds().items():
        if same(found, -value):
            figure = float((found - value).mean())
            return _finding(
                "sign",
                f"The objective is minus {name}, a loss: {figure:+.3g} nats from the bound.",
                figure,
                "Leave the sign out: bounds are maximized.",
            )
    for sign, word in ((1, ""), (-1, "minus ")):
        for name, told_, formula, advice in CANDIDATES:
            made = formula(ours)
            if made is not None and same(found, sign * made):
                off = float((found - ours.elbo_a).mean())
                sentence = f"The objective is {word}{told_}: {off:+.3g} nats from estimator A."
                return _finding(name, sentence, off, advice)
        fitted = _fitted(ours, sign * found, word)
        if fitted is not None:
            return fitted
    return None


def _finding(name: str, sentence: str, figure: float, advice: str) -> Finding:
    return Finding(f"objective-{name}", sentence, figure, advice)


def _loss_weights(ours: Reference) -> Tensor:
    w = torch.softmax(-ours.log_w, 0)
    return (w * ours.log_w).sum(0)


def _weighted(ours: Reference) -> Tensor:
    return (torch.softmax(ours.log_w, 0) * ours.log_w).sum(0)


def _closed_in_weights(ours: Reference) -> Tensor | None:
    if ours.closed is None:
        return None
    return (ours.log_likelihood - ours.closed).logsumexp(0) - math.log(len(ours.log_w))


def _over_data(ours: Reference) -> Tensor:
    n = ours.log_w.shape[1]
    return (ours.log_w.mean(0).logsumexp(0) - math.log(n)).expand(n)


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
        _loss_weights,
        "Weigh by softmax of log w, and not of -log w.",
    ),
    (
        "weights",
        "the weighted mean of log w, where the bound is the logarithm of the mean of w",
        _weighted,
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
        lambda r: r.standard.logsumexp(0) - math.log(len(r.standard)),
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


def _fitted(ours: Reference, found: Tensor, word: str) -> Finding | None:
    """A scaled likelihood, a weighted divergence or a constant, where that alone explains all."""
    r, sampled = ours.reconstruction, -ours.log_ratio.mean(0)
    for k in (ours.kl, sampled):
        a = _slope(found + k, r)
        if a is not None:
            return _scaled(a, word, ours, found)
        b = _slope(r - found, k)
        if b is not None:
            return _weight(b, word, ours, found)
        both = _plane(found, r, -k)
        if both is not None:
            return _both(*both, word, ours, found)
    for name, value in ours.bounds().items():
        difference = found - value
        if same(difference, difference.mean().expand_as(difference)):
            return _constant(float(difference.mean()), name, word, ours)
    a = _inside(ours, found)
    return None if a is None else _scaled(a, f"{word}the importance form of ", ours, found)


def _inside(ours: Reference, found: Tensor) -> float | None:
    """a with u = log mean_s exp(a log p(x given z) + log p(z) - log q): by bisection on a datum."""

    def value(a: float) -> Tensor:
        log_w = a * ours.log_likelihood + ours.log_ratio
        return log_w.logsumexp(0) - math.log(len(log_w))

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


def _plane(y: Tensor, *columns: Tensor) -> tuple[float, float] | None:
    """(a, b) with y = a r + b k for all data; where r and k are no multiples of one another."""
    matrix = torch.stack(columns, 1).double()
    if len(y) < 6 or float(torch.linalg.cond(matrix)) > 1e6:
        return None
    fit = torch.linalg.lstsq(matrix, y.double().unsqueeze(1)).solution
    limit = 1e-5 * (1 + y.abs())
    close = bool((((matrix @ fit)[:, 0] - y).abs() <= limit).all())
    return (float(fit[0]), float(fit[1])) if close else None


def _factor(value: float, ours: Reference) -> str:
    """A factor in words, where it is one over the pixels or the codes."""
    for count, what in ((ours.width, "values of a datum"), (ours.size, "dimensions of z")):
        if count > 1 and abs(value * count - 1) < 1e-3:
            return f"1 / {count}, a mean over the {what}"
    return f"{value:.4g}"


def _scaled(a: float, word: str, ours: Reference, found: Tensor) -> Finding:
    off = float((found - ours.elbo_a).mean())
    sentence = (
        f"The objective is {word}the bound with log p(x given z) multiplied by "
        f"{_factor(a, ours)}: {off:+.3g} nats in the mean."
    )
    return _finding("scaled-likelihood", sentence, a, "Sum log p over the event, unscaled.")


def _weight(b: float, word: str, ours: Reference, found: Tensor) -> Finding:
    off = float((found - ours.elbo_a).mean())
    if abs(b) < 1e-3:
        told_ = f"leaves out KL(q || p), {float(ours.kl.mean()):.3g} nats in the mean"
    elif abs(b + 1) < 1e-3:
        told_ = "adds KL(q || p) where the bound subtracts it"
    else:
        told_ = f"weighs KL(q || p) by {_factor(b, ours)}"
    sentence = f"The objective is {word}the bound, but {told_}: {off:+.3g} nats in the mean."
    return _finding("kl-weight", sentence, b, "Report KL(q || p) with weight 1; train as you like.")


def _both(a: float, b: float, word: str, ours: Reference, found: Tensor) -> Finding:
    off = float((found - ours.elbo_a).mean())
    sentence = (
        f"The objective is {word}{_factor(a, ours)} times log p(x given z) less {_factor(b, ours)} "
        f"times KL(q || p): {off:+.3g} nats in the mean."
    )
    return _finding("scaled-likelihood", sentence, a, "Sum both, unscaled: a bound has no weights.")


def _constant(c: float, name: str, word: str, ours: Reference) -> Finding:
    samples = len(ours.log_w)
    half = 0.5 * math.log(2 * math.pi)
    known = {
        math.log(samples): "log K, K the samples: a sum where a mean belongs",
        -math.log(samples): "-log K, K the samples, subtracted twice",
        ours.width * half: "X/2 log 2 pi, a constant of the Gaussian density of x",
        ours.size * half: "D/2 log 2 pi, a constant of the Gaussian density of z",
    }
    told_ = [said for value, said in known.items() if abs(abs(c) - abs(value)) < 1e-3 * abs(value)]
    reason = f" ({told_[0]})" if told_ else ""
    sentence = f"The objective is {word}{name}, but {c:+.4g} nats for every datum{reason}."
    return _finding("constant", sentence, c, "Keep every constant of the densities, once.")


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
