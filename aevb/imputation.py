"""Missing cells filled, and noise taken off, by the posterior given what was observed.

    E[x_missing given x_observed] = integral E[x_missing given z] p(z given x_observed) dz

The cells are independent given z, so that p(x_observed given z) is the likelihood without the
missing ones, and the encoder is only a proposal: weights (importance) or a test (Gibbs) make the
answer that of the model, however the encoder takes rows with holes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from aevb.conditional import Conditional
from aevb.data import Rows
from aevb.distributions import Masked, reparameterize, route
from aevb.errors import UsageError
from aevb.evaluation import evaluating
from aevb.model import Model
from aevb.posterior import Batch, Posterior
from aevb.randomness import Stream, generator, uniform

Array = NDArray[np.float64]
CELLS_AT_ONCE = 4_000_000
ROUNDS = 5
PRIOR_DRAWS = 500


def impute(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    *,
    method: Literal["importance", "gibbs"] = "importance",
    samples: int = 100,
    seed: int = 0,
) -> Array:
    """Fill the NaN cells of rows by their posterior mean; observed cells stay as they are.

        importance:  sum_k w_k E[x given z_k] / sum_k w_k,
                     w_k = p(x_observed given z_k) p(z_k) / q(z_k given x filled),  z_k from q
        Gibbs:       the mean of E[x given z_t] over a Markov chain that proposes z from
                     q(z given x filled), accepts it by Metropolis and Hastings, and draws x_missing
                     from p(x given z)

    Shapes: N rows of X cells; (N, X). Units: of the data; a column of classes gets the most
    probable one. `samples` are the draws of z for each row, behind as many for burning in.
    Errors: UsageError for an unknown method, samples below 1, or a likelihood whose cells are not
    independent; DataError for observed cells outside the likelihood's domain.
    Source: Mattei & Frellsen (2019), "MIWAE", equation 12, for importance; Rezende et al. (2014),
    appendix F, made exact by Mattei & Frellsen (2018), algorithm 2, for Gibbs.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> model = aevb.Model(
        ...     aevb.standard_normal(2), aevb.continuous_bernoulli(aevb.MLP(2, [8], 64)))
        >>> holes = Rows(np.full((1, 64), np.nan), np.arange(1), (64,))
        >>> impute(model, aevb.mean_field(aevb.MLP(64, [8], 4)), holes, samples=9).shape
        (1, 64)
    """
    if method not in ("importance", "gibbs"):
        raise UsageError(f"the method must be importance or gibbs, found {method!r}")
    inferred = _posterior_mean(model, posterior, rows, method, samples, seed)
    data = rows.all().double().flatten(1).numpy()
    return np.where(np.isnan(data), inferred, data)


def denoise(
    model: Model, posterior: Posterior, rows: Rows, *, samples: int = 100, seed: int = 0
) -> Array:
    """What the model takes for the truth behind noisy rows: E[x given z], averaged over z given x.

        sum_k w_k E[x given z_k] / sum_k w_k,   w_k = p(x given z_k) p(z_k) / q(z_k given x)

    Shapes, units and errors as `impute`; every cell is inferred, missing ones too.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> model = aevb.Model(
        ...     aevb.standard_normal(2), aevb.continuous_bernoulli(aevb.MLP(2, [8], 64)))
        >>> denoise(model, aevb.mean_field(aevb.MLP(64, [8], 4)), digits.test.limit(3)).shape
        (3, 64)
    """
    return _posterior_mean(model, posterior, rows, "importance", samples, seed)


def observing(model: Model) -> Model:
    """The model for rows with missing cells: the same modules, NaN cells integrated out."""
    if isinstance(model.family, Masked):
        return model
    if model.family is None or not isinstance(model.likelihood, Conditional):
        raise UsageError(
            "missing cells need a likelihood made of one of the families of aevb.distributions"
        )
    likelihood = model.likelihood
    masked = Conditional(likelihood.network, Masked(model.family), likelihood.condition_ndim)
    return Model(model.prior, masked)


def _posterior_mean(
    model: Model, posterior: Posterior, rows: Rows, method: str, samples: int, seed: int
) -> Array:
    if samples < 1:
        raise UsageError(f"the number of samples must be at least 1, found {samples}")
    dtype = next(model.parameters()).dtype
    chunk = max(1, CELLS_AT_ONCE // (samples * max(rows.width, 1)))
    infer = _importance if method == "importance" else _gibbs
    masked = observing(model)
    parts = []
    with evaluating(masked, posterior), torch.random.fork_rng(devices=[]):
        for positions, x in rows.chunks(chunk):
            if masked.family is not None:
                masked.family.check(x, int(positions[0]) + 1)
            holes = _Holes(masked, posterior, x.to(dtype), positions, masked is model, seed)
            parts.append(masked.summarize(infer(holes, samples)).double().flatten(1).numpy())
    return np.concatenate(parts)


@dataclass(frozen=True)
class _Holes:
    """Some rows x (N, X) with their holes, and the randomness that belongs to them."""

    model: Model
    posterior: Posterior
    x: Tensor
    positions: NDArray[np.int64]
    trained_on_holes: bool
    seed: int

    @property
    def seen(self) -> bool:
        """Whether the encoder takes the rows as they are: it was trained on holes, or has none."""
        return self.trained_on_holes or not bool(torch.isnan(self.x).any())

    def source(self, turn: int) -> np.random.Generator:
        return generator(self.seed, Stream.IMPUTATION, int(self.positions[0]), turn)

    def propose(self, filled: Tensor, samples: int, turn: int) -> tuple[Tensor, Distribution]:
        """z (S, N, D) from q(z given the filled rows), and this q."""
        q = self.posterior(Batch(filled, torch.from_numpy(self.positions)))
        shape = (samples, *q.batch_shape, *q.event_shape)
        return reparameterize(q, route(q).noise(self.source(turn), shape, filled.dtype)), q

    def fill(self, values: Tensor) -> Tensor:
        """The rows with values (N, X) in place of their holes; as they are, if these are seen."""
        values = values.reshape(self.x.shape).to(self.x.dtype)
        return self.x if self.seen else torch.where(torch.isnan(self.x), values, self.x)


def _average(weights: Tensor, moments: Tensor) -> Tensor:
    """sum_k w_k m_k over log-weights (K, N), normalized here, and moments (K, N or 1, M)."""
    share = torch.softmax(weights.double(), dim=0).to(moments.dtype)
    return torch.einsum("kn,knm->nm", share, moments.flatten(2).expand(-1, len(share[0]), -1))


def _from_prior(holes: _Holes) -> Tensor:
    """The moments (N, M) by importance sampling from the prior: a first guess that needs no q."""
    model = holes.model
    z = model.sample_prior(PRIOR_DRAWS, holes.source(0)).unsqueeze(1)
    return _average(model.log_likelihood(holes.x, z), model.moments(z))


def _importance(holes: _Holes, samples: int) -> Tensor:
    """Rounds of importance sampling; each proposes from the encoder at the fill of the last."""
    model = holes.model
    moments = torch.empty(0) if holes.seen else _from_prior(holes)
    for turn in range(1, 2 if holes.seen else ROUNDS + 1):
        filled = holes.x if holes.seen else holes.fill(model.summarize(moments))
        z, q = holes.propose(filled, samples, turn)
        moments = _average(model.log_joint(holes.x, z) - q.log_prob(z), model.moments(z))
    return moments


def _gibbs(holes: _Holes, samples: int) -> Tensor:
    """The mean of the moments over the second half of a chain of Metropolis within Gibbs."""
    states = enumerate(_chain(holes, 2 * samples))
    kept = [holes.model.moments(z) for t, z in states if t >= samples]
    return torch.stack(kept).mean(0).squeeze(0).flatten(1)


def _chain(holes: _Holes, length: int) -> Iterator[Tensor]:
    """States z (1, N, D) of a chain whose law tends to p(z, x_missing given x_observed)."""
    model = holes.model
    x = holes.x if holes.seen else holes.fill(model.summarize(_from_prior(holes)))
    z, _ = holes.propose(x, 1, 1)
    for t in range(2, length + 2):
        proposal, q = holes.propose(x, 1, t)
        before = model.log_joint(x, z) - q.log_prob(z)
        after = model.log_joint(x, proposal) - q.log_prob(proposal)
        chance = uniform(
            generator(holes.seed, Stream.IMPUTATION, int(holes.positions[0]), t, 1), before.shape
        )
        z = torch.where((chance.log() < after - before).unsqueeze(-1), proposal, z)
        torch.manual_seed(int(holes.source(t).integers(2**63)))
        x = holes.fill(model.likelihood(z).sample().squeeze(0))
        yield z
