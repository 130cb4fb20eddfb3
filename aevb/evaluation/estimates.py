"""Estimates of log p(x) from samples of the posterior, streamed so that memory stays flat.

    elbo        E_q[log w]                                       a lower bound, any K
    importance  log (1/K) sum_k w_k,   w = p(x, z) / q(z given x)    a lower bound, tight as K grows

Both come out of one pass. The noise of datum n, samples [500 b, 500 (b + 1)) is a function of
(seed, n, b) alone, so every datum gets exactly K samples and no number depends on the chunking.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from aevb.compilation import Compiled, layouts
from aevb.data import Rows
from aevb.data.fingerprints import keys_of_rows
from aevb.devices import full_float32, parameter_of, sent
from aevb.distributions import kl, reparameterize, route
from aevb.errors import UsageError
from aevb.evaluation.certificate import Certificate, treatment
from aevb.machine import kept_memory
from aevb.model import Model
from aevb.objectives import draw
from aevb.posterior import Batch, Posterior
from aevb.priors import VampPrior
from aevb.products import products_in
from aevb.randomness import Stream, generator, rewind

NOISE_BLOCK = 500
BLOCKS_AT_ONCE = 10
CELLS_AT_ONCE = {"cpu": 800_000, "cuda": 64_000_000}
"""Of logits, or what else the decoder gives: 3 MB of float32 stay in the cache; 256 fill a GPU."""
OPERATIONS_WORTH_COMPILING = 2e12
"""From here, some ten seconds, an estimate earns back its compilation."""

Array = NDArray[np.float64]
Keys = NDArray[np.int64] | NDArray[np.uint64]
Progress = Callable[[int, int], None]
"""Called with (data done, data in all)."""


@dataclass
class _Sums:
    """Running sums over samples for one chunk of data, each (M,) in float64."""

    log_w: Tensor
    log_w2: Tensor
    first: Tensor
    second: Tensor
    log_likelihood: Tensor
    second_likelihood: Tensor
    closed_kl: Tensor | None = None

    @classmethod
    def empty(cls, m: int, device: torch.device) -> "_Sums":
        # `add` makes new tensors, so that the sums may begin as the same two.
        nothing = torch.full((m,), -math.inf, dtype=torch.float64, device=device)
        zero = torch.zeros(m, dtype=torch.float64, device=device)
        return cls(nothing, nothing, zero, zero, zero, zero)

    def add(self, log_w: Tensor, log_likelihood: Tensor) -> None:
        log_w, log_likelihood = log_w.double(), log_likelihood.double()
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
    progress: Progress | None = None,
    compiled: bool | None = None,
    precision: str = "float32",
) -> Evidence:
    """Estimate log p(x) of every row by importance sampling, and its evidence lower bound.

        log p^(x) = logsumexp_k log w_k - log K;   its Monte-Carlo variance is 1/ESS - 1/K

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
    if samples < 1:
        raise UsageError(f"the number of samples must be at least 1, found {samples}")
    per_block = min(samples, NOISE_BLOCK)
    parts: list[tuple[Tensor, ...]] = []
    observed = 0
    like = parameter_of(model)
    dtype = str(like.dtype).removeprefix("torch.")
    if precision != "float32" and like.dtype != torch.float32:
        raise UsageError(f"{precision} products need a model in float32, found {dtype}")
    chunk = max(1, CELLS_AT_ONCE[like.device.type] // (per_block * max(rows.width, 1)))
    with (
        evaluating(model, posterior),
        kept_memory(),
        full_float32(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        # Beside a GPU the cores are free to draw; else they are torch's, which wants them all.
        each = map if like.device.type == "cpu" else pool.map
        if compiled is None:
            compiled = worth_compiling(model, posterior, rows, samples)
        engine = _Engine(model, posterior, rows, compiled, precision, each)
        for positions, x in rows.chunks(chunk):
            observed += int((~torch.isnan(x)).sum())
            if model.family is not None:  # by the rows' own numbers
                model.family.check(x, int(positions[0]) + 1)
            named = positions if keys is None else keys[positions]
            batch = batch_for(model, x, positions)
            parts.append(_reduce(engine.stream(batch, named, samples, seed), samples))
            if progress is not None:
                progress(int(positions[-1]) + 1, len(rows))
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    used = precision if precision != "float32" else dtype
    about = (observed / len(rows), data, treatment(rows), used)
    return _certified(columns, samples, about, engine.kl_by)


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


def _certified(
    columns: list[Array], samples: int, about: tuple[float, str, str, str], kl_by: str
) -> Evidence:
    """The columns of `_reduce` over all rows, with what one must know to use them."""
    value, error, ess, bound, bound_error, reconstruction, kl = columns

    def certify(
        method: str, estimand: str, values: Array, errors: Array, effective: float
    ) -> Certificate:
        return Certificate(method, estimand, "lower", samples, values, errors, effective, *about)

    return Evidence(
        certify("importance", "log p(x)", value, error, float(ess.mean())),
        certify("elbo", "evidence lower bound", bound, bound_error, float(samples)),
        reconstruction,
        kl,
        kl_by,
    )


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
    like = parameter_of(model)
    total = torch.zeros(2, dtype=torch.float64, device=like.device)
    with evaluating(model, posterior):
        way = route(posterior(first_batch(model, rows)))
        for positions, x in rows.chunks(chunk):
            source = generator(seed, Stream.VALIDATION, int(positions[0]))
            noise = way.noise(source, (1, len(x)), like.dtype)
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
    return torch.stack([d.reconstruction().double().sum(), d.kl_estimate().double().sum()])


class _Engine:
    """What an estimate computes again and again, compiled where that was asked for.

    The encoder runs once for a chunk of data, the decoder in blocks of (samples x data) that fit
    into the cache: memory does not grow with the number of samples.
    """

    def __init__(
        self,
        model: Model,
        posterior: Posterior,
        rows: Rows,
        compiled: bool,
        precision: str,
        each: Callable[..., Iterator[None]],
    ) -> None:
        self.model, self.posterior, self.precision = model, posterior, precision
        self.each = each
        self.some = posterior(first_batch(model, rows))
        # Torch finds its formula here, which it cannot while it is traced.
        self.kl_by = "samples" if kl(self.some, model.prior()) is None else "closed form"
        self.compiled = compiled
        self.whole: dict[Callable[..., Any], object] = {}

    def run(self, function: Callable[..., Any], key: tuple[object, ...], *arguments: Any) -> Any:
        """A call of a function; compiled, if so, for the first key, which is that of most calls.

        The last chunk, or the last samples, are of another size and run as they stand.
        """
        if not self.compiled or self.whole.setdefault(function, key) != key:
            return function(*arguments)
        graphs = _KEPT.setdefault(self.model, {})
        if function not in graphs:
            device = parameter_of(self.model).device.type
            graphs[function] = Compiled(function, guarded=True, device=device)
        return graphs[function](key, *arguments)

    def stream(self, batch: Batch, keys: Keys, samples: int, seed: int) -> _Sums:
        """The sums over the samples of a chunk of data, the noise named by their keys."""
        model, device = self.model, batch.x.device
        sums = _Sums.empty(len(batch.x), device)
        # The encoder and the maps of the noise are cheap beside the decoder: many blocks at once.
        at_once = BLOCKS_AT_ONCE * NOISE_BLOCK
        for start in range(0, samples, at_once):
            drawn = sent(self._noise(keys, start, min(start + at_once, samples), seed), device)
            arguments = (model, self.posterior, batch, drawn)
            key = layouts((*batch, drawn))
            z, log_ratio, divergence = self.run(_propose, key, *arguments)
            parts = [
                self.run(
                    _decode,
                    (self.precision, *layouts((batch.x, block))),
                    *(model, batch.x, block, self.precision),
                )
                for block in z.split(NOISE_BLOCK)
            ]
            log_likelihood = torch.cat(parts)
            sums.add(log_ratio + log_likelihood, log_likelihood)
            sums.closed_kl = divergence
        return sums

    def _noise(self, keys: Keys, start: int, stop: int, seed: int) -> Tensor:
        """The noise of samples `start` to `stop` for M keys, (stop - start, M, D).

        A block of a datum's is named by its key and the block.
        """
        way, dtype = route(self.some), parameter_of(self.model).dtype
        shape = (stop - start, len(keys), *way.shape)
        drawn = torch.empty(shape, dtype=dtype)
        places = drawn.numpy()

        def draw(j: int) -> None:
            source = generator(seed, Stream.EVALUATION)
            for first in range(start, stop, NOISE_BLOCK):
                last = min(first + NOISE_BLOCK, stop)
                rewind(source, int(keys[j]), first // NOISE_BLOCK)
                block = way.noise(source, (last - first,), dtype)
                places[first - start : last - start, j] = block.numpy()

        list(self.each(draw, range(len(keys))))
        return drawn


_KEPT: "WeakKeyDictionary[Model, dict[Callable[..., Any], Compiled]]" = WeakKeyDictionary()
"""The graphs of each model, for its next estimate."""


def _propose(
    model: Model, posterior: Posterior, batch: Batch, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """z = g(noise, x), log p(z) - log q(z given x), and KL(q || p) where it is closed."""
    q, prior = posterior(batch), model.prior()
    z = reparameterize(q, noise)
    return z, prior.log_prob(z) - q.log_prob(z), kl(q, prior)


def _decode(model: Model, x: Tensor, z: Tensor, precision: str) -> Tensor:
    with products_in(precision, z.device.type):
        return model.log_likelihood(x, z)


def _reduce(sums: _Sums, samples: int) -> tuple[Tensor, ...]:
    """(estimate, error, ess, bound, error, reconstruction, kl), each (M,) in float64."""
    log_k = math.log(samples)
    ess = torch.exp(2 * sums.log_w - sums.log_w2)
    relative_variance = (1 / ess - 1 / samples).clamp_min(0)
    reconstruction = sums.log_likelihood / samples
    mean_log_w = sums.first / samples
    if sums.closed_kl is None:
        kl, spread = reconstruction - mean_log_w, sums.second / samples - mean_log_w.square()
    else:
        kl = sums.closed_kl.double()
        spread = sums.second_likelihood / samples - reconstruction.square()
    unbiased = samples - 1 if samples > 1 else math.nan
    bound_error = torch.sqrt(spread.clamp_min(0) / unbiased)
    error = torch.sqrt(relative_variance) if samples > 1 else torch.full_like(ess, math.nan)
    return sums.log_w - log_k, error, ess, reconstruction - kl, bound_error, reconstruction, kl


def first_batch(model: Model, rows: Rows) -> Batch:
    """The first row as a batch: it tells the shapes of all."""
    return batch_for(model, rows.take(np.arange(1)), np.zeros(1, np.int64))


def operations(model: Model, posterior: Posterior, rows: Rows) -> tuple[int, int]:
    """Floating-point operations of the products for one datum: to encode, and to decode one z."""
    batch = first_batch(model, rows)
    with evaluating(model, posterior):
        with _Counting() as encoding:
            q = posterior(batch)
        with _Counting() as decoding:
            model.likelihood(torch.zeros(1, *q.event_shape).to(batch.x))
    return encoding.operations, decoding.operations


class _Counting(TorchDispatchMode):
    """Adds up the operations of products and convolutions, as torch's `FlopCounterMode` does.

    That one imports torch's compiler, which takes a second and may not be needed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.operations += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def worth_compiling(model: Model, posterior: Posterior, rows: Rows, samples: int) -> bool:
    """Whether an estimate is long enough to earn back its compilation; of sizes alone."""
    encode, decode = operations(model, posterior, rows)
    return len(rows) * (encode + samples * decode) > OPERATIONS_WORTH_COMPILING


def batch_for(model: Model, x: Tensor, positions: NDArray[np.int64]) -> Batch:
    """Rows as a batch in the dtype, and on the device, of the model's parameters."""
    x = x.to(parameter_of(model))
    return Batch(x, torch.from_numpy(positions).to(x.device))


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """No gradients, and layers such as dropout in evaluation mode; left as they were found."""
    were_training = [[(m, m.training) for m in module.modules()] for module in modules]
    for module in modules:
        module.eval()
    priors = [m for module in modules for m in module.modules() if isinstance(m, VampPrior)]
    try:
        with torch.no_grad(), ExitStack() as stack:
            for prior in priors:  # nothing is learned here: its encoder need not run again
                stack.enter_context(prior.held())
            yield
    finally:
        for states in were_training:
            for m, training in states:
                m.training = training
