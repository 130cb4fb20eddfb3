"""Laws of what is observed, most without a differentiable draw: coins, counts, levels, ranks."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from aevb.distributions.dirichlet import beta_cdf
from aevb.distributions.reparameterization import expand_parameters
from aevb.distributions.special import as_real, gamma_cdf, log1mexp


class BernoulliVector(td.Independent):  # type: ignore[type-arg]  # a class of torch's, at run time
    """Independent coin flips whose joint log-probability takes a logarithm once for many cells.

        log p(x) = sum_i x_i l_i - max(l_i, 0) - log(1 + exp(-|l_i|))

    One exponential serves the gradient too. It is for evaluation and for compiled steps: with
    gradients, and not compiled, torch's fused logarithm of the sigmoid is the faster one.
    Shapes: made of a Bernoulli with logits (*batch, X) and the number 1; values (..., *batch, X).
    Units: nats. Errors: ValueError, of `log_prob`, for cells that are neither 0 nor 1, where the
    Bernoulli validates.
    Example:
        >>> coins = BernoulliVector(td.Bernoulli(logits=torch.zeros(3, 64)), 1)
        >>> coins.log_prob(torch.ones(3, 64)) / 64  # log 1/2
        tensor([-0.6931, -0.6931, -0.6931])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self.base_dist._validate_args:
            self.base_dist._validate_sample(value)
        logits: Tensor = self.base_dist.logits
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # As torch's Bernoulli has it, which beneath torch.func falls apart into many passes.
            cells = (value - 1) * logits + F.logsigmoid(logits)
            dimensions = tuple(range(-self.reinterpreted_batch_ndims, 0))
            return cells.sum(dimensions) if dimensions else cells
        group = _factors_of_a_product(logits.shape[-1])
        if self.reinterpreted_batch_ndims != 1 or group < 4:
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


class Poisson(td.Poisson):
    """torch's Poisson with its distribution function.

        p(x) = rate^x exp(-rate) / x!;   F(x) = Q(floor(x) + 1, rate), Q the upper incomplete gamma

    Shapes: rate gives the batch; events are counts. Units: nats.
    Errors: ValueError, as torch's, for a negative rate or count.
    Source: Johnson, Kemp & Kotz (2005), "Univariate discrete distributions", section 4.2.
    Example:
        >>> Poisson(torch.tensor(1.0)).cdf(torch.tensor(0.0))
        tensor(0.3679)
    """

    def cdf(self, value: Tensor) -> Tensor:
        return _of_counts(lambda n: gamma_cdf(n + 1, self.rate, upper=True), value)


def _of_counts(cdf: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """A distribution function at any number, from its values at 0, 1, 2, ..."""
    return torch.where(value < 0, 0.0, cdf(value.floor().clamp(min=0)))


class NegativeBinomial(td.NegativeBinomial):
    """torch's NegativeBinomial with a log-density that keeps its digits as it tends to a Poisson's.

        p(x) = Gamma(x + r) / (Gamma(r) x!) s(l)^x s(-l)^r,  r the total count, l the logits
        F(x) = I(s(-l); r, floor(x) + 1), I the regularized incomplete beta function

    The difference of two log Gammas loses all digits, in single precision, where r is large; there
    Stirling's series gives it in terms that tend to 0.
    Shapes: total_count and probs or logits broadcast to the batch; events are counts. Units: nats.
    Errors: ValueError, as torch's, for a negative count.
    Source: Hilbe (2011), "Negative binomial regression"; Abramowitz & Stegun (1964), 6.1.41.
    Example:
        >>> NegativeBinomial(2.0, logits=torch.tensor(0.0)).log_prob(torch.tensor(0.0)).exp()
        tensor(0.2500)
    """

    @property
    def _positive_count(self) -> Tensor:
        """r; at 0, for a count that is always 0, the least r > 0: no 0 times infinity."""
        count: Tensor = self.total_count.clamp_min(torch.finfo(self.logits.dtype).tiny)
        return count

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        r, log_odds = self._positive_count, self.logits
        log_mean = log_odds + torch.log(r)
        softplus = F.softplus(log_odds)
        return (
            _log_rising(r, value)
            - torch.lgamma(value + 1)
            + value * (log_mean - softplus)
            - r * softplus
        )

    def cdf(self, value: Tensor) -> Tensor:
        return _of_counts(lambda n: beta_cdf(self._positive_count, n + 1, -self.logits), value)


def _log_rising(r: Tensor, x: Tensor) -> Tensor:
    """log Gamma(r + x) - log Gamma(r) - x log r, by Stirling's series from r = 50."""
    small = r < 50
    near, far = torch.where(small, r, torch.ones_like(r)), torch.where(small, 50.0 + r, r)
    exact = torch.lgamma(near + x) - torch.lgamma(near) - x * torch.log(near)
    series = (far + x - 0.5) * torch.log1p(x / far) - x + _stirling(far + x) - _stirling(far)
    return torch.where(small, exact, series)


def _stirling(y: Tensor) -> Tensor:
    """log Gamma(y) - (y - 1/2) log y + y - log(2 pi) / 2, to 1e-15 from y = 50."""
    inverse = 1 / y
    if y.dtype != torch.float64:
        return inverse / 12  # the next term is below the rounding of single precision
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


class ZeroInflatedNegativeBinomial(Distribution):
    """Counts with more zeros than a negative binomial law has.

        p(0) = g + (1 - g) p_NB(0),   p(x) = (1 - g) p_NB(x) for x > 0,   g the gate

    Shapes: total_count, logits and gate broadcast to the batch; events are counts. Units: nats.
    Errors: ValueError for a gate outside [0, 1) or a negative total count.
    Source: Greene (1994), "Accounting for excess zeros and sample selection in Poisson and negative
    binomial regression models", section 3.
    Example:
        >>> law = ZeroInflatedNegativeBinomial(1.0, torch.tensor(0.0), 0.5)
        >>> law.log_prob(torch.tensor([0.0, 1.0])).exp()
        tensor([0.7500, 0.1250])
    """

    arg_constraints = {  # noqa: RUF012  # as torch has it
        "total_count": constraints.greater_than_eq(0),
        "logits": constraints.real,
        "gate": constraints.half_open_interval(0.0, 1.0),
    }
    support = constraints.nonnegative_integer
    expand = expand_parameters

    def __init__(
        self,
        total_count: Tensor | float,
        logits: Tensor | float,
        gate: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        total_count = as_real(total_count, logits, gate)
        self.total_count, self.logits, self.gate = broadcast_all(total_count, logits, gate)
        super().__init__(self.logits.shape, validate_args=validate_args)

    @property
    def counts(self) -> NegativeBinomial:
        """The law of the counts where the gate lets them through."""
        return NegativeBinomial(self.total_count, logits=self.logits, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return (1 - self.gate) * self.counts.mean

    @property
    def variance(self) -> Tensor:
        open_gate, counts = 1 - self.gate, self.counts
        return open_gate * (counts.variance + self.gate * counts.mean.square())

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        through = self.counts.log_prob(value)
        zero = _log_of_zero(self.gate, self.counts.log_prob(torch.zeros_like(self.logits)))
        return torch.where(value == 0, zero, torch.log1p(-self.gate) + through)

    def cdf(self, value: Tensor) -> Tensor:
        return _of_counts(lambda n: self.gate + (1 - self.gate) * self.counts.cdf(n), value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            counts: Tensor = self.counts.sample(torch.Size(sample_shape))  # type: ignore[no-untyped-call]
            return torch.where(torch.rand_like(counts) < self.gate, 0.0, counts)


def _log_of_zero(gate: Tensor, log_zero: Tensor) -> Tensor:
    """log(g + (1 - g) p), with digits where it is near 0, and a derivative at g = 0."""
    near = (log_zero > -1) | (gate == 0)
    grown = torch.expm1((-log_zero).clamp_max(80.0))
    small = log_zero + torch.log1p(torch.where(near, gate, torch.zeros_like(gate)) * grown)
    safe = torch.where(near, torch.full_like(gate, 0.5), gate)
    return torch.where(near, small, torch.logaddexp(safe.log(), torch.log1p(-safe) + log_zero))


class _Levels(constraints.Constraint):
    """`bins` evenly spaced numbers from low to high, to a hundredth of what lies between two."""

    is_discrete = True

    def __init__(self, low: Tensor, high: Tensor, bins: int) -> None:
        self.lower_bound, self.upper_bound, self.bins = low, high, bins
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        level = (value - self.lower_bound) / (self.upper_bound - self.lower_bound) * (self.bins - 1)
        inside = (level > -0.5) & (level < self.bins - 0.5)
        checked: Tensor = inside & ((level - level.round()).abs() < 0.01)
        return checked


class _Table(Distribution):
    """A law of a few numbers, whose moments are sums over all of them."""

    has_enumerate_support = True
    expand = expand_parameters

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The values, (K, *batch)."""
        raise NotImplementedError

    def _log_masses(self) -> Tensor:
        """The log-probability of each value, (K, *batch)."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        return (self._log_masses().exp() * self.enumerate_support()).sum(0)

    @property
    def mode(self) -> Tensor:
        best = self._log_masses().argmax(0, keepdim=True)
        return self.enumerate_support().gather(0, best).squeeze(0)

    @property
    def variance(self) -> Tensor:
        away = self.enumerate_support() - self.mean
        return (self._log_masses().exp() * away.square()).sum(0)

    def entropy(self) -> Tensor:
        log_mass = self._log_masses()
        return -(log_mass.exp() * log_mass).sum(0)


class DiscretizedLogistic(_Table):
    """A logistic law rounded to `bins` levels, of which the outermost take the tails.

        P(x) = F(x + d/2) - F(x - d/2),  F(y) = s((y - loc) / scale),  d = (high - low) / (bins - 1)

    The levels are low, low + d, ..., high: images in [0, 1] of 256 greys have bins = 256. The mass
    is exact in the tails, being log s(a) + log s(-b) + log(1 - exp(b - a)).
    Shapes: loc, scale, low and high broadcast to the batch; events are levels, and a value within a
    hundredth of d of a level is that level. Units: nats.
    Errors: ValueError for a scale that is not positive, high not above low, or fewer than 2 bins.
    Source: Salimans et al. (2017), "PixelCNN++", equation 2.
    Example:
        >>> law = DiscretizedLogistic(torch.tensor(0.2), 0.1, 0.0, 1.0, 3)
        >>> law.log_prob(law.enumerate_support()).exp()
        tensor([0.6225, 0.3735, 0.0041])
    """

    arg_constraints = {  # noqa: RUF012  # as torch has it
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.dependent,
        "high": constraints.dependent,
    }

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float,
        high: Tensor | float,
        bins: int,
        validate_args: bool | None = None,
    ) -> None:
        if bins < 2:
            raise ValueError(f"a discretized logistic law needs at least 2 bins, found {bins}")
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        self.bins = bins
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ValueError(f"high must lie above low, found {self.low} and {self.high}")

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return _Levels(self.low, self.high, self.bins)

    @property
    def spacing(self) -> Tensor:
        """The distance d of two levels."""
        return (self.high - self.low) / (self.bins - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._log_mass(((value - self.low) / self.spacing).round())

    def _log_mass(self, level: Tensor) -> Tensor:
        lower, upper = self._standard(level - 0.5), self._standard(level + 0.5)
        bottom, top = level <= 0, level >= self.bins - 1
        gap = torch.where(bottom | top, torch.inf, self.spacing / self.scale)
        lower, upper = torch.where(bottom, -torch.inf, lower), torch.where(top, torch.inf, upper)
        return _log_interval(lower, upper, gap)

    def _standard(self, level: Tensor) -> Tensor:
        return (self.low + level * self.spacing - self.loc) / self.scale

    def cdf(self, value: Tensor) -> Tensor:
        level = ((value - self.low) / self.spacing + 0.01).floor()
        inner = torch.sigmoid(self._standard(level + 0.5))
        return torch.where(level < 0, 0.0, torch.where(level >= self.bins - 1, 1.0, inner))

    def _value(self, level: Tensor) -> Tensor:
        # In this order the levels of images, k / 255, are those that a reader of images gives.
        return self.low + level * (self.high - self.low) / (self.bins - 1)

    def _numbers(self) -> Tensor:
        numbers = torch.arange(self.bins, dtype=self.loc.dtype, device=self.loc.device)
        return numbers.reshape(-1, *[1] * len(self.batch_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The levels, (bins, *batch); they differ over a batch where its bounds do."""
        return self._value(self._numbers())

    def _log_masses(self) -> Tensor:
        return self._log_mass(self._numbers())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            level = ((self.loc + self.scale * u.logit() - self.low) / self.spacing).round()
            return self._value(level.clamp(0, self.bins - 1))


class _Increasing(constraints.Constraint):
    """Numbers that increase along the last axis."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        increasing: Tensor = (value[..., 1:] > value[..., :-1]).all(-1)
        return increasing & value.isfinite().all(-1)


class Ordinal(_Table):
    """One of K ordered classes: where a logistic law around loc falls between K - 1 cutpoints.

        P(x <= k) = s(cutpoints_k - loc),  k = 0, ..., K - 2

    Shapes: cutpoints (*batch, K - 1), increasing, and loc (*batch) broadcast; events are whole
    numbers from 0 to K - 1. Units: nats.
    Errors: ValueError for cutpoints that do not increase.
    Source: McCullagh (1980), "Regression models for ordinal data", equation 2.4.
    Example:
        >>> Ordinal(torch.tensor([-1.0, 1.0]), torch.tensor(0.0)).probs
        tensor([0.2689, 0.4621, 0.2689])
    """

    arg_constraints = {  # noqa: RUF012  # as torch has it
        "cutpoints": _Increasing(),
        "loc": constraints.real,
    }

    def __init__(
        self, cutpoints: Tensor, loc: Tensor | float, validate_args: bool | None = None
    ) -> None:
        first, self.loc = broadcast_all(cutpoints[..., 0], loc)
        self.cutpoints = cutpoints.expand((*first.shape, cutpoints.shape[-1]))
        super().__init__(first.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.cutpoints.shape[-1])

    def _edges(self) -> Tensor:
        """The cutpoints between minus and plus infinity, (*batch, K + 1)."""
        end = torch.full_like(self.cutpoints[..., :1], torch.inf)
        return torch.cat([-end, self.cutpoints, end], -1)

    @property
    def logits(self) -> Tensor:
        """The logs of the probabilities, (*batch, K)."""
        edges = self._edges()
        at = edges - self.loc.unsqueeze(-1)
        return _log_interval(at[..., :-1], at[..., 1:], edges[..., 1:] - edges[..., :-1])

    @property
    def probs(self) -> Tensor:
        """The probabilities, (*batch, K)."""
        return self.logits.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return _chosen(self.logits, value)

    def cdf(self, value: Tensor) -> Tensor:
        last = self.cutpoints.shape[-1]
        return torch.sigmoid(_chosen(self._edges(), value.floor().clamp(-1, last) + 1) - self.loc)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The classes, (K, *batch)."""
        classes = torch.arange(self.cutpoints.shape[-1] + 1).to(self.loc)
        classes = classes.reshape(-1, *[1] * len(self.batch_shape))
        return classes.expand(-1, *self.batch_shape) if expand else classes

    def _log_masses(self) -> Tensor:
        return self.logits.movedim(-1, 0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            z = self.loc + u.logit()
            return (z.unsqueeze(-1) > self.cutpoints).sum(-1).to(self.loc.dtype)


def _chosen(table: Tensor, index: Tensor) -> Tensor:
    """table[..., index], over axes that broadcast."""
    index, table = torch.broadcast_tensors(index.long().unsqueeze(-1), table)
    return table.gather(-1, index[..., :1]).squeeze(-1)


def _log_interval(lower: Tensor, upper: Tensor, gap: Tensor) -> Tensor:
    """log(s(upper) - s(lower)), upper - lower = gap; each may be infinite, and gap then is.

    log s(a) + log s(-b) + log(1 - exp(-gap)): nothing cancels, in no tail.
    """
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + log1mexp(-gap)
