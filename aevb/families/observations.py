"""Families of observations: binary, grey, classes, counts. All are normalized over their domain."""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from aevb import distributions
from aevb.errors import UsageError
from aevb.families.family import Family, blocks, cells, independent

MAX_LOGIT = 100.0
"""Bound on the logits of a continuous Bernoulli, whose deviation is 1 / |logit| near 0 and 1."""


class Bernoulli(Family):
    """Independent coin flips for data in {0, 1}.

        log p(x) = sum_i x_i l_i - log(1 + exp(l_i)),  l the logits

    Shapes: raw (*batch, X) logits. Units: nats. Errors: DataError from `check` for anything else
    than 0 and 1: the formula is no likelihood of grey pixels.
    Source: Kingma & Welling (2013), appendix C.1.
    Example:
        >>> Bernoulli()(torch.zeros(1, 2), 1).log_prob(torch.ones(1, 2)).exp()
        tensor([0.2500])
    """

    support = constraints.boolean
    domain = "zeros and ones"
    remedy = "; or binarize them, where they are grey levels"

    def outputs(self, size: int) -> int:
        return size

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        coins = distributions.Bernoulli(logits=raw, validate_args=False)
        return distributions.BernoulliVector(coins, raw.ndim - batch_ndim)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.logit((x.sum(0) + 0.5) / (len(x) + 1)).flatten()


class ContinuousBernoulli(Family):
    """The continuous Bernoulli density on [0, 1], for grey pixels.

        p(x) = C(l) exp(x l) / (1 + exp(l)),  log C(l) = log(l / tanh(l / 2))

    Logits are held to [-100, 100]: a pixel that is always 0 would otherwise have a density without
    bound, as under a Gaussian without a least variance (there the deviation is at least 0.01 too).
    Shapes: raw (*batch, X) logits. Units: nats, a density on [0, 1].
    Errors: DataError from `check` for values outside [0, 1].
    Source: Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli".
    Example:
        >>> ContinuousBernoulli()(torch.zeros(1, 1), 1).log_prob(torch.tensor([[0.3]])).exp()
        tensor([1.])
    """

    support = constraints.unit_interval
    domain = "values between 0 and 1"

    def outputs(self, size: int) -> int:
        return size

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        return independent(
            distributions.ContinuousBernoulli(
                logits=raw.clamp(-MAX_LOGIT, MAX_LOGIT), validate_args=False
            ),
            batch_ndim,
        )

    def encode_marginals(self, x: Tensor) -> Tensor:
        # The mean is a steep but monotone function of the logit: a few bisections invert it.
        target = x.mean(0).flatten().clamp(0.02, 0.98)
        low, high = torch.full_like(target, -1000.0), torch.full_like(target, 1000.0)
        for _ in range(50):
            middle = (low + high) / 2
            law = distributions.ContinuousBernoulli(logits=middle, validate_args=False)
            above = law.mean > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2


class Categorical(Family):
    """One of `classes` unordered classes for each element, numbered from 0.

        log p(x) = sum_i l_{i, x_i} - logsumexp_k l_{i, k}

    Shapes: raw (*batch, classes X): for each class a block of X logits. Units: nats.
    Errors: UsageError for fewer than 2 classes; DataError from `check` for other numbers.
    Source: the softmax likelihood; Bishop (2006), section 2.2.
    Example:
        >>> Categorical(4)(torch.zeros(1, 8), 1).event_shape
        torch.Size([2])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise UsageError(f"a categorical needs at least 2 classes, found {classes}")
        self.classes = classes
        self.support = constraints.integer_interval(0, classes - 1)
        self.domain = f"whole numbers from 0 to {classes - 1}"

    def outputs(self, size: int) -> int:
        return self.classes * size

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        logits = torch.stack(blocks(raw, batch_ndim, self.classes), dim=-1)
        return independent(
            distributions.Categorical(logits=logits, validate_args=False), batch_ndim
        )

    def encode_marginals(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        counts = torch.stack([(flat == k).sum(0) for k in range(self.classes)]).to(x.dtype)
        return torch.log((counts + 0.5) / (len(x) + 0.5 * self.classes)).flatten()

    def moments(self, distribution: Distribution) -> Tensor:
        """The probabilities of the classes, (*batch, classes X), a block for each class."""
        probabilities: Tensor = cells(distribution).probs
        return probabilities.movedim(-1, -2).flatten(-2)

    def summarize(self, moments: Tensor) -> Tensor:
        """The most probable class of each element: classes have no mean."""
        by_class: Tensor = moments.unflatten(-1, (self.classes, -1))
        return by_class.argmax(-2).to(moments.dtype)

    def moment_count(self, size: int) -> int:
        return self.classes * size


class Poisson(Family):
    """Counts whose mean equals their variance.

        log p(x) = sum_i x_i r_i - exp(r_i) - log x_i!,  r the log-rates

    Shapes: raw (*batch, X) log-rates. Units: nats.
    Errors: DataError from `check` for anything but whole numbers from 0.
    Source: the canonical link of McCullagh & Nelder (1989), section 6.2.
    Example:
        >>> Poisson()(torch.zeros(1, 1), 1).mean
        tensor([[1.]])
    """

    support = constraints.nonnegative_integer
    domain = "counts (whole numbers from 0)"

    def outputs(self, size: int) -> int:
        return size

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        return independent(distributions.Poisson(torch.exp(raw), validate_args=False), batch_ndim)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.log((x.sum(0) + 0.5) / (len(x) + 1)).flatten()


class NegativeBinomial(Family):
    """Counts that vary more than a Poisson's: mean m, variance m + m^2 / r.

        log p(x) = log Gamma(x + r) / (Gamma(r) x!) + r log(r / (r + m)) + x log(m / (r + m))

    Shapes: raw (*batch, 2X): log m, held to [-15, 25], then log r, held to [-10, 10]: counts that
    vary no more than a Poisson's would send r to infinity. Units: nats.
    Errors: DataError from `check` for anything but whole numbers from 0.
    Source: Hilbe (2011), "Negative binomial regression", the NB2 form.
    Example:
        >>> NegativeBinomial()(torch.zeros(1, 2), 1).variance
        tensor([[2.]])
    """

    support = constraints.nonnegative_integer
    domain = "counts (whole numbers from 0)"

    def outputs(self, size: int) -> int:
        return 2 * size

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        count, logits = count_and_logits(*blocks(raw, batch_ndim, 2))
        return independent(
            distributions.NegativeBinomial(count, logits=logits, validate_args=False), batch_ndim
        )

    def encode_marginals(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        mean = (flat.sum(0) + 0.5) / (len(x) + 1)
        return torch.cat(log_mean_and_count(mean, flat.var(0, unbiased=False)))


def count_and_logits(log_mean: Tensor, log_count: Tensor) -> tuple[Tensor, Tensor]:
    """r and log(m / r) of a negative binomial, from log m and log r, held where it is a number."""
    log_mean, log_count = log_mean.clamp(-15, 25), log_count.clamp(-10, 10)
    return torch.exp(log_count), log_mean - log_count


def log_mean_and_count(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """log m and log r of the negative binomial with these moments, or of one near a Poisson."""
    excess = (variance - mean).clamp_min(1e-2 * mean)
    return mean.log(), (mean * mean / excess).log()
