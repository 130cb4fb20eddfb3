"""Learners that see all data at every step, and whose objective never falls.

    step t:  E: what follows exactly from the present numbers;  M: numbers that raise the objective

That it never falls is a theorem, so a fall is a sign of numbers gone wrong: it ends the run.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from aevb.algorithms.learner import Learner, State, empty_totals
from aevb.devices import tensor_of
from aevb.distributions.reparameterization import NONE, Noise
from aevb.errors import TrainingError, UsageError
from aevb.model import Model
from aevb.objectives import Terms
from aevb.posterior import Batch, Posterior

ROUNDINGS = 100
"""What a fall may be and still be none, in last digits of the objective times its condition."""


@dataclass(frozen=True)
class Expectation:
    """What an E step finds of each datum, (N,) nats: log p(x) and KL(p(z given x) || p(z))."""

    log_evidence: Tensor
    kl: Tensor


Found = TypeVar("Found", bound=Expectation)


@dataclass
class Monotone(Learner, Generic[Found]):
    """A learner whose every step is over the same N = `rows` data.

    Errors: UsageError for a minibatch, or a weight on the divergence; TrainingError where the
    objective falls by more than rounding, with both numbers, or stops being finite.
    """

    model: Model
    rows: int

    needs_all: ClassVar[bool] = True
    weighs_divergence: ClassVar[bool] = False
    compiled = False
    precision = "float32"

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UsageError(f"learning needs at least 1 row, found {self.rows}")
        self.posterior = self._posterior()

    @abstractmethod
    def _posterior(self) -> Posterior:
        """q, which is p(z given x) as near as the algorithm has it."""

    @abstractmethod
    def _expect(self, state: State, x: Tensor) -> Found:
        """The E step: what the present numbers say of the rows x (N, X)."""

    @abstractmethod
    def _maximize(self, state: State, x: Tensor, found: Found) -> float:
        """The M step, in place; by how many nats per datum it may lower the objective."""

    def _objective(self, found: Found) -> float:
        """What never falls, in nats per datum."""
        return float(found.log_evidence.double().mean())

    def _condition(self, x: Tensor) -> float:
        """How much the present numbers, at these rows, may magnify rounding."""
        return 1.0

    def init(self) -> State:
        """The state at the model's present numbers, which it shares and moves in place."""
        modules = {"model": self.model, "posterior": self.posterior}
        named = [(f"{k}.{n}", t) for k, m in modules.items() for n, t in m.named_parameters()]
        buffers = [(f"{k}.{n}", t) for k, m in modules.items() for n, t in m.named_buffers()]
        device = tensor_of(self.model).device
        return State(
            parameters={name: p.detach() for name, p in named},
            buffers=dict(buffers),
            memory={},
            extra={
                "floor": torch.full((), -math.inf, dtype=torch.float64, device=device),
                "rise": torch.full((), math.inf, dtype=torch.float64, device=device),
            },
            totals=empty_totals(device),
        )

    def _step(
        self, state: State, batch: Batch, noise: Tensor, rate_factor: float, temper: float
    ) -> None:
        """One E step and one M step; what the E step found is added to the totals."""
        x = self._whole(batch)
        with torch.no_grad():
            found = self._expect(state, x)
        reached = self._objective(found)
        self._require_no_fall(state, x, reached)
        state.extra["rise"].fill_(reached - float(state.extra["floor"]))
        may_fall = self._maximize(state, x, found)
        state.extra["floor"].fill_(reached - may_fall)
        state.add(Terms(found.log_evidence, found.log_evidence + found.kl, found.kl), state.t)

    def arrived(self, state: State) -> bool:
        """Whether the last step raised the objective by less than its rounding."""
        reached, rise = float(state.extra["floor"]), float(state.extra["rise"])
        return math.isfinite(rise) and rise <= self._rounding(reached)  # infinite before a step

    def noise(self, batch: Batch) -> Noise:
        return NONE

    def _whole(self, batch: Batch) -> Tensor:
        """All rows, in the dtype of the numbers; UsageError for some of them."""
        rows = batch.rows
        all_there = len(batch.x) == self.rows and (
            rows is None or len(torch.unique(rows)) == self.rows
        )
        if not all_there:
            raise UsageError(
                f"{type(self).__name__} takes all {self.rows} rows in every step, found a batch of "
                f"{len(batch.x)}: make the batch size {self.rows}"
            )
        return self.treated(batch).x.to(tensor_of(self.model))

    def _rounding(self, value: float) -> float:
        """The last digit of an objective."""
        return torch.finfo(tensor_of(self.model).dtype).eps * (1 + abs(value))

    def _require_no_fall(self, state: State, x: Tensor, reached: float) -> None:
        name = type(self).__name__
        if not math.isfinite(reached):
            raise TrainingError(
                f"the objective of {name} is not finite at step {state.t}: look for extreme or "
                "missing values in the data"
            )
        floor = float(state.extra["floor"])
        rounding = ROUNDINGS * self._rounding(reached)
        # The condition costs more than the rest, and matters only where something is amiss.
        if reached < floor - rounding and reached < floor - rounding * self._condition(x):
            raise TrainingError(
                f"the objective of {name} fell from {floor:.12g} to {reached:.12g} nats per datum "
                f"at step {state.t}, which only numbers beyond their precision can do: train in "
                "float64, or regularize more"
            )
