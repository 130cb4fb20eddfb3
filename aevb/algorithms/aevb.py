"""Auto-Encoding Variational Bayes (Kingma & Welling 2013, algorithm 1).

repeat   X^M: a random minibatch of M data;   noise: L draws of p(noise) for each datum
         g = gradient of mean_n objective(x_n) + log p(theta) / N,  in theta and phi at once
         theta, phi = one step of the optimizer along g
"""

from dataclasses import dataclass

from torch import Tensor, nn

from aevb.algorithms.gradient import GradientLearner
from aevb.distributions.reparameterization import Noise
from aevb.errors import UsageError, shortly
from aevb.objectives import Objective, Terms, elbo_b
from aevb.posterior import Batch


@dataclass
class AEVB(GradientLearner):
    """The learner of the paper: the gradient of a bound, in model and posterior together.

    What estimates the gradient is the objective's affair; what it has to learn for that, such as a
    baseline, is learned and checkpointed with the rest. All else is as `GradientLearner` says.
    Shapes: a batch of M data, noise (L, M, D). Units: nats per datum.
    Errors: UsageError for what is no `Objective`; those of it and of `GradientLearner`.
    Source: Kingma & Welling (2013), algorithm 1 and section 5.
    Example:
        >>> from aevb import MLP, Model, bernoulli, mean_field, standard_normal
        >>> import torch
        >>> model = Model(standard_normal(2), bernoulli(MLP(2, [8], 5)))
        >>> learner = AEVB(model, mean_field(MLP(5, [8], 4)))
        >>> state = learner.init()
        >>> learner.step(state, torch.ones(3, 5), torch.zeros(1, 3, 2))
        >>> state.t
        1
    """

    objective: Objective = elbo_b

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective):
            raise UsageError(
                "the objective is one of aevb.objectives, such as aevb.iwae, found "
                f"{shortly(self.objective)}"
            )
        super().__post_init__()

    def terms(self, batch: Batch, noise: Tensor, temper: Tensor) -> Terms:
        return self.objective.terms(self.model, self.posterior, batch, noise, temper)

    def modules(self) -> dict[str, nn.Module]:
        return {**super().modules(), **self.objective.modules()}

    def noise(self, batch: Batch) -> Noise:
        return self.objective.noise(self.model, self.posterior, batch)
