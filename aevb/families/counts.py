"""Families of counts: of one rate, of rates that vary, and with zeros of another kind."""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from aevb import distributions
from aevb.families.family import Family, blocks, independent

LEAST, MOST = -15.0, 25.0
"""Bounds on the logarithm of a mean: a code far out must not make it 0 or infinite."""


class _Counts(Family):
    support = constraints.nonnegative_integer
    domain = "counts (whole numbers from 0)"


class Poisson(_Counts):
    """Counts whose mean equals their variance.

        log p(x) = sum_i x_i r_i - exp(r_i) - log x_i!,  r the log-rates

    Shapes: raw (*batch, X) log-rates, held to [-15, 25]. Units: nats.
    Errors: DataError from `check` for anything but whole numbers from 0.
    Source: the canonical link of McCullagh & Nelder (1989), section 6.2.
    Example:
        >>> Poisson()(torch.zeros(1, 1), 1).mean
        tensor([[1.]])
    """

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        rate = torch.exp(raw.clamp(LEAST, MOST))
        return independent(distributions.Poisson(rate, validate_args=False), batch_ndim)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.log((x.sum(0) + 0.5) / (len(x) + 1)).flatten()


class NegativeBinomial(_Counts):
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

    each = 2

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        count, logits = _count_and_logits(*blocks(raw, batch_ndim, self.each))
        return independent(
            distributions.NegativeBinomial(count, logits=logits, validate_args=False), batch_ndim
        )

    def encode_marginals(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        mean = (flat.sum(0) + 0.5) / (len(x) + 1)
        return torch.cat(_log_mean_and_count(mean, flat.var(0, unbiased=False)))


class ZeroInflatedNegativeBinomial(_Counts):
    """Counts of which some are zero for another reason: a negative binomial behind a gate.

        P(x) = g [x = 0] + (1 - g) NB(x; mean m, variance m + m^2 / r)

    Shapes: raw (*batch, 3X): log m, held to [-15, 25], log r, held to [-10, 10], the logit of
    g, held to [-15, 15].
    Units: nats. Errors: DataError from `check` for anything but whole numbers from 0.
    Source: Lopez et al. (2018), "Deep generative modeling for single-cell transcriptomics".
    Example:
        >>> ZeroInflatedNegativeBinomial()(torch.zeros(1, 3), 1).mean
        tensor([[0.5000]])
    """

    each = 3

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        log_mean, log_count, gate = blocks(raw, batch_ndim, self.each)
        gate = torch.sigmoid(gate.clamp(-15, 15))
        made = distributions.ZeroInflatedNegativeBinomial(
            *_count_and_logits(log_mean, log_count), gate, validate_args=False
        )
        return independent(made, batch_ndim)

    def encode_marginals(self, x: Tensor) -> Tensor:
        """A gate of half the zeros, and roughly the moments of what is left."""
        x = x.flatten(1)
        gate = (0.5 * (x == 0).to(x).mean(0)).clamp(0.01, 0.99)
        mean = (x.sum(0) + 0.5) / (len(x) + 1) / (1 - gate)
        moments = _log_mean_and_count(mean, x.var(0, correction=0))
        return torch.cat([*moments, torch.logit(gate)])


def _count_and_logits(log_mean: Tensor, log_count: Tensor) -> tuple[Tensor, Tensor]:
    """r and log(m / r) of a negative binomial, from log m and log r, held where it is a number."""
    log_mean, log_count = log_mean.clamp(LEAST, MOST), log_count.clamp(-10, 10)
    return torch.exp(log_count), log_mean - log_count


def _log_mean_and_count(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """log m and log r of the negative binomial with these moments, or of one near a Poisson."""
    excess = (variance - mean).clamp_min(1e-2 * mean)
    return mean.log(), (mean * mean / excess).log()
