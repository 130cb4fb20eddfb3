"""Estimates of log p(x) from samples of the posterior, streamed so that memory stays flat.

    elbo        E_q[log w]                                       a lower bound, any K
    importance  log (1/K) sum_k w_k,   w = p(x, z) / q(z given x)    a lower bound, tight as K grows

Both come out of one pass. The noise of datum n, samples [500 b, 500 (b + 1)) is a function of
(seed, n, b) alone, so every datum gets exactly K samples and no number depends on the chunking.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.compilation import Compiled, layouts
from aevb.data import Rows, require_rows
from aevb.data.fingerprints import keys_of_rows
from aevb.devices import sent, tensor_of
from aevb.distributions import kl, reparameterize, route
from aevb.errors import UsageError, at_least
from aevb.evaluation.batches import (
    batch_for,
    evaluating,
    first_batch,
    in_batches,
    judging,
    rows_at_once,
)
from aevb.evaluation.certificate import Certificate, precision_of
from aevb.evaluation.chunks import Array, Kept, Progress, by_chunks
from aevb.evaluation.weights import Weighted, Weights
from aevb.evaluation.work import worth_compiling
from aevb.machine import usable_cores
from aevb.model import Model
from aevb.objectives import draw
from aevb.posterior import Batch, Posterior
from aevb.products import products_in
from aevb.randomness import Stream, by_row, generator

CHUNK = 1000
"""Rows whose bound is taken at once."""
NOISE_BLOCK = 500
BLOCKS_AT_ONCE = 10

Keys = NDArray[np.int64] | NDArray[np.uint64]


class How(NamedTuple):
    """Under which seed, compiled or not or as the work ahead says, and in which products."""

    seed: int = 0
    compiled: bool | None = None
    precision: str = "float32"


class Passed(NamedTuple):
    """What a pass says of each datum: tensors (M,) of some data, arrays (N,) of all."""

    value: Any
    error: Any
    ess: Any
    pareto_k: Any
    bound: Any
    bound_error: Any
    reconstruction: Any
    kl: Any


@dataclass(frozen=True, eq=False)
class Evidence:
    """The two estimates of one pass, over the same draws, and the parts of the second.

    `kl_by` says how KL(q || p) was found: "closed form", or "samples".
    Shapes: `reconstruction`, the mean of log p(x given z) over draws, and `kl` (N,): the bound is
    their difference. Units: nats per datum.
    Source: Burda et al. (2015), equation 8; Kingma & Welling (2013), equation 3.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.zeros((3, 2)), np.arange(3), (2,))
        >>> found = evidence(model, model.exact_encoder(), rows)
        >>> round(found.importance.mean, 3)  # -log(2 pi) - log(2) / 2, without any noise
        -2.184
        >>> np.allclose(found.elbo.values, found.reconstruction - found.kl)
        True
    """

    importance: Certificate
    elbo: Certificate
    reconstruction: NDArray[np.float64]
    kl: NDArray[np.float64]
    kl_by: str


def evidence(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    samples: int = 1000,
    *,
    seed: int = 0,
    keys: NDArray[np.uint64] | None = None,
    compiled: bool | None = None,
    precision: str = "float32",
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Estimate log p(x) of every row by importance sampling, and its evidence lower bound.

        log p^(x) = logsumexp_k log w_k - log K;   its Monte-Carlo variance is about 1/ESS - 1/K

    Shapes: N rows, K samples each, exactly. `keys` (N,) name the noise of each row, in place of its
    position: with keys made of their content, the same rows get the same numbers in any company.
    `compiled` None decides by the work ahead. With `precision` bfloat16 the decoder's products are
    in it: faster, and a slightly other model; the certificate says so.
    Units: nats per datum.
    Errors: UsageError for no rows, K < 1, or bfloat16 for a model in float64; DataError for rows
    outside the likelihood's domain.
    Source: Burda et al. (2015), section 3; the variance is the delta method's, with
    ESS = (sum w)^2 / sum w^2. The bound uses KL(q || p) in closed form where there is one.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> result = evidence(model, aevb.mean_field(aevb.MLP(64, [8], 4)), digits.test, 10)
        >>> result.importance.mean >= result.elbo.mean
        True
    """
    how = How(seed, compiled, precision)
    return _evidence(model, [posterior], [samples], rows, how, keys, kept, progress)


def multiple_importance(
    model: Model,
    proposals: Mapping[str, tuple[Posterior, float]],
    rows: Rows,
    samples: int = 1000,
    *,
    seed: int = 0,
    compiled: bool | None = None,
    precision: str = "float32",
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Estimate log p(x) of every row by importance sampling from several proposals at once.

        w = p(x, z) / sum_j (K_j / K) q_j(z given x),   K_j draws of z from q_j

    Each proposal covers what the others miss, since a draw is weighed by all of them. With the
    prior (`FromPrior`) among them the weights are bounded by p(x given z) K / K_prior: a defensive
    mixture.
    Shapes: `proposals` names each q_j with its share of the K samples, at least one each.
    Units: nats per datum.
    Errors: UsageError for shares that are not positive, or fewer samples than proposals; those of
    `evidence`.
    Source: Veach & Guibas (1995), the balance heuristic; Hesterberg (1995), "Weighted average
    importance sampling and defensive mixture distributions"; Owen & Zhou (2000).
    Example:
        >>> import aevb
        >>> from aevb.posterior import FromPrior
        >>> digits = aevb.data.load("digits").test.limit(3)
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> encoder = aevb.mean_field(aevb.MLP(64, [8], 4))
        >>> both = {"encoder": (encoder, 0.9), "prior": (FromPrior(model.prior), 0.1)}
        >>> multiple_importance(model, both, digits, 100).details["proposals"]
        {'encoder': 90, 'prior': 10}
    """
    posteriors = [posterior for posterior, _ in proposals.values()]
    counts = split_samples(samples, [share for _, share in proposals.values()])
    how = How(seed, compiled, precision)
    found = _evidence(model, posteriors, counts, rows, how, None, kept, progress).importance
    return replace(found, details={"proposals": dict(zip(proposals, counts, strict=True))})


def _evidence(
    model: Model,
    posteriors: Sequence[Posterior],
    counts: Sequence[int],
    rows: Rows,
    how: How,
    keys: Keys | None,
    kept: Kept | None,
    progress: Progress | None,
) -> Evidence:
    """The certificates of a pass over all rows."""
    with judging(model, *posteriors):
        one = Pass(model, posteriors, counts, rows, how)

        def work(positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
            named = positions if keys is None else keys[positions]
            return list(one(batch_for(model, x, positions), named))

        table, width = by_chunks(
            model, rows, one.chunk, len(Passed._fields), work, kept=kept, progress=progress
        )
    found, samples = Passed(*table), one.samples
    about = {"direction": "lower", "samples": samples, "precision": one.stated}
    bound = Weighted(found.bound, found.bound_error, np.asarray(float(samples)), None)
    named = {"method": "elbo", "estimand": "evidence lower bound"}
    return Evidence(
        Certificate.of(Weighted(*found[:4]), rows, width, method="importance", **about),
        Certificate.of(bound, rows, width, **named, **about),
        found.reconstruction,
        found.kl,
        "closed form" if one.closed else "samples",
    )


def split_samples(samples: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers of samples by their shares, at least 1 each, `samples` in all.

    Shapes: J shares, of which only the ratios count, to J numbers.
    Errors: UsageError for a share that is not positive, or fewer samples than shares.
    Example:
        >>> split_samples(11, [0.9, 0.1])
        [10, 1]
    """
    if not shares or min(shares) <= 0 or samples < len(shares):
        raise UsageError(
            f"{samples} samples were to be shared as {list(shares)}: each proposal needs a "
            "positive share, and one sample at least"
        )
    edges = np.cumsum([0.0, *shares]) / sum(shares)
    counts = np.diff(np.floor(samples * edges + 0.5).astype(int)).clip(1)
    while counts.sum() > samples:
        counts[counts.argmax()] -= 1
    return [int(count) for count in counts]


def score_rows(
    model: Model, posterior: Posterior, rows: Rows, samples: int = 100, *, seed: int = 0
) -> Array:
    """log p(x) of each row by importance sampling: the same in any company.

        log p^(x) = logsumexp_k log w_k - log K

    The noise of a row is named by its content. In double precision nothing else of the other rows
    is felt; in single precision they are, by 1e-7, and free parameters for each datum were fitted
    to all rows at once. The score is minus infinity for a row so far from those of training that
    its numbers overflow.
    Shapes: N rows, K = `samples` each; the result (N,). Units: nats per datum.
    Errors: as `evidence`. Source: Burda et al. (2015), section 3.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> score_rows(model, aevb.mean_field(aevb.MLP(64, [8], 4)), digits.test, 10).shape
        (180,)
    """
    keys = keys_of_rows(require_rows(rows).all().numpy())
    values = evidence(model, posterior, rows, samples, seed=seed, keys=keys).importance.values
    return np.where(np.isnan(values), -np.inf, values)


def bound_parts(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    *,
    seed: int = 0,
    sums: Callable[..., Tensor] | None = None,
) -> dict[str, float]:
    """The bound and its two parts as means over rows, one sample each: quick, for every epoch.

        elbo = reconstruction - kl,   reconstruction = mean_n log p(x_n given z_n),  z_n ~ q

    The same noise at every call, so that two calls differ by the parameters alone. `sums` stands in
    for `bound_sums`, say a compiled one.
    Shapes: N rows. Units: nats per datum.
    Errors: DataError for rows outside the likelihood's domain.
    Source: Kingma & Welling (2013), equations 6 and 7: KL in closed form where there is one.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.zeros((3, 2)), np.arange(3), (2,))
        >>> parts = bound_parts(model, model.exact_encoder(), rows)
        >>> round(parts["kl"], 3)  # of N(0, 1/2) from N(0, 1): (log(2) - 1/2) / 2
        0.097
    """
    like = tensor_of(model)
    total = torch.zeros(2, dtype=torch.float64, device=like.device)
    with evaluating(model, posterior):
        way = route(posterior(first_batch(model, rows)))
        for positions, batch in in_batches(model, rows, CHUNK):
            source = generator(seed, Stream.VALIDATION, int(positions[0]))
            noise = way.noise.draw(source, (1, len(positions)), like.dtype)
            total += (sums or bound_sums)(model, posterior, batch, sent(noise, like.device))
    reconstruction, divergence = (total / len(rows)).tolist()
    return {
        "elbo": reconstruction - divergence,
        "reconstruction": reconstruction,
        "kl": divergence,
    }


def bound_sums(model: Model, posterior: Posterior, batch: Batch, noise: Tensor) -> Tensor:
    """The sums over a batch of log p(x given z) and of KL(q || p).

    With an `ExactPosterior` the first is such that their difference is log p(x), without noise.
    Shapes: M data, noise (S, M, *shape), means over its S draws; the result (2,) in float64.
    Units: nats. Errors: as `bound_parts`. Source: Kingma & Welling (2013), equations 6 and 7.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> from aevb.posterior import ExactPosterior
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> noise = torch.zeros(1, 3, 1)
        >>> sums = bound_sums(model, ExactPosterior(model), Batch(torch.zeros(3, 2)), noise)
        >>> round((sums[0] - sums[1]).item() / 3, 3)  # -log(2 pi) - log(2) / 2
        -2.184
    """
    d = draw(model, posterior, batch, noise)
    reconstruction, divergence = d.reconstruction(), d.kl_estimate()
    if getattr(posterior, "exact", False):
        # There every weight is p(x), and the bound has no sampling error.
        reconstruction = d.log_weights().mean(0) + divergence
    return torch.stack([reconstruction.double().sum(), divergence.double().sum()])


class Pass:
    """What an estimate computes again and again, compiled where that is asked for or pays.

    `counts` samples from each of the `posteriors`. The encoder runs once for a chunk of data, the
    decoder in blocks of (samples x data) that fit into the cache: memory does not grow with the
    number of samples. To be made and called under `judging`.
    Shapes: called with a batch of M data and keys (M,) that name their noise, it gives `Passed`.
    `chunk` is how many data at once suit the memory.
    Errors: those of `evidence`.
    """

    def __init__(
        self,
        model: Model,
        posteriors: Sequence[Posterior],
        counts: Sequence[int],
        rows: Rows,
        how: How,
    ) -> None:
        self.model, self.posteriors, self.counts = model, tuple(posteriors), tuple(counts)
        for count in counts:
            at_least(0, count, "the number of samples", whole=True)
        self.samples, self.like, dtype = sum(counts), tensor_of(model), precision_of(model)
        at_least(1, self.samples, "the number of samples")
        self.seed, self.compiled, self.precision = how
        if self.precision != "float32" and self.like.dtype != torch.float32:
            raise UsageError(f"{self.precision} products need a model in float32, found {dtype}")
        self.stated = self.precision if self.precision != "float32" else dtype
        if self.compiled is None:
            self.compiled = worth_compiling(model, posteriors[0], rows, self.samples)
        self.whole: dict[Callable[..., Any], object] = {}
        self.chunk = rows_at_once(model, rows, min(self.samples, NOISE_BLOCK))
        # Beside a GPU the cores are free to draw; else they are torch's, which wants them all.
        cores = ThreadPoolExecutor(usable_cores()) if self.like.device.type != "cpu" else None
        self.each = cores.map if cores else map
        first = first_batch(model, rows)
        self.some = [posterior(first) for posterior in posteriors]
        # Torch finds its formula here, which it cannot while it is traced.
        self.closed = kl(self.some[0], model.prior()) is not None
        self.exact = len(posteriors) == 1 and getattr(posteriors[0], "exact", False)

    def __call__(self, batch: Batch, keys: Keys) -> Passed:
        weights, sums, closed = None, torch.zeros(4, 1).to(batch.x).double(), None
        for j, count in enumerate(self.counts):
            # The encoder and the maps of the noise are cheap beside the decoder: many at once.
            for start in range(0, count, BLOCKS_AT_ONCE * NOISE_BLOCK):
                stop = min(start + BLOCKS_AT_ONCE * NOISE_BLOCK, count)
                noise = sent(self._noise(j, keys, start, stop), batch.x.device)
                log_w, log_likelihood, closed = self._weighed(batch, j, noise)
                weights = weights.joined(log_w) if weights else Weights.of(log_w, self.samples)
                both = torch.stack([log_w, log_likelihood]).double()
                sums = sums + torch.cat([both.sum(1), both.square().sum(1)])
        assert weights is not None
        bound = _bound(sums / self.samples, closed, self.samples, self.exact)
        return Passed(*weights.summary(), *bound)

    def run(self, function: Callable[..., Any], key: tuple[object, ...], *arguments: Any) -> Any:
        """A call of a function; compiled, if so, for the first key, which is that of most calls.

        The last chunk, or the last samples, are of another size and run as they stand.
        """
        if not self.compiled or self.whole.setdefault(function, key) != key:
            return function(*arguments)
        graphs = _KEPT.setdefault(self.model, {})
        if function not in graphs:
            graphs[function] = Compiled(function, guarded=True, device=self.like.device.type)
        return graphs[function](key, *arguments)

    def _weighed(self, batch: Batch, j: int, noise: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """log w and log p(x given z) of the draws (S, M) that this noise makes of proposal j, and
        KL(q || p) where it is closed."""
        shares = tuple(count / self.samples for count in self.counts)
        arguments = (self.model, self.posteriors, shares, j, batch, noise)
        z, log_ratio, closed = self.run(_propose, (j, *layouts((*batch, noise))), *arguments)
        parts = []
        for block in z.split(NOISE_BLOCK):
            key = self.precision, *layouts((batch.x, block))
            parts.append(self.run(_decode, key, self.model, batch.x, block, self.precision))
        log_likelihood = torch.cat(parts)
        return log_ratio + log_likelihood, log_likelihood, closed

    def _noise(self, j: int, keys: Keys, start: int, stop: int) -> Tensor:
        """The noise of samples `start` to `stop` of proposal j for M keys, (stop - start, M, D).

        A block of a datum's is named by its key, the block and the proposal.
        """
        way, dtype = route(self.some[j]), self.like.dtype
        blocks = [
            by_row(
                *(self.seed, Stream.EVALUATION, keys),
                partial(way.noise.draw, lead=(min(NOISE_BLOCK, stop - first),), dtype=dtype),
                *(first // NOISE_BLOCK, j),
                each=self.each,
            )
            for first in range(start, stop, NOISE_BLOCK)
        ]
        return torch.cat(blocks)


_KEPT: "WeakKeyDictionary[Model, dict[Callable[..., Any], Compiled]]" = WeakKeyDictionary()
"""The graphs of each model, for its next estimate."""


def _propose(
    model: Model,
    posteriors: tuple[Posterior, ...],
    shares: tuple[float, ...],
    j: int,
    batch: Batch,
    noise: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """z = g_j(noise, x), log p(z) - log q(z given x), and KL(q || p) where it is closed.

    q is the mixture of all proposals by their shares; the divergence is that of a single one.
    """
    laws, prior = [posterior(batch) for posterior in posteriors], model.prior()
    z = reparameterize(laws[j], noise)
    if len(laws) == 1:
        return z, prior.log_prob(z) - laws[0].log_prob(z), kl(laws[0], prior)
    parts = [q.log_prob(z) + math.log(share) for q, share in zip(laws, shares, strict=True)]
    return z, prior.log_prob(z) - torch.stack(parts).logsumexp(0), None


def _decode(model: Model, x: Tensor, z: Tensor, precision: str) -> Tensor:
    with products_in(precision, z.device.type):
        return model.log_likelihood(x, z)


def _bound(
    means: Tensor, closed: Tensor | None, samples: int, exact: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The bound, its error, reconstruction and KL, (M,) each in float64, from the means (4, M) of
    log w, log p(x given z), and their squares; where q is exact every weight is p(x)."""
    log_w, reconstruction, log_w2, squares = means
    kl = reconstruction - log_w if closed is None else closed.double()
    by_weights = closed is None or exact
    spread = log_w2 - log_w.square() if by_weights else squares - reconstruction.square()
    reconstruction = log_w + kl if by_weights else reconstruction
    error = torch.sqrt(spread.clamp_min(0) / (samples - 1 if samples > 1 else math.nan))
    return reconstruction - kl, error, reconstruction, kl
