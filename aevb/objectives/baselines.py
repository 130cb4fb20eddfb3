"""What to expect of a learning signal before z is drawn: it takes variance away, and adds no bias.

    E[(f(z) - b) grad log q(z)] = E[f(z) grad log q(z)],   as   E[grad log q(z)] = 0

for every b that does not depend on the very z whose log q stands beside it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aevb.conditional import for_densities
from aevb.networks import MLP

WIDTH = 100
"""Hidden units of a baseline's network."""
LEAST_DEVIATION = 1.0
"""Nats by which a signal is thought to vary at least, when a network's output is scaled."""


class Signal(NamedTuple):
    """What log q of each sample is weighed by, and what the others let one expect of it.

    Shapes: `values` (S, N), without gradient; `from_others()` (S, N), for each sample what the
    other samples of its datum say.
    Units: nats.
    Example:
        >>> two = torch.tensor([[1.0], [3.0]])
        >>> Signal(two, lambda: two.flip(0)).from_others().tolist()
        [[3.0], [1.0]]
    """

    values: Tensor
    from_others: Callable[[], Tensor]


class Baseline(nn.Module, ABC):
    """b: what to expect of a signal; its memory moves only in training mode.

    Shapes: a signal of (S, N) and data x (N, *X) to b, which broadcasts with (S, N), and to an
    error (N,) to be made small, or None where nothing is learned by gradients.
    Units: b in nats.
    Source: Mnih & Gregor (2014), section 2.3.
    Example:
        >>> class Fixed(Baseline):
        ...     def forward(self, signal, x):
        ...         return torch.tensor(-5.0), None
        >>> signal = Signal(torch.tensor([[-4.0, -7.0]]), lambda: None)
        >>> (signal.values - Fixed()(signal, torch.zeros(2, 3))[0]).tolist()
        [[1.0, -2.0]]
    """

    needs_others = False
    """Whether it needs two samples of each datum."""

    @abstractmethod
    def forward(self, signal: Signal, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """b for this signal, whose gradient is not followed, and the error to be made small."""


class LeaveOneOut(Baseline):
    """What the other samples of the same datum say.

        b_s = 1/(S - 1) sum_{r not s} f_r,   or for iwae log mean_r w_r with mean_{r not s} log w_r
                                             in the place of log w_s

    Shapes: a signal (S, N), S at least 2, to b (S, N). Units: nats.
    Source: Kool et al. (2019), "Buy 4 REINFORCE samples, get a baseline for free!"; for iwae Mnih &
    Rezende (2016), "Variational inference for Monte Carlo objectives", equations 8 to 10.
    Example:
        >>> signal = Signal(torch.tensor([[1.0], [3.0]]), lambda: torch.tensor([[3.0], [1.0]]))
        >>> LeaveOneOut()(signal, torch.zeros(1, 2))[0].tolist()
        [[3.0], [1.0]]
    """

    needs_others = True

    def forward(self, signal: Signal, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return signal.from_others(), None


class RunningMean(Baseline):
    """The mean of the signals of the steps before, those long ago with less weight.

        b = m / (1 - d^t),   m <- d m + (1 - d) mean(signal);   0 before the first step

    Shapes: b (1,), the same for all samples and data. Units: nats.
    Source: Williams (1992), "Simple statistical gradient-following algorithms", reinforcement
    comparison.
    Example:
        >>> baseline, signal = RunningMean(), Signal(torch.full((1, 2), -7.0), lambda: None)
        >>> [baseline(signal, torch.zeros(2, 3))[0].item() for _ in range(2)]
        [0.0, -7.0]
    """

    mean: Tensor
    square: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.95) -> None:
        super().__init__()
        self.decay = decay
        for name in ("mean", "square", "weight"):
            # One number each, in a vector: a library of machine code does not write to scalars.
            self.register_buffer(name, torch.zeros(1))

    def forward(self, signal: Signal, x: Tensor) -> tuple[Tensor, Tensor | None]:
        middle, _ = self.seen()
        self.remember(signal.values)
        return middle, None

    def seen(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the signals so far, (1,) each; 0 and the least before the first."""
        share = self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)
        mean = self.mean / share
        variance = (self.square / share - mean.square()).clamp_min(LEAST_DEVIATION**2)
        return mean, variance.sqrt()

    def remember(self, values: Tensor) -> None:
        """Let the signals of a step join the memory, in training mode."""
        if not self.training:
            return
        values = values.detach().to(self.mean.dtype)
        now = (values.mean(), values.square().mean(), torch.ones_like(self.weight))
        for past, new in zip((self.mean, self.square, self.weight), now, strict=True):
            past.mul_(self.decay).add_((1 - self.decay) * new)


class Learned(RunningMean):
    """A network of the datum, on the scale of the signals so far.

        b(x) = m + s c(x),   c by the gradient of ((signal - m) / s - c(x))^2

    Shapes: the network takes asinh(x), (N, X) with 0 for what was not observed, to (N, 1);
    b and the error are (N,).
    Units: b in nats; the error has no unit.
    Source: Mnih & Gregor (2014), "Neural variational inference and learning in belief networks",
    section 2.3.
    Example:
        >>> baseline = learned_baseline(3)
        >>> b, error = baseline(Signal(torch.zeros(4, 2), lambda: None), torch.zeros(2, 3))
        >>> b.shape, error.shape
        (torch.Size([2]), torch.Size([2]))
    """

    def __init__(self, network: nn.Module, decay: float = 0.95) -> None:
        super().__init__(decay)
        self.network = network

    def forward(self, signal: Signal, x: Tensor) -> tuple[Tensor, Tensor | None]:
        middle, spread = self.seen()
        # Before the first step nothing is known of the scale that it is to be learned on.
        known = (self.weight > 0).to(self.weight.dtype)
        self.remember(signal.values)
        like: Any = next(self.network.parameters())
        seen = torch.asinh(torch.nan_to_num(x.to(like.dtype).flatten(1)))
        c = for_densities(self.network(seen)).squeeze(-1)
        target = (signal.values.detach().mean(0) - middle) / spread
        return middle + spread * c, known * (target - c).square()


def learned_baseline(width: int) -> Learned:
    """A learned baseline for data of so many numbers, with one hidden layer, zero at first.

    Shapes: data (N, *X) of `width` numbers each. Units: nats.
    Errors: UsageError for a width below 1. Source: as `Learned`.
    Example:
        >>> baseline, signal = learned_baseline(3), Signal(torch.full((4, 2), -7.0), lambda: None)
        >>> [baseline(signal, torch.zeros(2, 3))[0].tolist() for _ in range(2)]
        [[0.0, 0.0], [-7.0, -7.0]]
    """
    network = MLP(width, [WIDTH], 1)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
    return Learned(network)


def mean_of_others(f: Tensor) -> Tensor:
    """For each sample the mean of f (S, N) over the others."""
    return (f.sum(0) - f) / (len(f) - 1)


def log_mean_without(log_w: Tensor) -> Tensor:
    """log mean_r w_r, (S, N), in which each w_s in turn is the geometric mean of the others.

    Example:
        >>> log_mean_without(torch.tensor([[1.0], [5.0]])).tolist()
        [[5.0], [1.0]]
    """
    own = torch.eye(len(log_w), dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    replaced = torch.where(own, mean_of_others(log_w).unsqueeze(1), log_w)  # (s, r, N)
    return torch.logsumexp(replaced, 1) - math.log(len(log_w))
