"""Variational Bayes for the weights too: a Gaussian posterior over theta (appendix F).

    q(theta) = N(mean, diag(deviation^2)),  p(theta) = N(0, I),   theta = mean + deviation * e
    log p(X) >= E_q(theta)[sum_n L(x_n; theta, phi)] - KL(q(theta) || p(theta))

repeat   X^M: a random minibatch;   noise: L draws for each datum;   e: one draw for the step
         g = gradient of mean_n L(x_n; theta, phi) - KL(q(theta) || p(theta)) / N
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from aevb.algorithms.aevb import AEVB
from aevb.conditional import Averaged
from aevb.devices import tensor_of
from aevb.distributions.reparameterization import Noise
from aevb.errors import UsageError
from aevb.model import Model
from aevb.objectives import Objective, Terms
from aevb.posterior import Batch, Posterior
from aevb.priors import VampPrior
from aevb.randomness import Stream, generator, normal_in_step


@dataclass
class FullBayes(AEVB):
    """Learn a posterior over the generative weights, theta, with that over the codes.

        objective_n = L(x_n; theta, phi) - KL(q(theta) || N(0, I)) / N,   theta ~ q(theta)

    The mean over data of the objective estimates 1/N of a lower bound on log p(X) of all N data,
    the weights integrated out; the reconstruction and kl that are reported are those at the drawn
    theta. One theta serves all data of a step, and is the same for a seed and a step. The model
    averages over draws of theta (`uncertain` makes it): its bound is what validation and every
    evaluation report. A weight of the divergence, beta, is on that of the codes alone.
    Shapes: a batch of M data, noise (L, M, D); N is `weight_prior_rows`. Units: nats per datum.
    Errors: UsageError for a model whose likelihood is not `Averaged`; those of `AEVB`.
    Source: Kingma & Welling (2013), appendix F.
    Example:
        >>> from aevb import MLP, Model, bernoulli, mean_field, standard_normal
        >>> import torch
        >>> model = uncertain(Model(standard_normal(2), bernoulli(MLP(2, [8], 5))))
        >>> learner = FullBayes(model, mean_field(MLP(5, [8], 4)), weight_prior_rows=3)
        >>> state = learner.init()
        >>> learner.step(state, torch.ones(3, 5), torch.zeros(1, 3, 2))
        >>> state.averages()["objective"] < state.averages()["elbo"]
        True
    """

    weight_prior_rows: int = field(kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.model.likelihood, Averaged):
            raise UsageError(
                "a posterior over weights needs a likelihood that averages over them: make the "
                "model by aevb.algorithms.uncertain"
            )
        self._at_draw = _AtDraw(self.objective, self.model, self.posterior)
        first = int(generator(self.seed, Stream.NOISE, 0, 1).integers(2**62))
        self._steps = _Steps(first).to(tensor_of(self.model).device)
        super().__post_init__()

    def modules(self) -> dict[str, nn.Module]:
        return {**super().modules(), "steps": self._steps}

    def terms(self, batch: Batch, noise: Tensor, temper: Tensor) -> Terms:
        averages = self._at_draw.averages
        sizes = [len(part.log_deviation) for part in averages.values()]
        drawn = normal_in_step(self._steps.next(), (sum(sizes),)).to(noise.dtype).split(sizes)
        theta = {
            f"model.{name}.{own}": value
            for (name, part), e in zip(averages.items(), drawn, strict=True)
            for own, value in part.weights(e).items()
        }
        terms: Terms = functional_call(self._at_draw, theta, (batch, noise, temper))
        divergence = torch.stack([part.divergence() for part in averages.values()]).sum()
        return terms._replace(objective=terms.objective - divergence / self.weight_prior_rows)

    def _log_prior(self, parameters: dict[str, Tensor]) -> float:
        return 0.0  # it stands in KL(q(theta) || p(theta))

    def noise(self, batch: Batch) -> Noise:
        return self.objective.noise(self._at_draw.model, self.posterior, batch)


class _AtDraw(nn.Module):
    """The objective of the model at one theta: that which stands in its parameters."""

    def __init__(self, objective: Objective, model: Model, posterior: Posterior) -> None:
        super().__init__()
        parts: dict[str, nn.Module] = {"prior": model.prior, "likelihood": model.likelihood}
        averages = {name: part for name, part in parts.items() if isinstance(part, Averaged)}
        plain = parts | {name: part.conditional for name, part in averages.items()}
        self.model = Model(plain["prior"], plain["likelihood"])
        self._rest = objective, averages, posterior  # no modules: theta alone is put in

    @property
    def averages(self) -> dict[str, Averaged]:
        """Those parts of the model of whose weights there is a posterior."""
        return self._rest[1]

    def forward(self, batch: Batch, noise: Tensor, temper: Tensor) -> Terms:
        objective, _, posterior = self._rest
        return objective.terms(self.model, posterior, batch, noise, temper)


class _Steps(nn.Module):
    """Names the random numbers of each step; its buffer goes with the state into checkpoints."""

    key: Tensor

    def __init__(self, key: int) -> None:
        super().__init__()
        self.register_buffer("key", torch.tensor(key))

    def next(self) -> Tensor:
        """Another key at every step: the stream of one meets that of the next nowhere near."""
        return self.key.add_(1)


def uncertain(model: Model, draws: int = 10, seed: int = 0) -> Model:
    """The model with a posterior over its weights, narrow at first, averaged over `draws` of them.

        p(x given z) = 1/K sum_k p(x given z, theta_k),   p(z) likewise where it has parameters

    Likelihood and prior are averaged each by itself, which is exact: q(theta) is a product. The
    pseudo-inputs of a VampPrior are no weights: they are learned as points.
    Shapes: as the model, whose modules it shares. Units: nats.
    Errors: UsageError for fewer than one draw, or a likelihood without parameters.
    Source: Kingma & Welling (2013), appendix F.
    Example:
        >>> from aevb import MLP, bernoulli, standard_normal
        >>> model = uncertain(Model(standard_normal(2), bernoulli(MLP(2, [8], 5))), draws=3)
        >>> model.expectation(torch.zeros(4, 2)).shape
        torch.Size([4, 5])
    """

    def averaged(part: nn.Module, number: int) -> Averaged:
        made = Averaged(part, draws).to(next(part.parameters()))
        made.redraw(seed, number)
        return made

    own = [] if isinstance(model.prior, VampPrior) else list(model.prior.parameters())
    prior = averaged(model.prior, 1) if own else model.prior
    return Model(prior, averaged(model.likelihood, 0))
