"""The continuous Bernoulli, in its logit l: an exponential law cut to [0, 1], smooth through l = 0.

    p(x) = exp(l x) l / (exp(l) - 1),   F(x) = (exp(l x) - 1) / (exp(l) - 1)

Each formula is written for n = -|l|, where nothing overflows, and as a series near l = 0, where
its terms cancel, in the value or in the derivative.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td

from aevb.distributions.inverse_cdf import InverseCDF
from aevb.distributions.reparameterization import ROUTES
from aevb.distributions.series import horner
from aevb.distributions.special import one_minus_exp


class ContinuousBernoulli(InverseCDF, td.ContinuousBernoulli):
    """The continuous Bernoulli, with digits at every logit.

        x = log(1 + u (exp(l) - 1)) / l, u ~ U(0, 1);   p(x) = C(l) exp(x l) / (1 + exp(l))

    Near probability 1/2 torch cuts to a Taylor series in the probability, and it clamps
    probabilities near 0 and 1; in the logit l the constant is log(l / tanh(l / 2)) throughout.
    Shapes: probs or logits is the batch; events are numbers in [0, 1]. Units: nats.
    Errors: ValueError, as torch's, for probabilities outside [0, 1] or values outside [0, 1].
    Source: Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli", equations 3 and 8 to 10.
    Example:
        >>> ContinuousBernoulli(logits=torch.tensor([-2.0, 0.0, 2.0])).mean
        tensor([0.3435, 0.5000, 0.6565])
    """

    def transform(self, noise: Tensor) -> Tensor:
        return _quantile(self.logits, noise)

    @property
    def mean(self) -> Tensor:
        return _mean(self.logits)

    @property
    def variance(self) -> Tensor:
        return _variance(self.logits)

    def _log_prob(self, value: Tensor) -> Tensor:
        return value * self.logits - F.softplus(self.logits) + log_normalizer(self.logits)

    def _cdf(self, value: Tensor) -> Tensor:
        x, n = value.clamp(0, 1), _folded(self.logits)
        # (exp(n x) - 1) / (exp(n) - 1); where n x is near 0, so may n be, and a series has digits.
        far = n * x < -1
        steep = torch.where(far, n, -1.0)
        ratio = one_minus_exp(-steep * x) / one_minus_exp(-steep)
        below = torch.where(far, ratio, x * _exprel(n * x) / _exprel(n))
        return torch.where(self.logits > 0, torch.exp(n * (1 - x)) * below, below)

    def entropy(self) -> Tensor:
        return _entropy(self.logits)


def log_normalizer(logits: Tensor) -> Tensor:
    """log C of the continuous Bernoulli, log(l / tanh(l / 2)), smooth through l = 0.

    Source: Loaiza-Ganem & Cunningham (2019), equation 3, with 2 atanh(1 - 2p) = -l.
    """
    small = logits.abs() < 0.1
    safe = torch.where(small, torch.ones_like(logits), logits).abs()
    # log tanh(l/2) = log(1 - exp(-l)) - log(1 + exp(-l)), without overflow for large l
    exact = safe.log() - torch.log(-torch.expm1(-safe)) + torch.log1p(torch.exp(-safe))
    square = torch.where(small, logits, torch.zeros_like(logits)).square()
    return torch.where(small, horner(NORMALIZER, square), exact)


NORMALIZER = (0.6931471805599453, 1 / 12, -7 / 1440, 31 / 90720, -127 / 4838400)
"""Of log C in the powers 0, 2, 4, ... of l."""
SERIES = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000)
"""B_2k / (2k)!: the mean is 1/2 + sum_k SERIES_k l^(2k - 1); here the last term is 1e-15."""


def _folded(logits: Tensor) -> Tensor:
    """-|l|, with the derivative 1 at l = 0, where the formulas for l <= 0 are taken."""
    return torch.where(logits > 0, -logits, logits)


def _split(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where |l| < 1/2; l there and 0 elsewhere; -|l| elsewhere and -1 there."""
    small = logits.abs() < 0.5
    near = torch.where(small, logits, torch.zeros_like(logits))
    return small, near, torch.where(small, -torch.ones_like(logits), _folded(logits))


def _mean(logits: Tensor) -> Tensor:
    """1 / (1 - exp(-l)) - 1 / l, the derivative of the log of (exp(l) - 1) / l."""
    small, near, n = _split(logits)
    series = 0.5 + near * horner(SERIES, near.square())
    tail = torch.exp(n) / torch.expm1(n)
    exact = torch.where(logits > 0, 1 / n - 1 / torch.expm1(n), tail - 1 / n)
    return torch.where(small, series, exact)


def _variance(logits: Tensor) -> Tensor:
    """1 / l^2 - 1 / (4 sinh(l / 2)^2), the derivative of the mean."""
    small, near, n = _split(logits)
    series = horner([(2 * k + 1) * c for k, c in enumerate(SERIES)], near.square())
    return torch.where(small, series, 1 / n.square() - torch.exp(n) / torch.expm1(n).square())


def _entropy(logits: Tensor) -> Tensor:
    """log((exp(n) - 1) / n) - n E x at n = -|l|, an integral of -l times the variance."""
    small, near, n = _split(logits)
    square = near.square()
    shares = [(2 * k + 1) / (2 * k + 2) * c for k, c in enumerate(SERIES)]
    series = -square * horner(shares, square)
    log_mass = torch.log(-torch.expm1(n)) - torch.log(-n)
    return torch.where(small, series, log_mass + 1 - n * torch.exp(n) / torch.expm1(n))


EXPREL = [1.0]
for _k in range(2, 16):
    EXPREL.append(EXPREL[-1] / _k)


def _exprel(y: Tensor) -> Tensor:
    """(exp(y) - 1) / y for y <= 0, and at 0 as its series has it."""
    small = y > -0.5
    safe = torch.where(small, -torch.ones_like(y), y)
    series = horner(EXPREL, torch.where(small, y, torch.zeros_like(y)))
    return torch.where(small, series, torch.expm1(safe) / safe)


NEAR = 0.02
"""Below it the quantile is its series in l, whose next term is 1e-17."""


def _quantile(logits: Tensor, u: Tensor) -> Tensor:
    """log(1 + u (exp(l) - 1)) / l: the cumulants of a coin of probability u, near l = 0."""
    small = logits.abs() < NEAR
    n = torch.where(small, -torch.ones_like(logits), _folded(logits))
    low = u * torch.expm1(n)
    # Where 1 + low is small, 1 - u has the digits.
    rest = torch.where(low < -0.5, (1 - u) + u * torch.exp(n), torch.ones_like(low))
    below = torch.where(low < -0.5, torch.log(rest), torch.log1p(low.clamp_min(-0.5))) / n
    # For l > 0 in the same way, unless exp(l) overflows.
    moderate = torch.log1p(u * torch.expm1((-n).clamp_max(80.0))) / -n
    steep = 1 - torch.log(u + (1 - u) * torch.exp(n)) / n
    above = torch.where(n > -80, moderate, steep)
    series = _series_quantile(torch.where(small, logits, torch.zeros_like(logits)), u)
    far = torch.where(logits > 0, above, below).clamp(0, 1)
    return torch.where(small, series, far)


def _series_quantile(logits: Tensor, u: Tensor) -> Tensor:
    """sum_k kappa_k(u) l^(k - 1) / k!, the cumulants of a coin of probability u, to k = 7."""
    v, skew = u * (1 - u), 1 - 2 * u
    cumulants = (
        v / 2,
        v * skew / 6,
        v * (1 - 6 * v) / 24,
        v * skew * (1 - 12 * v) / 120,
        v * (1 - v * (30 - 120 * v)) / 720,
        v * skew * (1 - v * (60 - 360 * v)) / 5040,
    )
    return u + horner(cumulants, logits) * logits


ROUTES |= {td.ContinuousBernoulli: ContinuousBernoulli}
