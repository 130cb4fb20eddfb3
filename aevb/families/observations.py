"""Families of observations: binary, grey, classes, counts. All are normalized over their domain."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, constraints

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
        return BernoulliVector(td.Bernoulli(logits=raw, validate_args=False), raw.ndim - batch_ndim)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.logit((x.sum(0) + 0.5) / (len(x) + 1)).flatten()


class BernoulliVector(td.Independent):  # type: ignore[type-arg]  # a class of torch's, at run time
    """Independent coin flips whose joint log-probability takes a logarithm once for many cells.

        log p(x) = sum_i x_i l_i - max(l_i, 0) - log(1 + exp(-|l_i|))

    One exponential serves the gradient too. It is for evaluation and for compiled steps: with
    gradients, and not compiled, torch's own formula is the faster one.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        logits: Tensor = self.base_dist.logits
        group = _factors_of_a_product(logits.shape[-1])
        eager = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if eager or self.reinterpreted_batch_ndims != 1 or group < 4:
            return super().log_prob(value)  # type: ignore[no-any-return, no-untyped-call]
        # -|l| is l - 2 max(l, 0): of abs() the second derivative would be missing where l is 0.
        positive = logits.clamp_min(0)
        factors = 1 + torch.exp(logits - 2 * positive)
        normalizer: Tensor = _SumOfLogs.apply(factors, group)  # type: ignore[no-untyped-call]
        log_probability: Tensor = (value * logits - positive).sum(-1) - normalizer
        return log_probability


class _SumOfLogs(torch.autograd.Function):
    """sum_i log f_i = sum_groups log prod f_i, over the last axis, for factors f_i in [1, 2].

    A product of 64 of them does not overflow, and loses no more than the sum does.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(factors: Tensor, group: int) -> Tensor:
        products: Tensor = factors.unflatten(-1, (group, -1)).prod(-2)
        return products.log().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factors,) = ctx.saved_tensors
        return gradient.unsqueeze(-1) / factors, None


def _factors_of_a_product(size: int) -> int:
    """How many of `size` factors to multiply: at most 64, side by side in whole registers of 16."""
    fitting = [k for k in range(1, 65) if size % k == 0 and size // k >= 16]
    return max(fitting, key=lambda k: (size // k % 16 == 0, k), default=1)


class ContinuousBernoulliDistribution(td.ContinuousBernoulli):
    """torch's ContinuousBernoulli with a normalizer that is exact for every logit.

    Near probability 1/2 torch cuts to a Taylor series in the probability, and it clamps
    probabilities near 0 and 1; in the logit l the constant is log(l / tanh(l / 2)) throughout.
    Its mean loses three digits there, in float32, to the difference of two large numbers.
    """

    @property
    def mean(self) -> Tensor:
        return _continuous_bernoulli_mean(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.logits - F.softplus(self.logits) + log_normalizer(self.logits)


def log_normalizer(logits: Tensor) -> Tensor:
    """log C of the continuous Bernoulli, log(l / tanh(l / 2)), smooth through l = 0.

    Source: Loaiza-Ganem & Cunningham (2019), equation 3, with 2 atanh(1 - 2p) = -l.
    """
    small = logits.abs() < 0.1
    safe = torch.where(small, torch.ones_like(logits), logits).abs()
    # log tanh(l/2) = log(1 - exp(-l)) - log(1 + exp(-l)), without overflow for large l
    exact = safe.log() - torch.log(-torch.expm1(-safe)) + torch.log1p(torch.exp(-safe))
    square = torch.where(small, logits, torch.zeros_like(logits)).square()
    series = 0.6931471805599453 + square * (
        1 / 12 - square * (7 / 1440 - square * (31 / 90720 - square * (127 / 4838400)))
    )
    return torch.where(small, series, exact)


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
            ContinuousBernoulliDistribution(
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
            above = _continuous_bernoulli_mean(middle) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2


def _continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    """1 / (1 - exp(-l)) - 1 / l, the derivative of the log of (exp(l) - 1) / l."""
    small = logits.abs() < 0.5
    safe = torch.where(small, torch.ones_like(logits), logits)
    near = torch.where(small, logits, torch.zeros_like(logits))
    square = near.square()
    series = near * (1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600)))
    return torch.where(small, 0.5 + series, -1 / torch.expm1(-safe) - 1 / safe)


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
        return independent(td.Categorical(logits=logits, validate_args=False), batch_ndim)

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
        return independent(td.Poisson(torch.exp(raw), validate_args=False), batch_ndim)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.log((x.sum(0) + 0.5) / (len(x) + 1)).flatten()


class NegativeBinomialDistribution(td.NegativeBinomial):
    """torch's NegativeBinomial with a log-density that keeps its digits as it tends to a Poisson's.

    The difference of two log Gammas loses all digits, in single precision, where r is large; there
    Stirling's series gives it in terms that tend to 0.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        r, log_odds = self.total_count, self.logits
        log_mean = log_odds + torch.log(r)
        softplus = F.softplus(log_odds)
        return (
            _log_rising(r, value)
            - torch.lgamma(value + 1)
            + value * (log_mean - softplus)
            - r * softplus
        )


def _log_rising(r: Tensor, x: Tensor) -> Tensor:
    """log Gamma(r + x) - log Gamma(r) - x log r, by Stirling's series from r = 50."""
    small = r < 50
    near, far = torch.where(small, r, torch.ones_like(r)), torch.where(small, 50.0 + r, r)
    exact = torch.lgamma(near + x) - torch.lgamma(near) - x * torch.log(near)
    series = (far + x - 0.5) * torch.log1p(x / far) - x + (1 / (far + x) - 1 / far) / 12
    return torch.where(small, exact, series)


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
        log_mean, log_count = blocks(raw, batch_ndim, 2)
        log_mean, log_count = log_mean.clamp(-15, 25), log_count.clamp(-10, 10)
        return independent(
            NegativeBinomialDistribution(
                torch.exp(log_count), logits=log_mean - log_count, validate_args=False
            ),
            batch_ndim,
        )

    def encode_marginals(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        mean = (flat.sum(0) + 0.5) / (len(x) + 1)
        excess = (flat.var(0, unbiased=False) - mean).clamp_min(1e-2 * mean)
        return torch.cat([mean.log(), (mean * mean / excess).log()])
