"""Generalized expectation maximization: the E step is exact, the M step climbs Q by its gradient.

E: q(z) = p(z given x; theta)
M: theta += rate * gradient of Q, a few times, each time with a rate by which Q rises

log p(x; theta_new) - log p(x; theta) >= Q(theta_new) - Q(theta) >= 0
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aevb.algorithms.gradient import log_weight_prior
from aevb.algorithms.learner import State
from aevb.algorithms.monotone import Expectation, Monotone
from aevb.distributions import kl
from aevb.distributions.listed import listed
from aevb.enumeration import CELLS, enumerate_codes
from aevb.errors import UsageError, at_least
from aevb.linear_gaussian import LinearGaussian, affine_of, as_linear_gaussian
from aevb.posterior import ExactPosterior, Posterior

SUFFICIENT = 1e-4
"""Of the rise that a straight line promises, what a step must bring (Armijo 1966)."""
HALVINGS = 50


@dataclass(frozen=True)
class Points(Expectation):
    """Also codes z (S, N or 1, D) with weights (S, N), whose sum of log p(x, z) is E_q of it.

    They are all codes there are, with their probabilities; or of a Gaussian q and a quadratic
    function, 2 D points at sqrt(D) deviations, with 1 / (2 D) each.
    """

    z: Tensor
    weights: Tensor


@dataclass
class GeneralizedEM(Monotone[Points]):
    """The learner: EM for any model whose p(z given x) is exact, by gradients of Q.

        Q(theta) = mean_n E_q[log p(x_n, z; theta)]  (+ log N(theta; 0, I) / N with `weight_prior`)

    The model's codes can be listed (a mixture of any family, a small belief net), or it is
    linear-Gaussian under the prior N(0, I). An M step makes `steps` steps along the gradient; the
    rate is halved until Q rises by its due, and doubled after. So log p(x), or with `weight_prior`
    the density of the posterior over theta, never falls.
    Shapes: a batch of all N = `rows` data; no noise. Units: nats per datum.
    Errors: UsageError for another model, a minibatch, or steps below 1; TrainingError where the
    objective falls.
    Source: Dempster, Laird & Rubin (1977), "Maximum likelihood from incomplete data via the EM
    algorithm", section 3; Neal & Hinton (1998).
    Example:
        >>> from aevb import MLP, Model, bernoulli
        >>> from aevb.conditional import Unconditional
        >>> from aevb.families import OneHotCategorical
        >>> prior = Unconditional(OneHotCategorical(), 2, learned=True)
        >>> learner = GeneralizedEM(Model(prior, bernoulli(MLP(2, [], 3))), rows=4)
        >>> state = learner.init()
        >>> learner.step(state, torch.eye(4)[:, :3])
        >>> state.t
        1
    """

    steps: int = 10
    weight_prior: bool = False

    def __post_init__(self) -> None:
        at_least(1, self.steps, "the number of steps of an M step")
        self.listed = listed(self.model.prior()) is not None
        super().__post_init__()

    def _posterior(self) -> Posterior:
        closed = self.listed or isinstance(self.model, LinearGaussian)
        return ExactPosterior(self.model) if closed else self._linear().exact_encoder()

    def _linear(self) -> LinearGaussian:
        """The model as a linear-Gaussian one over its own codes."""
        same = as_linear_gaussian(self.model)
        found = affine_of(self.model.prior())
        learned = any(p.requires_grad for p in self.model.prior.parameters())
        if same is None or found is None or learned:
            raise UsageError(
                "generalized EM needs codes that can be listed, at most 65,536 of them, or a "
                "linear-Gaussian model under the prior N(0, I): choose another algorithm"
            )
        middle, factor = found
        if bool(middle.any()) or not torch.equal(factor, torch.eye(len(middle)).to(factor)):
            raise UsageError("generalized EM of a linear-Gaussian model needs the prior N(0, I)")
        return same

    def init(self) -> State:
        state = super().init()
        state.extra["rate"] = torch.ones_like(state.extra["floor"])
        return state

    def _objective(self, found: Points) -> float:
        return super()._objective(found) + float(self._log_prior().detach())

    def _log_prior(self) -> Tensor:
        """log p(theta) / N, or nothing."""
        if not self.weight_prior:
            return torch.zeros(())
        named: dict[str, Tensor] = {f"model.{n}": p for n, p in self.model.named_parameters()}
        return torch.as_tensor(log_weight_prior(named) / self.rows)

    def _expect(self, state: State, x: Tensor) -> Points:
        if not self.listed:
            return self._expect_gaussian(x)
        table = enumerate_codes(self.model, x)
        assert table is not None
        q = table.posterior
        divergence = kl(q, self.model.prior())
        assert divergence is not None
        return Points(table.log_evidence, divergence, table.codes.unsqueeze(1), q.probs.mT)

    def _expect_gaussian(self, x: Tensor) -> Points:
        same = self._linear()
        wide = x.to(same.offset)
        q, size = same.exact_encoder()(wide), same.latent_dim
        divergence = kl(q, same.prior())
        assert divergence is not None
        ways = math.sqrt(size) * q.scale_tril.mT
        ways = torch.cat([ways, -ways], dim=-2).movedim(-2, 0)  # (2 D, N, D)
        weights = torch.full(ways.shape[:2], 0.5 / size).to(x)
        return Points(same.log_prob(wide), divergence, (q.mean + ways).to(x), weights)

    def _maximize(self, state: State, x: Tensor, found: Points) -> float:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        rate = state.extra["rate"]
        value, gradient = self._climb(parameters, x, found)
        for _ in range(self.steps):
            start = [p.detach().clone() for p in parameters]
            for _ in range(HALVINGS):
                _move(parameters, start, gradient, float(rate))
                reached, slope = self._climb(parameters, x, found)
                due = SUFFICIENT * float(rate) * sum(float(g.square().sum()) for g in gradient)
                if reached >= value + due:
                    break
                rate.div_(2)
            else:  # nothing is left to gain that could be told from rounding
                _move(parameters, start, gradient, 0.0)
                rate.fill_(1)
                break
            value, gradient = reached, slope
            rate.mul_(2)
        if not isinstance(self.posterior, ExactPosterior):
            self.posterior.load_state_dict(self._linear().exact_encoder().state_dict())
        return 0.0

    def _climb(
        self, parameters: Sequence[Tensor], x: Tensor, found: Points
    ) -> tuple[float, list[Tensor]]:
        """Q and its gradient, a part of the codes at a time."""
        size = max(1, CELLS // max(1, x.numel()))
        value, gradient = 0.0, [torch.zeros_like(p) for p in parameters]
        parts = zip(found.z.split(size), found.weights.split(size), strict=True)
        for i, (z, weights) in enumerate(parts):
            # A code that explains nothing may have log p(x, z) = -inf.
            joint = torch.where(weights > 0, self.model.log_joint(x, z), 0.0)
            part = (weights * joint).sum() / len(x)
            part = part + self._log_prior().to(part) if i == 0 else part
            slopes = torch.autograd.grad(part, parameters, allow_unused=True)
            for total, slope in zip(gradient, slopes, strict=True):
                total.add_(0.0 if slope is None else slope)
            value += float(part.detach())
        return value, gradient


def _move(
    parameters: Sequence[Tensor], start: Sequence[Tensor], way: Sequence[Tensor], rate: float
) -> None:
    with torch.no_grad():
        for p, origin, direction in zip(parameters, start, way, strict=True):
            p.copy_(origin + rate * direction)
