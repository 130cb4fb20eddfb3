"""Families of the data by name, each with its atoms; None where it has a density."""

import numpy as np

from aevb.families import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    NegativeBinomial,
    Normal,
    Poisson,
)

FAMILIES = {
    "bernoulli": (Bernoulli(), np.array([0.0, 1.0])),
    "continuous-bernoulli": (ContinuousBernoulli(), None),
    "categorical": (Categorical(3), np.array([0.0, 1.0, 2.0])),
    "poisson": (Poisson(), np.arange(200.0)),
    "negative-binomial": (NegativeBinomial(), np.arange(2000.0)),
    "normal": (Normal(0.01), None),
    "normal-sigmoid": (Normal(0.01, sigmoid_mean=True), None),
    "normal-shared": (Normal(0.0, noise_shape=(1,)), None),
}
