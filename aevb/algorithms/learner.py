"""What all learners share: `init` makes a state, `step` moves it; and what the state holds.

A learner never sees a file, a data set or a progress bar: the loop hands it a batch and its noise.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from aevb.distributions.reparameterization import Noise
from aevb.errors import UsageError
from aevb.model import Model
from aevb.objectives import Terms
from aevb.posterior import Batch, Posterior, as_batch

METRICS = Terms._fields
"""What a step adds up over its data, in nats; the elbo is reconstruction - kl."""

NO_NOISE = torch.zeros(1, 1, 0)
"""What a step is given whose learner draws nothing."""


@dataclass
class State:
    """All that changes while learning; every tensor is changed in place.

    Shapes: `totals` holds, in float64, the sums over data of `METRICS`, the number of data and the
    first step whose objective was not finite (0 while there is none). `extra` is what a learner has
    beside parameters and the optimizer's memory, such as Markov chains.
    Units: nats.
    Example:
        >>> state = State({}, {}, {}, empty_totals())
        >>> state.add(Terms(*torch.tensor([[-90.0, -94.0], [-80.0, -82.0], [10.0, 12.0]])), t=1)
        >>> state.averages()
        {'elbo': -92.0, 'objective': -92.0, 'reconstruction': -81.0, 'kl': 11.0}
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    memory: dict[str, tuple[Tensor, ...]]
    totals: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    t: int = field(default=0, compare=False)  # to a graph: it reads it among the scalars

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under one flat name, as a checkpoint stores them."""
        flat = {f"parameters/{k}": v for k, v in self.parameters.items()}
        flat |= {f"buffers/{k}": v for k, v in self.buffers.items()}
        flat |= {f"memory{i}/{k}": v for k, m in self.memory.items() for i, v in enumerate(m)}
        flat |= {f"extra/{k}": v for k, v in self.extra.items()}
        return flat | {"totals": self.totals}

    def add(self, terms: Terms, t: Tensor | float) -> None:
        """Join the terms of the data of step t, (M,) each, to the totals."""
        sums = [term.detach().sum(dtype=torch.float64) for term in terms]
        count = torch.full_like(sums[0], len(terms.objective))
        first_bad = self.totals[-1]
        bad = torch.where((first_bad == 0) & ~torch.isfinite(sums[0]), t, first_bad)
        self.totals[:-1].add_(torch.stack([*sums, count]))
        self.totals[-1].copy_(bad)

    def failure(self) -> tuple[str, int] | None:
        """What is no number, and since which step it is known: "the weights are", say, and 7."""
        if bad := int(self.totals[-1]):
            return "the objective is", bad
        wrong = [p.isnan().any() for p in self.parameters.values()]  # as after the last slope
        return ("the weights are", self.t) if wrong and bool(torch.stack(wrong).any()) else None

    def averages(self) -> dict[str, float | None]:
        """The metrics' means over the data since the totals were zeroed; None where unknown."""
        *sums, count, _ = self.totals.tolist()
        means = {k: s / count for k, s in zip(METRICS, sums, strict=True)}
        means = {"elbo": means["reconstruction"] - means["kl"], **means}
        return {k: None if math.isnan(v) else v for k, v in means.items()}


def empty_totals(device: torch.device | str = "cpu") -> Tensor:
    """The totals before the first step."""
    return torch.zeros(len(METRICS) + 2, dtype=torch.float64, device=device)


class Learner(ABC):
    """A way to learn a model, and a posterior for it, from batches of data.

    `treatment` is what is done to the rows of a batch inside the step, given its key; the loop sets
    it. `compiled` says whether the step runs as one graph. A learner that `needs_all` rows in each
    step says so, as does one that leaves the posterior as it was.
    Shapes: a batch of M data, noise (L, M, *shape) as `noise` says. Units: nats per datum.
    Errors: UsageError from `step` for a weight `temper` other than 1 of a divergence that the
    objective has not.
    Example:
        >>> from aevb import EM
        >>> from aevb.gaussian_mixture import gaussian_mixture
        >>> learner = EM(gaussian_mixture([1.0], [[0.0]], [1.0]), rows=2)
        >>> state = learner.init()
        >>> learner.step(state, torch.tensor([[0.0], [2.0]]))
        >>> round(state.averages()["elbo"], 3)
        -1.919
    """

    model: Model
    posterior: Posterior
    treatment: Callable[[Tensor, Tensor | None], Tensor] | None = None
    compiled: bool
    precision: str
    needs_all: ClassVar[bool] = False
    learns_posterior: ClassVar[bool] = True
    weighs_divergence: ClassVar[bool] = True
    """Whether its objective has a divergence, of which `temper` is the weight."""

    @abstractmethod
    def init(self) -> State:
        """The state at the modules' present parameters, which it shares and moves in place."""

    def step(
        self,
        state: State,
        batch: Batch | Tensor,
        noise: Tensor = NO_NOISE,
        rate_factor: float = 1.0,
        temper: float = 1.0,
    ) -> None:
        """One step, in place; what it measured is added to `state.totals`."""
        if temper != 1 and not self.weighs_divergence:
            raise UsageError(
                f"{type(self).__name__} has no divergence in its objective to be weighed by "
                f"{temper:g}: leave out beta and the warm-up"
            )
        state.t += 1
        self._step(state, as_batch(batch), noise, rate_factor, temper)

    @abstractmethod
    def _step(
        self, state: State, batch: Batch, noise: Tensor, rate_factor: float, temper: float
    ) -> None:
        """`step`, whose number is `state.t`."""

    @abstractmethod
    def noise(self, batch: Batch) -> Noise:
        """The noise that a step takes for each sample of each datum, told by an example."""

    @property
    def lr(self) -> float:
        """What a schedule's factor is on; 1 where there is no such rate."""
        return 1.0

    @property
    def note(self) -> str | None:
        """Why the step runs uncompiled although a compiled one was asked for."""
        return None

    def facts(self, state: State) -> dict[str, float]:
        """What the record of an epoch says beside the averages of the state, by name."""
        return {}

    def arrived(self, state: State) -> bool:
        """Whether further steps would change nothing."""
        return False

    def treated(self, batch: Batch | Tensor) -> Batch:
        """The batch as the model sees it: the loop hands rows in as they are stored."""
        batch = as_batch(batch)
        if self.treatment is None:
            return batch
        return batch._replace(x=self.treatment(batch.x, batch.key), key=None)

    def outside_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the state, under flat names."""
        return {}

    def load_outside_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take it back from a checkpoint."""
        return
