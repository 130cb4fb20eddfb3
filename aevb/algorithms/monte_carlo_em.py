"""Monte Carlo EM (Kingma & Welling 2013, appendix E): no recognition model, a chain for each datum.

E step   z_n moves by S Hamiltonian transitions on p(z given x_n), from where the last visit left it
M step   theta = U steps of the optimizer along the gradient of
         mean_n mean_s log p(x_n, z_ns) + log p(theta) / N

By Fisher's identity the gradient of log p(x) is the posterior's mean of that of log p(x, z): the
first update of a visit follows it up to the chains' errors, those after it a start that theta has
left. Chains persist, so that a transition or two for each visit suffice once theta moves slowly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to
from torch.func import functional_call

from aevb.algorithms.gradient import GradientLearner
from aevb.algorithms.learner import State
from aevb.distributions.reparameterization import Noise, apart, side_by_side
from aevb.errors import UsageError
from aevb.mcmc import ACCEPTANCE, HMC, SHORTENED, LogDensity
from aevb.objectives import Terms
from aevb.optimizers import Adagrad, Optimizer
from aevb.posterior import Batch, PerDatum
from aevb.randomness import Stream, generator, normal, uniform

LEAPFROGS, UPDATES = 10, 5
"""Of a transition, and of the weights after them: the paper's."""
START = 5
"""The part of the stream of chains that they begin with; those before it are an evaluation's."""
PASSES = LEAPFROGS + 1 + UPDATES
"""Forward and back through the decoder in a visit of one transition."""
UNSTEADY = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm)
"""Layers with which log p(x, z) is no function of a datum and its code."""
VISITS = 20
"""Whose acceptance is averaged for the record."""


@dataclass
class MonteCarloEM(GradientLearner):
    """Expectation maximization with draws of Hamiltonian chains in place of the expectation.

        z_n ~ p(z given x_n) about, by S transitions;  theta += 5 steps along grad log p(x_n, z_n)

    Each datum has a chain of its own, which begins at a draw of the prior and goes on where the
    last visit left it. The size of the steps, one for all, follows theta: after each visit its
    logarithm moves by what the acceptance has beyond 0.9, so that their mean is that; each
    transition is shortened by up to 80 % at random. Codes that may not be any real numbers move
    on a scale where they may. Only theta is learned: the posterior, which has free parameters for
    each datum, says how many there are, and is what an evaluation fits to its own rows.
    With `precision` bfloat16 the M step's products are in it; the chains' stay float32.
    Shapes: a batch of M data with their row numbers, noise (S, M, D + 2). Units: nats per datum;
    the divergence of the record is not known.
    Errors: UsageError for a posterior that is not one of free parameters for each datum, for layers
    of dropout or of normalization over the batch, for codes that no smooth map takes to all real
    numbers, such as classes, an optimizer of `torch.optim`, a batch without row numbers, or a
    weight on the divergence, of which there is none.
    Source: Kingma & Welling (2013), appendix E; Wei & Tanner (1990), "A Monte Carlo implementation
    of the EM algorithm"; persistent chains as in Neal (1992) and Tieleman (2008).
    Example:
        >>> from aevb import MLP, Batch, Model, bernoulli, per_datum, standard_normal
        >>> import torch
        >>> model = Model(standard_normal(2), bernoulli(MLP(2, [8], 5)))
        >>> learner = MonteCarloEM(model, per_datum(30, 2))
        >>> state, batch = learner.init(), Batch(torch.ones(3, 5), torch.arange(3))
        >>> noise = learner.noise(batch).draw(generator(0, Stream.NOISE), (1, 3), torch.float32)
        >>> learner.step(state, batch, noise)
        >>> state.extra["chains"].shape, state.averages()["kl"]
        (torch.Size([30, 2]), None)
    """

    optimizer: Optimizer | torch.optim.Optimizer = field(default_factory=Adagrad, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    learns_posterior: ClassVar[bool] = False
    weighs_divergence: ClassVar[bool] = False

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.posterior, PerDatum):
            raise UsageError(
                "Monte Carlo EM has no recognition model: its posterior is one with free "
                f"parameters for each datum, as aevb.per_datum makes it, found "
                f"{type(self.posterior).__name__}"
            )
        for layer in self.model.modules():
            if isinstance(layer, UNSTEADY):
                raise UsageError(
                    "a chain walks on the density of its datum, which a layer of "
                    f"{type(layer).__name__} changes at every look or for the rows beside it: "
                    "learn this model by another algorithm, or leave the layer out"
                )
        if not isinstance(self.optimizer, Optimizer):
            raise UsageError(
                f"Monte Carlo EM makes {UPDATES} updates in each step, which an optimizer of "
                "torch.optim, outside of it, cannot: choose one of aevb.optimizers"
            )
        self._rows = self.posterior.n
        prior: Distribution = self.model.prior()
        self._map = _from_reals(prior)
        size = self._map.inverse_shape(prior.event_shape)
        one = Noise(torch.Size((1,)), uniform)
        self._noises = [Noise(size, normal), one, one]

    def init(self) -> State:
        """The state at the present parameters, and chains at draws of the prior from `seed`."""
        state = super().init()
        with torch.no_grad():
            source = generator(self.seed, Stream.CHAINS, 0, 0, START)
            z = self.model.sample_prior(self._rows, source)
            chains = self._map.inv(z).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            # As wide as the prior: a step that is too large is soon made smaller.
            size = chains.std(0, correction=0).mean()
            size = torch.where(size > 0, size, 1.0)
            state.extra["tuning"] = torch.stack([size.log(), torch.zeros_like(size)])
            state.extra["chains"] = chains.contiguous()
        return state

    def noise(self, batch: Batch) -> Noise:
        """For each transition momentum, and two numbers in [0, 1): see `StepNoise`."""
        return side_by_side(self._noises)

    def facts(self, state: State) -> dict[str, float]:
        """The acceptance of about the last twenty visits, and the size of the steps."""
        log_size, acceptance = state.extra["tuning"].tolist()
        return {"acceptance": acceptance, "step_size": math.exp(log_size)}

    def _prepared(self, batch: Batch, dtype: torch.dtype) -> Batch:
        if batch.rows is None:
            raise UsageError(
                "Monte Carlo EM has a chain for each row, found by its number: pass Batch(x, rows) "
                "instead of x alone"
            )
        return super()._prepared(batch, dtype)

    def terms(self, batch: Batch, noise: Tensor, temper: Tensor) -> Terms:
        """log p(x, z) and log p(x given z) at the places of chains, (S, M, D), in place of noise;
        their means over S."""
        z = self._map(noise)
        prior: Distribution = self.model.prior()
        log_likelihood = self.model.log_likelihood(batch.x, z)
        log_joint = (prior.log_prob(z) + log_likelihood).mean(0)
        return Terms(log_joint, log_likelihood.mean(0), torch.full_like(log_joint, math.nan))

    def _coefficients(self, rate_factor: float, t: int) -> Sequence[float]:
        """Those of each update, whose number the optimizer is told."""
        numbers: list[float] = []
        for update in range(UPDATES * (t - 1) + 1, UPDATES * t + 1):
            numbers += super()._coefficients(rate_factor, update)
        return numbers

    def _begin(self, state: State, batch: Batch, noise: Tensor, scalars: Tensor) -> None:
        super()._begin(state, batch, state.extra["chains"][batch.rows].unsqueeze(0), scalars)

    def _advance(
        self, state: State, batch: Batch, noise: Tensor, scalars: Tensor
    ) -> dict[str, Tensor]:
        temper, t, *coefficients = scalars.unbind()
        batch = self._prepared(batch, noise.dtype)
        with torch.no_grad():
            draws, acceptance = self._walk(state, batch, noise)
            _tune(state.extra["tuning"], acceptance, t)
        each = len(coefficients) // UPDATES
        for k in range(UPDATES):
            own = coefficients[k * each : (k + 1) * each]
            _, terms = self._ascend(state, batch, draws, temper, own)
            if k == 0:
                state.add(terms, t)
        return {}

    def _walk(self, state: State, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The places of the batch's chains after each transition, (S, M, D); the acceptance, ()."""
        chains, size = state.extra["chains"], state.extra["tuning"][0].exp()
        hmc = HMC(self._log_density(state, batch), LEAPFROGS)
        chain, places, chances = hmc.init(chains[batch.rows]), [], []
        for own in noise:
            momentum, chance, shorten = (n.flatten(1) for n in apart(own, self._noises))
            shortened = size * (1 - SHORTENED * shorten)
            chain, probability = hmc.step(chain, momentum, chance.squeeze(1), shortened)
            places.append(chain.z)
            chances.append(probability)
        assert batch.rows is not None
        chains.index_copy_(0, batch.rows, chain.z)
        return torch.stack(places), torch.stack(chances).mean()

    def _log_density(self, state: State, batch: Batch) -> LogDensity:
        """log p(x, z) as a density of the places u (M, D), with z = map(u): + log |dz / du|."""

        def log_density(u: Tensor) -> Tensor:
            tensors = {**state.parameters, **{k: b.clone() for k, b in state.buffers.items()}}
            terms: Terms = functional_call(
                self._whole, tensors, (batch, u.unsqueeze(0), u.new_ones(()))
            )
            volume: Tensor = self._map.log_abs_det_jacobian(u, self._map(u))
            return terms.objective + volume

        return log_density


def _tune(tuning: Tensor, acceptance: Tensor, t: Tensor) -> None:
    """The size of the steps after the acceptance of visit t, and its running mean, in place.

        log e = log e + a - 0.9;   mean = mean + max(1 / t, 1 / 20) (a - mean)

    Its gain does not fall, since theta moves. The sum of the moves says that the mean of a is 0.9
    up to (log e_T - log e_0) / T, exactly. Source: Robbins & Monro (1951).
    """
    log_size, mean = tuning.unbind()
    share = (1 / t).clamp_min(1 / VISITS).to(tuning.dtype)
    new = [log_size + (acceptance - ACCEPTANCE), mean + share * (acceptance - mean)]
    tuning.copy_(torch.stack(new))


def _from_reals(prior: Distribution) -> Transform:
    """The smooth map from vectors of any real numbers to where the codes lie."""
    if len(prior.event_shape) != 1:
        shape = tuple(prior.event_shape)
        raise UsageError(f"Monte Carlo EM needs codes that are vectors, found the shape {shape}")
    try:
        found: Transform = biject_to(prior.support)
    except NotImplementedError:
        raise UsageError(
            "Hamiltonian chains move codes smoothly, and no smooth map takes all real numbers to "
            f"those of {prior.support}: learn this model by another algorithm"
        ) from None
    return found
