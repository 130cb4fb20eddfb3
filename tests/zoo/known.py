"""Models whose sums over codes are small, and some whose posteriors are known."""

from itertools import product

import numpy as np
import torch
from torch import nn

import aevb
from aevb import distributions as zoo
from aevb import families
from aevb.conditional import Chain, Conditional, Unconditional
from aevb.networks import Leading
from aevb.posterior import Amortized, amortized

DOUBLE = torch.float64
COINS = families.Bernoulli()


def logit(p):
    return torch.logit(torch.tensor(p, dtype=DOUBLE))


def quarters():
    """One coin z, two pixels, every probability a quarter or three: draws by a grid are exact."""
    model = aevb.Model(Unconditional(COINS, 1, learned=True), aevb.bernoulli(aevb.MLP(1, [], 2)))
    posterior = amortized(aevb.MLP(2, [], 1), COINS)
    model, posterior = model.to(DOUBLE), posterior.to(DOUBLE)
    with torch.no_grad():
        model.prior.raw.copy_(logit([0.75]))
        decoder, encoder = model.likelihood.network.head, posterior.conditional.network.head
        decoder.bias.copy_(logit([0.25, 0.75]))
        decoder.weight.copy_((logit([0.75, 0.25]) - logit([0.25, 0.75])).unsqueeze(1))
        encoder.bias.copy_(logit([0.25]))
        encoder.weight.copy_(torch.stack([logit(0.75) - logit(0.25), logit(0.5)]).unsqueeze(0))
    return model, posterior


def every(size):
    """All vectors of zeros and ones."""
    return torch.tensor(list(product([0.0, 1.0], repeat=size)), dtype=DOUBLE)


class Counted(nn.Module):
    """A row of a table for each sum of x."""

    def __init__(self, most):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(most + 1, 2))

    def forward(self, x):
        return self.table[x.sum(-1).long()]


class LogLinear(nn.Module):
    """log a = u log(1 + sum x) + v, log b = w: the two numbers of a Gamma."""

    def __init__(self):
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor([0.5, 0.0, 0.0]))

    def forward(self, x):
        u, v, w = self.numbers
        log_shape = u * torch.log1p(x.sum(-1)) + v
        return torch.stack([log_shape, w.expand_as(log_shape)], -1)


class Fixed(nn.Module):
    """A decoder with nothing to learn: a function of z, for each of so many cells."""

    def __init__(self, function, cells):
        super().__init__()
        self.function, self.cells = function, cells

    def forward(self, z):
        return self.function(z).expand(*z.shape[:-1], self.cells)


CELLS = 4


def beta_bernoulli():
    family = families.Elementwise(zoo.Beta)
    likelihood = aevb.bernoulli(Fixed(torch.logit, CELLS))
    x = every(CELLS)
    heads = x.sum(-1, keepdim=True)
    truth = zoo.Beta(1 + heads, 1 + CELLS - heads)
    return Unconditional(family, 1), likelihood, amortized(Counted(CELLS), family), x, truth


def gamma_poisson():
    family = families.Elementwise(zoo.Gamma)
    likelihood = aevb.poisson(Fixed(torch.log, CELLS))
    x = torch.tensor(list(product([0.0, 1.0, 3.0], repeat=CELLS)), dtype=DOUBLE)
    truth = zoo.Gamma(1 + x.sum(-1, keepdim=True), torch.full((len(x), 1), 1.0 + CELLS))
    return Unconditional(family, 1), likelihood, amortized(LogLinear(), family), x, truth


def clusters(seed=0, n=120, width=3):
    """Rows of three clusters of different sizes and spreads, that overlap."""
    source = np.random.default_rng(seed)
    of = source.integers(0, 3, n)
    means, scales = source.normal(size=(3, width)) * 2, source.uniform(0.3, 1.5, (3, width))
    return torch.as_tensor(means[of] + scales[of] * source.normal(size=(n, width)))


def sigmoid_belief_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        top = [Unconditional(COINS, 2, learned=True), Conditional(aevb.MLP(2, [], 3), COINS)]
        model = aevb.Model(
            Chain(top, [2, 3], reverse=True), aevb.bernoulli(Leading(aevb.MLP(3, [], 6), 3))
        )
        up = [Conditional(aevb.MLP(6, [], 3), COINS), Conditional(aevb.MLP(3, [], 2), COINS)]
        posterior = Amortized(Chain(up, [3, 2]))
    return model.to(DOUBLE), posterior.to(DOUBLE)
