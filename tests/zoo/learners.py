"""Learners by name: what a law over all of them makes, each with rows that fit it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from helpers import seeded, small_pair

import aevb
from aevb.algorithms import AEVB, FullBayes, MonteCarloEM, ReweightedWakeSleep, WakeSleep, uncertain
from aevb.families import Categorical, Columns, Masked, NegativeBinomial, Normal, Standardized
from aevb.networks import ObservedInput, StandardizedInput
from aevb.objectives import (
    RunningMean,
    doubly_reparameterized,
    enumeration,
    gumbel_softmax,
    learned_baseline,
    path_derivative,
    score_function,
    straight_through,
    vimco,
)
from aevb.posterior import Batch
from aevb.randomness import Stream, generator
from aevb.refinement import Refined
from zoo.flows import pair as flows
from zoo.gradients import classes, coins, double_pair, line
from zoo.known import quarters, sigmoid_belief_network
from zoo.labels import LABELS, learner_of

DOUBLE = torch.float64


@dataclass(frozen=True)
class Entry:
    """`make(compiled=...)` gives the learner anew, the same at every call."""

    make: Any
    width: int = 6
    rows: int = 30
    dtype: torch.dtype = DOUBLE


def columns():
    """A family for each pair of columns, as a mixed table has them."""
    real = Standardized(Normal(1e-4, noise_shape=(2,)), 2)
    return Columns([real, Categorical(3), NegativeBinomial()], [[0, 1], [2, 3], [4, 5]])


def pair_of(likelihood, posterior, dtype):
    def make():
        posteriors = {
            "mean-field": lambda: aevb.mean_field(aevb.MLP(6, [5], 4)),
            "full": lambda: aevb.full_covariance(aevb.MLP(6, [5], 5)),
            "per-datum": lambda: aevb.per_datum(30, 2),
            "convolutional": lambda: aevb.mean_field(aevb.ConvolutionalEncoder((1, 3, 2), [4], 4)),
            "observed": lambda: aevb.mean_field(
                StandardizedInput(ObservedInput(aevb.MLP(12, [5], 4)), 6)
            ),
        }
        likelihoods = {
            "bernoulli": lambda: aevb.bernoulli(aevb.MLP(2, [5], 6)),
            "continuous": lambda: aevb.continuous_bernoulli(aevb.MLP(2, [5], 6)),
            "gaussian": lambda: aevb.gaussian(aevb.MLP(2, [5], 12), sigmoid_mean=True),
            "shared": lambda: aevb.gaussian(aevb.MLP(2, [5], 6), noise_shape=(6,)),
            "full-gaussian": lambda: aevb.full_gaussian(aevb.MLP(2, [5], 27)),
            "categorical": lambda: aevb.categorical(aevb.MLP(2, [5], 12), 2),
            "poisson": lambda: aevb.poisson(aevb.MLP(2, [5], 6)),
            "negative-binomial": lambda: aevb.negative_binomial(aevb.MLP(2, [5], 12)),
            "convolutional": lambda: aevb.bernoulli(aevb.ConvolutionalDecoder(2, [4], (1, 3, 2))),
            "mixed": lambda: aevb.Conditional(aevb.MLP(2, [5], 12), Masked(columns())),
        }
        model = aevb.Model(aevb.standard_normal(2), likelihoods[likelihood]())
        return model.to(dtype), posteriors[posterior]().to(dtype)

    return seeded(make)


def of_bound(likelihood, posterior, objective=aevb.elbo_b, optimizer=None, dtype=DOUBLE):
    def make(**options):
        pair = pair_of(likelihood, posterior, dtype)
        kept = {"optimizer": (optimizer or aevb.Adam)(clip=1.0), "weight_prior_rows": 30}
        return AEVB(*pair, objective, **kept, **options)

    return Entry(make, dtype=dtype)


def of_estimator(make_pair, objective):
    def make(**options):
        return AEVB(*double_pair(make_pair), seeded(objective), **options)

    return Entry(make, width=3)


def of_flows(posterior, prior):
    return Entry(lambda **options: AEVB(*flows(posterior, prior), aevb.elbo_a, **options))


def of_pair(algorithm, pair, width=6):
    return Entry(lambda **options: algorithm(*pair(), **options), width)


def poisson_dreams():
    """Data that only torch's own generator draws."""
    model = aevb.Model(aevb.standard_normal(2), aevb.poisson(aevb.MLP(2, [5], 6)))
    return model.to(DOUBLE), aevb.mean_field(aevb.MLP(6, [5], 4)).to(DOUBLE)


def full_bayes(**options):
    model, posterior = small_pair()
    return FullBayes(uncertain(model), posterior, weight_prior_rows=30, **options)


def semi_amortized():
    model, encoder = small_pair()
    return model, Refined(encoder, model, 2)


def chains():
    return small_pair()[0], aevb.per_datum(30, 2)


def clipped_chains(*pair, **options):
    optimizer = aevb.Adagrad(clip=1.0)
    return MonteCarloEM(*pair, optimizer=optimizer, weight_prior_rows=30, **options)


LEARNERS = {
    "bernoulli, float32": of_bound("bernoulli", "mean-field", dtype=torch.float32),
    "gaussian, per datum": of_bound("gaussian", "per-datum", aevb.iwae),
    "bernoulli": of_bound("bernoulli", "mean-field"),
    "continuous": of_bound("continuous", "full", aevb.elbo_a, aevb.Adagrad),
    "counts": of_bound("negative-binomial", "mean-field", aevb.free_bits(0.5), aevb.SGD),
    "convolutional": of_bound("convolutional", "convolutional"),
    "convolutional, float32": of_bound("convolutional", "convolutional", dtype=torch.float32),
    "shared": of_bound("shared", "mean-field"),
    "full-gaussian": of_bound("full-gaussian", "full"),
    "categorical": of_bound("categorical", "mean-field", aevb.iwae, aevb.Adagrad),
    "poisson": of_bound("poisson", "mean-field", aevb.elbo_a),
    "mixed": of_bound("mixed", "observed"),
    "mixed, float32": of_bound("mixed", "observed", aevb.elbo_a, aevb.SGD, torch.float32),
    "learned baseline": of_estimator(
        coins, lambda: score_function(aevb.elbo_b, learned_baseline(3).double())
    ),
    "running mean": of_estimator(coins, lambda: score_function(aevb.iwae, RunningMean().double())),
    "path": of_estimator(line, path_derivative),
    "twice": of_estimator(line, lambda: doubly_reparameterized),
    "vimco": of_estimator(coins, lambda: vimco),
    "gumbel": of_estimator(classes, gumbel_softmax),
    "straight-through": of_estimator(classes, lambda: straight_through),
    "enumeration": of_estimator(coins, lambda: enumeration),
    "iaf under real-nvp": of_flows("iaf", "real-nvp"),
    "planar under real-nvp": of_flows("planar", "real-nvp"),
    "radial under maf": of_flows("radial", "maf"),
    "householder under real-nvp": of_flows("householder", "real-nvp"),
    "real-nvp under maf": of_flows("real-nvp", "maf"),
    "sylvester under maf": of_flows("sylvester", "maf"),
    "maf under maf": of_flows("maf", "maf"),
    "wake-sleep of a coin": of_pair(WakeSleep, quarters, 2),
    "wake-sleep": of_pair(WakeSleep, small_pair),
    "wake-sleep of counts": of_pair(WakeSleep, partial(seeded, poisson_dreams)),
    "reweighted wake-sleep": of_pair(ReweightedWakeSleep, small_pair),
    "reweighted wake-sleep in layers": of_pair(ReweightedWakeSleep, sigmoid_belief_network),
    "Monte Carlo EM": of_pair(clipped_chains, chains),
    "full Bayes": Entry(full_bayes),
    "semi-amortized": of_pair(AEVB, semi_amortized),
    "semi-supervised": Entry(
        partial(learner_of, torch.where(torch.arange(16) < 4, LABELS, -1)), width=4, rows=16
    ),
}


def learn(learner, x, steps, samples, batch=100):
    """Steps with the cosine schedule; the laws that only torch draws from have a seed too."""
    state, source = learner.init(), generator(1, Stream.NOISE)
    law = learner.noise(Batch(x[:2]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for t in range(steps):
            some = x[np.random.default_rng(t).integers(len(x), size=batch)]
            noise = law.draw(source, (samples, batch), x.dtype)
            learner.step(state, some, noise, rate_factor=aevb.optimizers.cosine(t / steps))
    return state
