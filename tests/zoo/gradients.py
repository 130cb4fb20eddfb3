"""Small pairs and the gradients of their bounds: sums over codes, closed forms, quadrature."""

import itertools
import math
from functools import cache

import numpy as np
import torch
from torch.distributions import kl_divergence

import aevb
from aevb import families
from aevb.conditional import Unconditional
from aevb.linear_gaussian import linear_gaussian
from aevb.posterior import amortized


def settled(baseline):
    """A baseline with some memory and weights, which moves no more."""
    baseline = baseline.double()
    with torch.no_grad():
        for k, p in enumerate([*baseline.parameters(), *baseline.buffers()]):
            p.copy_(torch.from_numpy(np.random.default_rng(k).normal(0, 0.3, p.shape)))
    baseline.mean.fill_(-2.0)
    baseline.square.fill_(8.0)
    baseline.weight.fill_(0.9)
    return baseline.eval()


def double_pair(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model, posterior = make()
        for p in [*model.parameters(), *posterior.parameters()]:
            torch.nn.init.normal_(p, std=0.7)
    return model.double(), posterior.double()


def coins():
    prior = Unconditional(families.Bernoulli(), 2, learned=True)
    encoder = amortized(aevb.MLP(3, [2], 2), families.Bernoulli())
    return aevb.Model(prior, aevb.bernoulli(aevb.MLP(2, [3], 3))), encoder


def classes():
    prior = Unconditional(families.OneHotCategorical(), 3, learned=True)
    encoder = amortized(aevb.MLP(3, [2], 3), families.OneHotCategorical())
    return aevb.Model(prior, aevb.bernoulli(aevb.MLP(3, [3], 3))), encoder


def several():
    """Two classes of two each, side by side."""
    prior = Unconditional(families.OneHotCategoricals(2), 4, learned=True)
    encoder = amortized(aevb.MLP(3, [2], 4), families.OneHotCategoricals(2))
    return aevb.Model(prior, aevb.bernoulli(aevb.MLP(4, [3], 3))), encoder


def line():
    encoder = aevb.mean_field(aevb.MLP(3, [2], 2))
    return aevb.Model(aevb.standard_normal(1), aevb.bernoulli(aevb.MLP(1, [3], 3))), encoder


def linear():
    weight, offset = [[1.0, 0.3], [-0.6, 0.8], [0.2, 0.5]], [0.1, -0.2, 0.4]
    return linear_gaussian(weight, offset, [0.5, 0.8, 1.1]), aevb.mean_field(aevb.MLP(3, [2], 4))


X = torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.float64)
CODES = {
    coins: torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)), dtype=torch.float64),
    classes: torch.eye(3, dtype=torch.float64),
    several: torch.tensor(
        [[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]], dtype=torch.float64
    ),
}


def log_mean_pair(a, b):
    return torch.logaddexp(a, b) - math.log(2)


def expected(log_q, log_p, samples):
    """The bound of `samples` draws from points with log-mass log_q (P, N) and log p(x, z)."""
    log_w = log_p - log_q
    if samples == 0:
        return (log_q.exp() * log_w).sum(0)
    pair = log_q.exp()[:, None] * log_q.exp()[None]
    return (pair * log_mean_pair(log_w[:, None], log_w[None])).sum((0, 1))


def by_codes(make, model, posterior, samples):
    z = CODES[make].unsqueeze(1)
    q = posterior(X)
    if make is coins:
        log_q = q.base_dist.log_prob(z).sum(-1)
    else:
        log_q = (z * q.logits.log_softmax(-1).reshape(len(X), -1)).sum(-1)
    return expected(log_q, model.log_joint(X, z), samples)


def by_quadrature(model, posterior, samples):
    points = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    z = points.reshape(-1, 1, 1).expand(-1, 2, 1)
    log_q = posterior(X).log_prob(z)
    log_w = model.log_joint(X, z) - log_q
    mass = log_q.exp() * (points[1] - points[0])
    if samples == 0:
        return (mass * log_w).sum(0)
    pair = mass[:, None] * mass[None]
    return (pair * log_mean_pair(log_w[:, None], log_w[None])).sum((0, 1))


def in_closed_form(model, posterior):
    q = posterior(X).base_dist
    mean = q.loc @ model.weight.T + model.offset
    spread = (model.weight.square() / model.variance[:, None]).sum(0)
    squares = (X - mean).square() / model.variance + model.variance.log() + math.log(2 * math.pi)
    reconstruction = -0.5 * squares.sum(-1) - 0.5 * (q.scale.square() * spread).sum(-1)
    standard = torch.distributions.Normal(torch.zeros(2).double(), 1.0)
    return reconstruction - kl_divergence(q, standard).sum(-1)


@cache
def truth(make, samples=0):
    """The gradient of the mean over X of the bound: of two samples, or 0 for the elbo."""
    model, posterior = double_pair(make) if make is not linear else linear_pair()
    if make is linear:
        value = in_closed_form(model, posterior)
    elif make is line:
        value = by_quadrature(model, posterior, samples)
    else:
        value = by_codes(make, model, posterior, samples)
    named = [*model.named_parameters(), *posterior.named_parameters()]
    found = torch.autograd.grad(value.mean(), [p for _, p in named])
    split = len(list(model.parameters()))
    flat = [torch.cat([g.flatten() for g in part]) for part in (found[:split], found[split:])]
    return {"theta": flat[0], "phi": flat[1]}, float(value.mean().detach())


def linear_pair():
    """Numbers that are chosen for the model, drawn for the encoder."""
    model, _ = linear()
    _, posterior = double_pair(linear)
    return model.double(), posterior


def pair_of(make):
    return linear_pair() if make is linear else double_pair(make)
