"""The gradient by log q alone, for draws that need none: the score-function estimator.

    grad_phi E_q[f(z)] = E_q[(f(z) - b) grad_phi log q(z given x)] + E_q[grad_phi f(z)]

It takes any posterior with a density, discrete or not, and any f; its variance grows with that of
f, and the baseline b is there to take it away.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from aevb.distributions import kl
from aevb.errors import UsageError
from aevb.objectives.baselines import (
    Baseline,
    LeaveOneOut,
    Signal,
    log_mean_without,
    mean_of_others,
)
from aevb.objectives.bounds import (
    Draw,
    Encoded,
    Objective,
    Terms,
    elbo_a,
    elbo_b,
    iwae,
    require_bound,
    with_gradient_of,
)

Temper = Tensor | float


class _Form(NamedTuple):
    """A bound as the score function sees it, f (S, N) being what it averages over samples.

    `signal` is what log q of each sample is weighed by, `from_others` what the other samples let
    one expect of it, `direct` (N,) what else has a gradient, and `mean` whether weights are 1/S.
    """

    f: Callable[[Draw, Temper], Tensor]
    signal: Callable[[Tensor], Tensor]
    from_others: Callable[[Tensor], Tensor]
    direct: Callable[[Draw, Temper], Tensor]
    mean: bool


def _log_mean(log_w: Tensor) -> Tensor:
    return (torch.logsumexp(log_w, 0) - math.log(len(log_w))).expand_as(log_w)


def _log_joint(d: Draw, temper: Temper) -> Tensor:
    """Without log q, whose own gradient has the mean zero and would only add to the variance."""
    return (d.log_likelihood + temper * d.prior.log_prob(d.z)).mean(0)


def _likelihood(d: Draw, temper: Temper) -> Tensor:
    return d.log_likelihood


def _same(f: Tensor) -> Tensor:
    return f


_FORMS = {
    elbo_a.reduce: _Form(Draw.log_weights, _same, mean_of_others, _log_joint, mean=True),
    elbo_b.reduce: _Form(_likelihood, _same, mean_of_others, elbo_b.reduce, mean=True),
    iwae.reduce: _Form(Draw.log_weights, _log_mean, log_mean_without, iwae.reduce, mean=False),
}


@dataclass(frozen=True)
class ScoreFunction(Objective):
    """A bound whose gradient needs none of the draw; made by `score_function`.

    Shapes: noise (S, N, *shape) as `noise` says; the value (N,). Units: nats.
    Errors: UsageError for estimator B where there is no closed divergence, and for one sample where
    the baseline needs others.
    Source: as `score_function`.
    Example:
        >>> from aevb.objectives import learned_baseline
        >>> objective = score_function(iwae, learned_baseline(5))
        >>> objective.name, list(objective.modules())
        ('score_function(iwae)', ['baseline'])
    """

    baseline: Baseline | None = None

    def estimate(self, at: Encoded, noise: Tensor, temper: Temper) -> Terms:
        z = at.draw(noise).detach()
        d = at.decode(z)
        form = _FORMS[self.reduce]
        f = form.f(d, temper).detach()
        signal = form.signal(f)
        expected, error = self._expected(Signal(signal, lambda: form.from_others(f)), at.batch.x)
        score = ((signal - expected.detach()) * at.q.log_prob(z)).sum(0)
        surrogate = form.direct(d, temper) + (score / len(noise) if form.mean else score)
        if error is not None:
            surrogate = surrogate - error
        return d.terms(with_gradient_of(self.reduce(d, temper), surrogate))

    def modules(self) -> dict[str, nn.Module]:
        if self.baseline is None or not self.baseline.state_dict():
            return {}
        return {"baseline": self.baseline}

    def check(self, q: Distribution, p: Distribution, samples: int) -> None:
        if self.reduce is elbo_b.reduce and kl(q, p) is None:
            raise UsageError(
                f"{self.name} needs KL(q || p) in closed form and there is none for this pair: "
                "choose elbo_a"
            )
        if self.baseline is not None and self.baseline.needs_others and samples < 2:
            raise UsageError(
                f"{self.name} compares each sample with the others of its datum and needs at least "
                f"2, found {samples}: give more samples, or choose another estimator"
            )

    def _expected(self, signal: Signal, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The baseline, and the error that is left to learn; nothing where there is none."""
        if self.baseline is None:
            return torch.zeros_like(signal.values), None
        found: tuple[Tensor, Tensor | None] = self.baseline(signal, x)
        return found


def score_function(bound: Objective = elbo_b, baseline: Baseline | None = None) -> ScoreFunction:
    """The score-function estimator of the gradient of elbo_a, elbo_b or iwae.

        elbo   mean_s (f_s - b_s) grad log q_s + grad mean_s f_s,   f = log w, or log p(x given z)
        iwae   sum_s (L - b_s) grad log q_s + grad L,               L = log mean_s w_s

    A baseline with a memory is a module: `AEVB` learns and checkpoints it with the rest, a loop of
    your own learns the parameters of `modules()` too.
    Shapes: noise (S, N, D) as for any bound; nothing is differentiated through the draw.
    Units: the value is the bound, (N,) nats. Errors: UsageError for another bound; for estimator B
    without a closed KL; for the leave-one-out baseline with one sample.
    Source: Paisley, Blei & Jordan (2012), "Variational Bayesian inference with stochastic search";
    Ranganath et al. (2014), "Black box variational inference"; Mnih & Gregor (2014).
    Example:
        >>> import aevb
        >>> coins = aevb.families.Bernoulli()
        >>> model = aevb.Model(aevb.Unconditional(coins, 3), aevb.bernoulli(aevb.MLP(3, [8], 5)))
        >>> posterior = aevb.amortized(aevb.MLP(5, [8], 3), coins)
        >>> objective = score_function(elbo_b, LeaveOneOut())
        >>> objective(model, posterior, torch.ones(4, 5), torch.rand(2, 4, 3)).shape
        torch.Size([4])
    """
    require_bound(bound, ("elbo_a", "elbo_b", "iwae"), "score_function")
    return ScoreFunction(f"score_function({bound.name})", bound.reduce, baseline)


vimco = ScoreFunction("vimco", iwae.reduce, LeaveOneOut())
"""The importance-weighted bound by the score function, each sample held to what the others say.

    sum_s (L - L_{-s}) grad log q_s + sum_s w_s / (sum_r w_r) grad log w_s

L_{-s} is L with the geometric mean of the other weights in the place of w_s: it needs two samples.
Source: Mnih & Rezende (2016), "Variational inference for Monte Carlo objectives", equation 10.
"""
