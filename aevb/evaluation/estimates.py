"""Estimates of log p(x) from samples of the posterior, streamed so that memory stays flat.

    elbo        E_q[log w]                                       a lower bound, any K
    importance  log (1/K) sum_k w_k,   w = p(x, z) / q(z given x)    a lower bound, tight as K grows

Both come out of one pass. The noise of datum n, samples [500 b, 500 (b + 1)) is a function of
(seed, n, b) alone, so every datum gets exactly K samples and no number depends on the chunking.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.compilation import Compiled, layouts
from aevb.data import Rows
from aevb.data.fingerprints import keys_of_rows
from aevb.devices import full_float32, sent, tensor_of
from aevb.distributions import kl, reparameterize, route
from aevb.errors import UsageError
from aevb.evaluation.batches import CELLS_AT_ONCE, batch_for, evaluating, first_batch
from aevb.evaluation.certificate import Certificate, precision_of, treatment
from aevb.evaluation.chunks import Array, Kept, Progress, by_chunks
from aevb.evaluation.pareto import largest, tail_shape
from aevb.evaluation.weights import log_mean
from aevb.evaluation.work import worth_compiling
from aevb.machine import kept_memory
from aevb.model import Model
from aevb.objectives import draw
from aevb.posterior import Batch, ExactPosterior, Posterior
from aevb.products import products_in
from aevb.randomness import Stream, generator, rewind

NOISE_BLOCK = 500
BLOCKS_AT_ONCE = 10

Keys = NDArray[np.int64] | NDArray[np.uint64]


@dataclass
class _Sums:
    """Running sums over samples for one chunk of data, each (M,) in float64."""

    log_w: Tensor
    log_w2: Tensor
    first: Tensor
    second: Tensor
    log_likelihood: Tensor
    second_likelihood: Tensor
    tail: Tensor | None = None
    closed_kl: Tensor | None = None

    @classmethod
    def empty(cls, m: int, device: torch.device) -> "_Sums":
        # `add` makes new tensors, so that the sums may begin as the same two.
        nothing = torch.full((m,), -math.inf, dtype=torch.float64, device=device)
        zero = torch.zeros(m, dtype=torch.float64, device=device)
        return cls(nothing, nothing, zero, zero, zero, zero)

    def add(self, log_w: Tensor, log_likelihood: Tensor, samples: int) -> None:
        """Join some of the samples (S, M), of which there will be so many."""
        log_w, log_likelihood = log_w.double(), log_likelihood.double()
        self.tail = largest(log_w, samples, self.tail)
        self.log_w = torch.logaddexp(self.log_w, log_w.logsumexp(0))
        self.log_w2 = torch.logaddexp(self.log_w2, (2 * log_w).logsumexp(0))
        self.first = self.first + log_w.sum(0)
        self.second = self.second + log_w.square().sum(0)
        self.log_likelihood = self.log_likelihood + log_likelihood.sum(0)
        self.second_likelihood = self.second_likelihood + log_likelihood.square().sum(0)


@dataclass(frozen=True)
class Evidence:
    """The two estimates of one pass, over the same draws, and the parts of the second.

    `kl_by` says how KL(q || p) was found: "closed form", or "samples".
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
    data: str = "data",
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
    Errors: UsageError for K < 1, or bfloat16 for a model in float64; DataError for rows outside
    the likelihood's domain.
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
    engine = _Engine(
        *(model, [posterior], [samples], rows),
        seed=seed,
        compiled=compiled,
        precision=precision,
    )
    columns, width = engine.columns(keys, kept, progress)
    value, error, ess, k, bound, bound_error, reconstruction, divergence = columns
    about = width, data, treatment(rows), engine.stated
    given = ("importance", "log p(x)", "lower", samples, value, error, float(ess.mean()))
    bounds = ("elbo", "evidence lower bound", "lower", samples, bound, bound_error, float(samples))
    return Evidence(
        Certificate(*given, *about, pareto_k=k),
        Certificate(*bounds, *about),
        reconstruction,
        divergence,
        engine.kl_by,
    )


def multiple_importance(
    model: Model,
    proposals: Mapping[str, tuple[Posterior, float]],
    rows: Rows,
    samples: int = 1000,
    *,
    seed: int = 0,
    data: str = "data",
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
    engine = _Engine(
        model, posteriors, counts, rows, seed=seed, compiled=compiled, precision=precision
    )
    columns, width = engine.columns(None, kept, progress)
    value, error, ess, k, *_ = columns
    about = width, data, treatment(rows), engine.stated
    given = ("importance", "log p(x)", "lower", samples, value, error, float(ess.mean()))
    return Certificate(
        *given,
        *about,
        pareto_k=k,
        details={"proposals": dict(zip(proposals, counts, strict=True))},
    )


def split_samples(samples: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers of samples by their shares, at least 1 each, `samples` in all.

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
    counts[counts.argmax()] -= counts.sum() - samples
    return [int(count) for count in counts]


def score_rows(
    model: Model, posterior: Posterior, rows: Rows, samples: int = 100, *, seed: int = 0
) -> Array:
    """log p(x) of each row by importance sampling, (N,) nats: the same in any company.

    The noise of a row is named by its content. In double precision nothing else of the other rows
    is felt; in single precision they are, by 1e-7, and free parameters for each datum were fitted
    to all rows at once. The score is minus infinity for a row so far
    from those of training that its numbers overflow.
    Errors: as `evidence`.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> score_rows(model, aevb.mean_field(aevb.MLP(64, [8], 4)), digits.test, 10).shape
        (180,)
    """
    keys = keys_of_rows(rows.all().numpy())
    values = evidence(model, posterior, rows, samples, seed=seed, keys=keys).importance.values
    return np.where(np.isnan(values), -np.inf, values)


def bound_parts(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    *,
    seed: int = 0,
    chunk: int = 1000,
    sums: Callable[..., Tensor] | None = None,
) -> dict[str, float]:
    """The bound and its two parts as means over rows, one sample each: quick, for every epoch.

    The same noise at every call, so that two calls differ by the parameters alone. `sums` stands in
    for `bound_sums`, say a compiled one.
    Shapes: N rows. Units: nats per datum.
    """
    like = tensor_of(model)
    total = torch.zeros(2, dtype=torch.float64, device=like.device)
    with evaluating(model, posterior):
        way = route(posterior(first_batch(model, rows)))
        for positions, x in rows.chunks(chunk):
            source = generator(seed, Stream.VALIDATION, int(positions[0]))
            noise = way.noise.draw(source, (1, len(x)), like.dtype)
            batch = batch_for(model, x, positions)
            total += (sums or bound_sums)(model, posterior, batch, sent(noise, like.device))
    reconstruction, divergence = (total / len(rows)).tolist()
    return {
        "elbo": reconstruction - divergence,
        "reconstruction": reconstruction,
        "kl": divergence,
    }


def bound_sums(model: Model, posterior: Posterior, batch: Batch, noise: Tensor) -> Tensor:
    """The sums over a batch of log p(x given z) and of KL(q || p), (2,) in float64."""
    d = draw(model, posterior, batch, noise)
    reconstruction, divergence = d.reconstruction(), d.kl_estimate()
    if isinstance(posterior, ExactPosterior):
        # There every weight is p(x), and the bound has no sampling error.
        reconstruction = d.log_weights().mean(0) + divergence
    return torch.stack([reconstruction.double().sum(), divergence.double().sum()])


class _Engine:
    """What an estimate computes again and again, compiled where that was asked for.

    `counts` samples from each of the `posteriors`. The encoder runs once for a chunk of data, the
    decoder in blocks of (samples x data) that fit into the cache: memory does not grow with the
    number of samples.
    """

    def __init__(
        self,
        model: Model,
        posteriors: Sequence[Posterior],
        counts: Sequence[int],
        rows: Rows,
        *,
        seed: int = 0,
        compiled: bool | None = None,
        precision: str = "float32",
    ) -> None:
        self.model, self.posteriors, self.counts = model, tuple(posteriors), tuple(counts)
        self.rows, self.seed = rows, seed
        self.samples = sum(counts)
        if self.samples < 1:
            raise UsageError(f"the number of samples must be at least 1, found {self.samples}")
        self.like = tensor_of(model)
        dtype = precision_of(model)
        if precision != "float32" and self.like.dtype != torch.float32:
            raise UsageError(f"{precision} products need a model in float32, found {dtype}")
        self.precision, self.stated = precision, precision if precision != "float32" else dtype
        self.compiled = compiled
        self.whole: dict[Callable[..., Any], object] = {}

    def columns(
        self, keys: Keys | None, kept: Kept | None, progress: Progress | None
    ) -> tuple[list[Array], float]:
        """The columns of `_reduce` over all rows, and the width of a row."""
        per_block = min(self.samples, NOISE_BLOCK)
        cells = CELLS_AT_ONCE[self.like.device.type]
        chunk = max(1, cells // (per_block * max(self.rows.width, 1)))

        def work(positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
            named = positions if keys is None else keys[positions]
            batch = batch_for(self.model, x, positions)
            return _reduce(self.stream(batch, named, self.counts), self.samples)

        with (
            evaluating(self.model, *self.posteriors),
            kept_memory(),
            full_float32(),
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            # Beside a GPU the cores are free to draw; else they are torch's, which wants them all.
            self.each: Callable[..., Iterator[None]] = (
                map if self.like.device.type == "cpu" else pool.map
            )
            if self.compiled is None:
                pair = self.model, self.posteriors[0]
                self.compiled = worth_compiling(*pair, self.rows, self.samples)
            first = first_batch(self.model, self.rows)
            self.some = [posterior(first) for posterior in self.posteriors]
            # Torch finds its formula here, which it cannot while it is traced.
            closed = kl(self.some[0], self.model.prior()) is not None
            self.kl_by = "closed form" if closed else "samples"
            return by_chunks(
                self.model, self.rows, chunk, COLUMNS, work, kept=kept, progress=progress
            )

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

    def stream(self, batch: Batch, keys: Keys, counts: Sequence[int]) -> _Sums:
        """The sums over the samples of a chunk of data, the noise named by their keys."""
        sums = _Sums.empty(len(batch.x), batch.x.device)
        for j, count in enumerate(counts):
            # The encoder and the maps of the noise are cheap beside the decoder: many at once.
            for start in range(0, count, BLOCKS_AT_ONCE * NOISE_BLOCK):
                stop = min(start + BLOCKS_AT_ONCE * NOISE_BLOCK, count)
                drawn = sent(self._noise(j, keys, start, stop), batch.x.device)
                self._join(sums, batch, j, drawn)
        return sums

    def _join(self, sums: _Sums, batch: Batch, j: int, drawn: Tensor) -> None:
        """The samples that this noise makes of proposal j."""
        shares = tuple(count / self.samples for count in self.counts)
        arguments = (self.model, self.posteriors, shares, j, batch, drawn)
        key = j, *layouts((*batch, drawn))
        z, log_ratio, sums.closed_kl = self.run(_propose, key, *arguments)
        parts = [
            self.run(
                _decode,
                (self.precision, *layouts((batch.x, block))),
                *(self.model, batch.x, block, self.precision),
            )
            for block in z.split(NOISE_BLOCK)
        ]
        log_likelihood = torch.cat(parts)
        sums.add(log_ratio + log_likelihood, log_likelihood, self.samples)

    def _noise(self, j: int, keys: Keys, start: int, stop: int) -> Tensor:
        """The noise of samples `start` to `stop` of proposal j for M keys, (stop - start, M, D).

        A block of a datum's is named by its key, the block and the proposal.
        """
        way, dtype = route(self.some[j]), self.like.dtype
        shape = (stop - start, len(keys), *way.noise.shape)
        drawn = torch.empty(shape, dtype=dtype)
        places = drawn.numpy()

        def draw(n: int) -> None:
            source = generator(self.seed, Stream.EVALUATION)
            for first in range(start, stop, NOISE_BLOCK):
                last = min(first + NOISE_BLOCK, stop)
                rewind(source, int(keys[n]), first // NOISE_BLOCK, j)
                block = way.noise.draw(source, (last - first,), dtype)
                places[first - start : last - start, n] = block.numpy()

        list(self.each(draw, range(len(keys))))
        return drawn


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


def _reduce(sums: _Sums, samples: int) -> list[Tensor]:
    """(estimate, error, ess, k, bound, error, reconstruction, kl), each (M,) in float64."""
    reconstruction = sums.log_likelihood / samples
    mean_log_w = sums.first / samples
    if sums.closed_kl is None:
        kl, spread = reconstruction - mean_log_w, sums.second / samples - mean_log_w.square()
    else:
        kl = sums.closed_kl.double()
        spread = sums.second_likelihood / samples - reconstruction.square()
    bound_error = torch.sqrt(spread.clamp_min(0) / (samples - 1 if samples > 1 else math.nan))
    assert sums.tail is not None
    return [
        *log_mean(sums.log_w, sums.log_w2, samples),
        tail_shape(sums.tail),
        reconstruction - kl,
        bound_error,
        reconstruction,
        kl,
    ]


COLUMNS = 8
"""Of `_reduce`."""
