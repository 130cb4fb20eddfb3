"""Optimizers as a few lines of tensor arithmetic, so that they fit inside the compiled step.

Each is equal to its namesake in `torch.optim` to rounding. `update` works in place and subtracts:
the gradient it gets is that of a loss. What changes from step to step besides, the learning rate
and corrections by the step number, are a few `coefficients`: computed once outside the step and
handed in as 0-dimensional tensors, so that a schedule does not compile anything anew.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from aevb.errors import UsageError, at_least


@dataclass(frozen=True)
class Optimizer(ABC):
    """A rule that moves a parameter along its gradient, with `slots` tensors of memory for each.

    `clip` bounds the norm of the gradient in all parameters together.
    Shapes: p, its gradient and each of its memory alike; coefficients ().
    Errors: UsageError for a bound that is not positive, or a rate below 0.
    Example:
        >>> import torch
        >>> p, rule = torch.tensor([1.0]), SGD(clip=1.0)
        >>> gradient = rule.clipped({"p": torch.tensor([5.0])})["p"]
        >>> rate = [torch.tensor(c) for c in rule.coefficients(0.1, t=1)]
        >>> rule.update(p, gradient, [], rate)
        >>> p
        tensor([0.9000])
    """

    slots: ClassVar[int]
    lr: float
    clip: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        at_least(0, self.lr, "the learning rate")
        if self.clip is not None and not self.clip > 0:
            raise UsageError(f"clip must be positive, found {self.clip}")

    def clipped(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """All gradients scaled together so that their joint norm is at most `clip`."""
        if self.clip is None:
            return gradients
        norm = torch.sqrt(torch.stack([g.square().sum() for g in gradients.values()]).sum())
        factor = (self.clip / (norm + 1e-6)).clamp_max(1.0)
        return {name: g * factor for name, g in gradients.items()}

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
    """Adam: steps of about the rate, whatever the size of the gradients.

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p -= rate m^ / (sqrt(v^) + eps)
        m^ = m / (1 - b1^t);    v^ = v / (1 - b2^t)

    Shapes: as `Optimizer`; the memory is m and v.
    Source: Kingma & Ba (2015), "Adam: a method for stochastic optimization", algorithm 1.
    Example:
        >>> import torch
        >>> p, memory, rule = torch.ones(2), torch.zeros(2, 2), Adam()
        >>> rate = [torch.tensor(c) for c in rule.coefficients(0.1, t=1)]
        >>> rule.update(p, torch.tensor([1e-3, -1e3]), memory, rate)
        >>> p
        tensor([0.9000, 1.1000])
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
    """Adagrad, the optimizer of the paper: the larger gradients have been, the less a number moves.

        s = s + g^2;  p -= rate g / (sqrt(s) + eps)

    Shapes: as `Optimizer`; the memory is s.
    Source: Duchi, Hazan & Singer (2011), "Adaptive subgradient methods for online learning and
    stochastic optimization"; Kingma & Welling (2013), section 5.
    Example:
        >>> import torch
        >>> p, s, rate = torch.zeros(1), torch.tensor([9.0]), torch.tensor(0.1)
        >>> Adagrad().update(p, torch.tensor([4.0]), [s], [rate])
        >>> p, s
        (tensor([-0.0800]), tensor([25.]))
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
    """Plain stochastic gradient descent.

        p -= rate g

    Shapes: as `Optimizer`; there is no memory.
    Source: Robbins & Monro (1951), "A stochastic approximation method".
    Example:
        >>> import torch
        >>> p = torch.tensor([1.0])
        >>> SGD().update(p, torch.tensor([2.0]), [], [torch.tensor(0.1)])
        >>> p
        tensor([0.8000])
    """

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
    """The same learning rate throughout.

    Units: a share of the run that is over to a factor on the rate.
    Example:
        >>> constant(0.5)
        1.0
    """
    return 1.0


def steps(done: float) -> float:
    """Divided by 3 at 70 % and again at 90 % of the run.

    Units: as `constant`.
    Example:
        >>> [round(steps(done), 2) for done in (0.0, 0.7, 0.9)]
        [1.0, 0.33, 0.11]
    """
    return 1.0 if done < 0.7 else 1 / 3 if done < 0.9 else 1 / 9


def cosine(done: float) -> float:
    """Half a cosine from 1 to 0.

        1/2 (1 + cos(pi done))

    Units: as `constant`.
    Source: Loshchilov & Hutter (2017), "SGDR: stochastic gradient descent with warm restarts",
    equation 5, without restarts.
    Example:
        >>> [round(cosine(done), 2) for done in (0.0, 0.25, 0.5, 0.75)]
        [1.0, 0.85, 0.5, 0.15]
    """
    return 0.5 * (1 + math.cos(math.pi * done))


def linear(done: float) -> float:
    """A straight line from 1 to 0.

    Units: as `constant`.
    Example:
        >>> linear(0.25)
        0.75
    """
    return 1.0 - done
