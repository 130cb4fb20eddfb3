"""Optimizers as a few lines of tensor arithmetic, so that they fit inside the compiled step.

Each is equal to its namesake in `torch.optim` to rounding. `update` works in place and subtracts:
the gradient it gets is that of a loss. What changes from step to step besides, the learning rate
and corrections by the step number, are a few `coefficients`: computed once outside the step and
handed in as 0-dimensional tensors, so that a schedule does not compile anything anew.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


class Optimizer(ABC):
    """A rule that moves a parameter along its gradient, with `slots` tensors of memory for each."""

    slots: ClassVar[int]
    lr: float

    def coefficients(self, rate: float, t: int) -> tuple[float, ...]:
        """The numbers of step t = 1, 2, ... at a learning rate (with its schedule's factor)."""
        return (rate,)

    @abstractmethod
    def update(
        self, p: Tensor, gradient: Tensor, memory: Sequence[Tensor], coefficients: Sequence[Tensor]
    ) -> None:
        """Move p and its memory in place."""


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1).

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p -= rate m^ / (sqrt(v^) + eps)
    m^ = m / (1 - b1^t);    v^ = v / (1 - b2^t)
    """

    lr: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    slots: ClassVar[int] = 2

    def coefficients(self, rate: float, t: int) -> tuple[float, ...]:
        return rate / (1 - self.beta1**t), 1 / math.sqrt(1 - self.beta2**t)

    def update(
        self, p: Tensor, gradient: Tensor, memory: Sequence[Tensor], coefficients: Sequence[Tensor]
    ) -> None:
        m, v = memory
        rate, correction = coefficients
        m.mul_(self.beta1).add_(gradient, alpha=1 - self.beta1)
        v.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        p.sub_(rate * m / (v.sqrt() * correction + self.eps))


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad, the optimizer of the paper (Duchi et al. 2011).

    s = s + g^2;  p -= rate g / (sqrt(s) + eps)
    """

    lr: float = 0.02
    eps: float = 1e-10
    slots: ClassVar[int] = 1

    def update(
        self, p: Tensor, gradient: Tensor, memory: Sequence[Tensor], coefficients: Sequence[Tensor]
    ) -> None:
        (s,), (rate,) = memory, coefficients
        s.addcmul_(gradient, gradient)
        p.sub_(rate * gradient / (s.sqrt() + self.eps))


@dataclass(frozen=True)
class SGD(Optimizer):
    """Plain stochastic gradient descent, p -= rate g (Robbins & Monro 1951)."""

    lr: float = 1e-2
    slots: ClassVar[int] = 0

    def update(
        self, p: Tensor, gradient: Tensor, memory: Sequence[Tensor], coefficients: Sequence[Tensor]
    ) -> None:
        (rate,) = coefficients
        p.sub_(rate * gradient)


Schedule = Callable[[float], float]
"""The factor on the learning rate when a share `done` in [0, 1) of the run is over."""


def constant(done: float) -> float:
    """The same learning rate throughout."""
    return 1.0


def steps(done: float) -> float:
    """Divided by 3 at 70 % and again at 90 % of the run."""
    return 1.0 if done < 0.7 else 1 / 3 if done < 0.9 else 1 / 9


def cosine(done: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * done))


def linear(done: float) -> float:
    """A straight line from 1 to 0."""
    return 1.0 - done
