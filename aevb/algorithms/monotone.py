"""Learners that see all data at every step, and whose objective never falls.

    step t:  E: what follows exactly from the present numbers;  M: numbers that raise the objective

That it never falls is a theorem, so a fall is a sign of numbers gone wrong: it ends the run.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from aevb.algorithms.aevb import METRICS, State
from aevb.devices import parameter_of
from aevb.errors import TrainingError, UsageError
from aevb.model import Model
from aevb.posterior import Batch, Posterior, as_batch

ROUNDINGS = 1e4
"""Of the objective's size, in units of its last digit: what a fall may be and still be none."""


@dataclass(frozen=True)
class Expectation:
    """What an E step finds of each datum, (N,) nats: log p(x) and KL(p(z given x) || p(z))."""

    log_evidence: Tensor
    kl: Tensor


Found = TypeVar("Found", bound=Expectation)


@dataclass
class Monotone(ABC, Generic[Found]):
    """A learner whose every step is over the same N = `rows` data.

    Errors: UsageError for a minibatch; TrainingError where the objective falls by more than
    rounding, with both numbers, or stops being finite.
    """

    model: Model
    rows: int
    treatment: Callable[[Tensor, Tensor | None], Tensor] | None = field(default=None, kw_only=True)

    whole_data = True
    compiled = False
    note: str | None = None

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UsageError(f"learning needs at least 1 row, found {self.rows}")
        self.posterior = self._posterior()

    @abstractmethod
    def _posterior(self) -> Posterior:
        """q, which is p(z given x) as near as the algorithm has it."""

    @abstractmethod
    def _expect(self, x: Tensor) -> Found:
        """The E step: what the present numbers say of the rows x (N, X)."""

    @abstractmethod
    def _maximize(self, state: State, x: Tensor, found: Found) -> float:
        """The M step, in place; by how many nats per datum it may lower the objective."""

    def _objective(self, found: Found) -> float:
        """What never falls, in nats per datum."""
        return float(found.log_evidence.double().mean())

    def init(self) -> State:
        """The state at the model's present numbers, which it shares and moves in place."""
        modules = {"model": self.model, "posterior": self.posterior}
        named = [(f"{k}.{n}", t) for k, m in modules.items() for n, t in m.named_parameters()]
        buffers = [(f"{k}.{n}", t) for k, m in modules.items() for n, t in m.named_buffers()]
        device = parameter_of(self.model).device
        return State(
            parameters={name: p.detach() for name, p in named},
            buffers=dict(buffers),
            memory={"floor": (torch.full((), -math.inf, dtype=torch.float64, device=device),)},
            totals=torch.zeros(len(METRICS) + 2, dtype=torch.float64, device=device),
        )

    def step(
        self,
        state: State,
        batch: Batch | Tensor,
        noise: Tensor | None = None,
        rate_factor: float = 1.0,
        temper: float = 1.0,
    ) -> None:
        """One E step and one M step, in place; what the E step found is added to the totals.

        No noise is needed, nor are there a rate and a temper: they are those of all learners.
        """
        state.t += 1
        x = self._whole(batch)
        with torch.no_grad():
            found = self._expect(x)
        reached = self._objective(found)
        self._require_no_fall(state, reached)
        may_fall = self._maximize(state, x, found)
        state.memory["floor"][0].fill_(reached - may_fall)
        elbo, kl = (v.sum(dtype=torch.float64) for v in (found.log_evidence, found.kl))
        sums = torch.stack([elbo, elbo + kl, kl, torch.full_like(kl, len(x))])
        state.totals[:-1].add_(sums)

    def _whole(self, batch: Batch | Tensor) -> Tensor:
        """All rows, in the dtype of the numbers; UsageError for some of them."""
        batch = as_batch(batch)
        rows = batch.rows
        all_there = len(batch.x) == self.rows and (
            rows is None or len(torch.unique(rows)) == self.rows
        )
        if not all_there:
            raise UsageError(
                f"{type(self).__name__} takes all {self.rows} rows in every step, found a batch of "
                f"{len(batch.x)}: make the batch size {self.rows}"
            )
        x = batch.x if self.treatment is None else self.treatment(batch.x, batch.key)
        return x.to(parameter_of(self.model))

    def _require_no_fall(self, state: State, reached: float) -> None:
        name = type(self).__name__
        if not math.isfinite(reached):
            raise TrainingError(
                f"the objective of {name} is not finite at step {state.t}: look for extreme or "
                "missing values in the data"
            )
        floor = float(state.memory["floor"][0])
        eps = torch.finfo(parameter_of(self.model).dtype).eps
        if reached < floor - ROUNDINGS * eps * (1 + abs(reached)):
            raise TrainingError(
                f"the objective of {name} fell from {floor:.12g} to {reached:.12g} nats per datum "
                f"at step {state.t}, which only numbers beyond their precision can do: train in "
                "float64, or regularize more"
            )

    def treated(self, batch: Batch | Tensor) -> Batch:
        """The batch as the model sees it: the loop hands rows in as they are stored."""
        batch = as_batch(batch)
        if self.treatment is None:
            return batch
        return batch._replace(x=self.treatment(batch.x, batch.key), key=None)

    def outside_tensors(self) -> dict[str, Tensor]:
        """Nothing is kept outside the state."""
        return {}

    def load_outside_tensors(self, tensors: Mapping[str, Any]) -> None:
        """Nothing is kept outside the state."""
