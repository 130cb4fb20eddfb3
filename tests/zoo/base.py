"""The Gaussians, and the law of a class."""

import numpy as np
import scipy.special
import scipy.stats

from aevb.distributions import Categorical, MultivariateNormal, Normal
from zoo.entry import Entry


def full(loc, scale_tril):
    return scipy.stats.multivariate_normal(loc, np.array(scale_tril) @ np.array(scale_tril).T)


FULL = {
    "mean": lambda loc, scale_tril: loc,
    "variance": lambda loc, scale_tril: (np.array(scale_tril) ** 2).sum(-1),
}
WIDE = {"loc": 1e6, "scale": 1e6}
NARROW = {"loc": 1e-6, "scale": 1e-6}

ENTRIES = (
    [
        Entry(
            name,
            Normal,
            parameters,
            lambda loc, scale: scipy.stats.norm(loc, scale),
            extremes=(WIDE, NARROW, {"loc": 0.0, "scale": 1e6}, {"loc": 0.0, "scale": 1e-6}),
        )
        for name, parameters in {
            "normal": {"loc": 0.0, "scale": 1.0},
            "normal-narrow": {"loc": 0.3, "scale": 0.01},
            "normal-wide": {"loc": -2.0, "scale": 30.0},
        }.items()
    ]
    + [
        Entry(
            name,
            lambda loc, scale_tril: MultivariateNormal(loc, scale_tril=scale_tril),
            parameters,
            full,
            kind="multivariate",
            truth=FULL,
            extremes=(
                {"loc": [0.0, 0.0], "scale_tril": [[1e6, 0.0], [1e6, 1e6]]},
                {"loc": [0.0, 0.0], "scale_tril": [[1e-6, 0.0], [1e-6, 1e-6]]},
            ),
        )
        for name, parameters in {
            "multivariate-normal-2": {"loc": [0.5, -1.0], "scale_tril": [[1.0, 0.0], [0.6, 0.5]]},
            "multivariate-normal-slim": {
                "loc": [0.0, 1.0, 2.0],
                "scale_tril": [[2.0, 0.0, 0.0], [-1.0, 0.5, 0.0], [0.3, 0.2, 0.1]],
            },
        }.items()
    ]
    + [
        Entry(
            "categorical",
            lambda logits: Categorical(logits=logits),
            {"logits": [0.3, -1.0, 2.0, 0.0]},
            kind="discrete",
            reparameterized=False,
            truth={
                "log_prob": lambda x, logits: scipy.special.log_softmax(logits)[int(x)],
                "entropy": lambda logits: scipy.stats.entropy(scipy.special.softmax(logits)),
            },
            extremes=({"logits": [1e6, 0.0, 1e-6]}, {"logits": [1e-6, -1e-6, 0.0]}),
            no=frozenset({"mean", "variance", "cdf", "icdf"}),
        )
    ]
)
