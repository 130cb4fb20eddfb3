"""Markov chain Monte Carlo on any log-density: an algorithm is init and step, many chains at once.

Hamiltonian Monte Carlo: momentum p from N(0, I), then L leapfrog steps of size e along
    dz/dt = p,   dp/dt = grad log pi(z)
accepted with probability min(1, exp(H(z, p) - H(z', p'))),  H = -log pi(z) + |p|^2 / 2
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]


class State(NamedTuple):
    """Where each chain stands: z (*chains, D), log pi(z) (*chains), its gradient (*chains, D)."""

    z: Tensor
    log_density: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo: leaves pi invariant, whatever the step size.

    Shapes: `log_density` takes z (*chains, D) to (*chains), each chain by itself; it need not be
    normalized. Units: nats.
    Source: Duane et al. (1987); Neal (2011), "MCMC using Hamiltonian dynamics", section 3.
    Example:
        >>> hmc = HMC(lambda z: -0.5 * z.square().sum(-1))
        >>> state = hmc.init(torch.zeros(3, 2))
        >>> state, chance = hmc.step(state, torch.ones(3, 2), torch.zeros(3), torch.full((3,), 0.1))
        >>> bool((chance > 0.99).all()), state.z.shape
        (True, torch.Size([3, 2]))
    """

    log_density: LogDensity
    leapfrogs: int = 5

    def init(self, z: Tensor) -> State:
        """The state of chains that begin at z."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self.log_density(z)
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return State(z.detach(), value.detach(), gradient)

    def step(
        self, state: State, momentum: Tensor, chance: Tensor, step_size: Tensor
    ) -> tuple[State, Tensor]:
        """One proposal for each chain, taken or not, and the probability of taking it.

        Shapes: momentum (*chains, D), draws of N(0, I); chance (*chains), draws of U(0, 1);
        step_size (*chains).
        """
        end, last = self.leapfrog(state, momentum, step_size)
        energy = 0.5 * momentum.square().sum(-1) - state.log_density
        change = energy - 0.5 * last.square().sum(-1) + end.log_density
        # A proposal that fell off the map has no energy: it is refused.
        probability = change.nan_to_num(nan=-torch.inf).clamp_max(0).exp()
        taken = chance < probability
        pairs = zip(end, state, strict=True)
        moved = [torch.where(_like(taken, new), new, old) for new, old in pairs]
        return State(*moved), probability

    def leapfrog(self, state: State, momentum: Tensor, step_size: Tensor) -> tuple[State, Tensor]:
        """The end of the trajectory and its momentum: reversible, and it preserves volume."""
        e = step_size.unsqueeze(-1)
        for _ in range(self.leapfrogs):
            momentum = momentum + 0.5 * e * state.gradient
            state = self.init(state.z + e * momentum)
            momentum = momentum + 0.5 * e * state.gradient
        return state, momentum


def adapted(step_size: Tensor, probability: Tensor, t: int, target: float = 0.8) -> Tensor:
    """The step size moved toward a target acceptance, for use while burning in; t = 0, 1, ....

        log e <- log e + c_t (probability - target),   c_t falling as 1 / sqrt(t)

    Source: Robbins & Monro (1951); Andrieu & Thoms (2008), "A tutorial on adaptive MCMC".
    """
    gain = 0.3 * (10.0 / (10.0 + t)) ** 0.5
    return step_size * torch.exp(gain * (probability - target))


def _like(mask: Tensor, tensor: Tensor) -> Tensor:
    """A mask over chains, with an axis more where the tensor has one."""
    return mask.reshape(mask.shape + (1,) * (tensor.ndim - mask.ndim))
