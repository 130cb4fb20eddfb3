"""What is examined: copies of a model and a posterior, some rows, and draws; the originals rest.

Copies are in evaluation mode and, where they run in it, in double precision, so that rounding is
not taken for a mistake.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from aevb.data import Rows, require_rows
from aevb.devices import tensor_of
from aevb.distributions.reparameterization import drawn, route, sampled
from aevb.errors import UsageError
from aevb.model import Model
from aevb.posterior import Batch, as_batch
from aevb.randomness import Stream, generator

LEVEL = 1e-4
"""The chance of a false alarm of one check, over all that it tests."""
ROWS = 48
ROWS_LOOKED_AT = 2000
FEW = 2
"""Rows for whose posterior, and codes for whose likelihood, densities are integrated."""

Objective = Callable[[Any, Any, Any, Tensor], Tensor]


class Law(NamedTuple):
    """A distribution to hold to the laws, and what it is called in a sentence."""

    name: str
    title: str
    distribution: Distribution


def sigmas(tests: int) -> float:
    """How many standard errors are too many, for so many tests at once."""
    from scipy.special import ndtri  # late: it takes a tenth of a second

    return float(-ndtri(LEVEL / (2 * max(tests, 1))))


class OfTensors(nn.Module):
    """A posterior that takes x alone, as one that takes batches."""

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, batch: Batch | Tensor) -> Distribution:
        q: Distribution = self.posterior(as_batch(batch).x)
        return q


@dataclass
class Subject:
    """Copies of model and posterior with a batch of rows; draws are functions of the seed alone."""

    model: Any
    posterior: Any
    own: tuple[Any, Any]
    """Copies in the precision that the originals have, single at least."""
    own_dtype: torch.dtype
    batch: Batch
    looked_at: Tensor
    """More rows, for what costs little."""
    objective: Objective | None
    seed: int

    @property
    def dtype(self) -> torch.dtype:
        """Double precision, where the model runs in it."""
        return self.batch.x.dtype

    def source(self, *counter: int) -> np.random.Generator:
        return generator(self.seed, Stream.CHECK, *counter)

    def some(self, positions: Iterable[int]) -> Batch:
        """Some rows of the batch."""
        at = torch.as_tensor(list(positions))
        rows = None if self.batch.rows is None else self.batch.rows[at]
        return Batch(self.batch.x[at], rows)

    def z(self, samples: int, batch: Batch | None = None, tag: int = 0) -> Tensor:
        """Draws of the posterior, (S, N, D)."""
        q = self.posterior(self.batch if batch is None else batch)
        return drawn(q, (samples,), self.source(1, tag), self.batch.x)

    def draws(self, law: Law, samples: int, tag: int) -> Tensor:
        """Draws of a law, (samples, *batch, *event): of data as they are simulated."""
        method = sampled if law.name == "likelihood" else drawn
        with torch.no_grad():
            return method(law.distribution, (samples,), self.source(3, tag), self.batch.x)

    def noise(self, samples: int, batch: Batch | None = None, tag: int = 0) -> Tensor:
        """Standard noise for the posterior of a batch, (S, N, ...); UsageError without a route."""
        batch = self.batch if batch is None else batch
        way = route(self.posterior(batch))
        return way.noise.draw(self.source(2, tag), (samples, len(batch.x)), self.dtype)

    def log_weights(self, batch: Batch, z: Tensor) -> Tensor:
        """log w = log p(x, z) - log q(z given x), (S, N)."""
        log_w: Tensor = self.model.log_joint(batch.x, z) - self.posterior(batch).log_prob(z)
        return log_w

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is learned, under its name, each once."""
        both = nn.ModuleDict({"model": self.model, "posterior": self.own_posterior})
        return {k: p for k, p in both.named_parameters() if p.requires_grad}

    @property
    def own_posterior(self) -> Any:
        """The posterior as its author wrote it, which may take x alone."""
        return self.posterior.posterior if self.takes_x else self.posterior

    @property
    def takes_x(self) -> bool:
        """Whether the posterior is of x, and wrapped to take batches."""
        return isinstance(self.posterior, OfTensors)

    @cached_property
    def tolerance(self) -> float:
        """How far two ways of computing one number may differ, beside the number."""
        return 1e-6 if self.dtype == torch.float64 else 2e-3

    def law(self, name: str) -> Law:
        """The prior, the posterior of some rows, or the likelihood of some codes."""
        if name == "prior":
            return Law(name, "the prior p(z)", self.model.prior())
        few = self.some(range(min(FEW, len(self.batch.x))))
        if name == "posterior":
            return Law(name, "the posterior q(z given x)", self.posterior(few))
        with torch.no_grad():
            codes = self.z(1, few)
        return Law(name, "the likelihood p(x given z)", self.model.likelihood(codes))


def subject_of(
    model: Any, posterior: Any, data: Any, objective: Objective | None, seed: int
) -> Subject:
    """Copies of all that is needed, of at most so many rows, spread evenly over the data.

    They lie on the CPU: the rows are few, and double precision is what GPUs are slow at.
    """
    positions, x = _chosen(data, ROWS_LOOKED_AT)
    few = np.unique(np.linspace(0, len(x) - 1, min(len(x), ROWS)).astype(np.int64))
    like = tensor_of(model, posterior)
    # Half precision has a finding of its own; what else is wrong shows in single precision too.
    single = like.dtype if like.dtype == torch.float64 else torch.float32
    for dtype in (torch.float64, single):
        pair = _adapted(*_copied(model, posterior), x[:2], dtype)
        batch = Batch(x[few].to(dtype), torch.from_numpy(positions[few]))
        if dtype == single or _runs(*pair, batch):
            break
    own = _adapted(*_copied(model, posterior), x[:2], single)
    return Subject(*pair, own, like.dtype, batch, x.to(dtype), objective, seed)


def _chosen(data: Any, most: int) -> tuple[NDArray[np.int64], Tensor]:
    """Positions (M,) and rows (M, *X) of rows spread evenly over the data."""
    if isinstance(data, Rows):
        require_rows(data)
    else:
        data = _numbers(data)
        if data.ndim < 2 or not len(data):
            raise UsageError(
                f"data must be rows, (N, *X) with N at least 1, found shape {tuple(data.shape)}"
            )
    positions = np.unique(np.linspace(0, len(data) - 1, min(len(data), most)).astype(np.int64))
    if isinstance(data, Rows):
        return positions, data.take(positions)
    x: Tensor = data[torch.from_numpy(positions)]
    return positions, x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _numbers(data: Any) -> Tensor:
    try:
        return (
            torch.as_tensor(data if isinstance(data, Tensor) else np.asarray(data)).detach().cpu()
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            "data must be rows of numbers, (N, *X), as Rows, an array or a tensor, found "
            f"{type(data).__name__}"
        ) from error


def _copied(model: Any, posterior: Any) -> tuple[Any, Any]:
    """Both at once, so that what they share stays shared, and nothing of any graph comes along."""
    memo: dict[int, Any] = {}
    _detach((model, posterior), memo, set())
    model, posterior = copy.deepcopy((model, posterior), memo)
    for module in (model, posterior):
        module.zero_grad(set_to_none=True)
        module.eval()
    return model.cpu(), posterior.cpu()


def _detach(thing: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Note copies of the tensors that a module keeps of its last call: torch copies leaves only."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        if thing.grad_fn is not None:
            memo[id(thing)] = thing.detach().clone()
    elif isinstance(thing, dict):
        for value in thing.values():
            _detach(value, memo, seen)
    elif isinstance(thing, list | tuple):
        for value in thing:
            _detach(value, memo, seen)
    elif isinstance(thing, nn.Module | Distribution):
        _detach(vars(thing), memo, seen)


def _adapted(model: Any, posterior: Any, x: Tensor, dtype: torch.dtype) -> tuple[Any, Any]:
    """Both in a precision; a model with `log_joint`, and a posterior that takes a `Batch`."""
    model, posterior = model.to(dtype), posterior.to(dtype)
    if not hasattr(model, "log_joint") or not hasattr(model, "log_likelihood"):
        model = Model(model.prior, model.likelihood)
    batch = Batch(x.to(dtype), torch.arange(len(x)))
    try:
        with torch.no_grad():
            posterior(batch)
    except Exception:
        try:
            with torch.no_grad():
                OfTensors(posterior)(batch)
        except Exception:
            return model, posterior  # it fails either way: what it says is found later
        posterior = OfTensors(posterior)
    return model.eval(), posterior.eval()


def _runs(model: Any, posterior: Any, batch: Batch) -> bool:
    """Whether all three laws can be had in this precision."""
    try:
        with torch.no_grad():
            z = drawn(posterior(batch), (1,), generator(0, Stream.CHECK), batch.x)
            model.prior().log_prob(z)
            return bool(z.dtype == batch.x.dtype) and model.likelihood(z) is not None
    except Exception:
        return False
