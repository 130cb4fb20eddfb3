"""A small model of a class and a code, every datum that there is, and labels of the data."""

import numpy as np
import torch
from torch import nn

from aevb import MLP, Model, bernoulli
from aevb.algorithms.semi_supervised import Labeled, SemiSupervised
from aevb.conditional import Chain, Conditional, Informed, Unconditional
from aevb.families import Normal, OneHotCategorical
from aevb.posterior import Amortized

K, X = 3, 4
X_ALL = torch.tensor(np.array(np.meshgrid(*[[0.0, 1.0]] * X)).reshape(X, -1).T)
"""Every datum that there is, (16, 4)."""
LABELS = torch.tensor([0, 1, 2, 1] * 4)


def small(latent=1, seed=0):
    """A model of a class and a code, with weights that are not small, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        either = [Unconditional(OneHotCategorical(), K), Unconditional(Normal(), latent)]
        model = Model(Chain(either, [K, latent]), bernoulli(MLP(K + latent, [5], X)))
        classifier = Conditional(MLP(X, [5], K), OneHotCategorical())
        encoder = Conditional(MLP(2 + K, [5], 2 * latent), Normal())
        told = MLP(X, [5], 2)
        posterior = Amortized(Informed([classifier, encoder], [K, latent], told))
        for module in (model, posterior):
            for p in module.parameters():
                nn.init.normal_(p, std=0.7)
    model, posterior = model.double(), posterior.double()
    model.prior.links[0].raw.copy_(torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64))
    return model, posterior


def learner_of(labels, seed=0, **options):
    model, posterior = small(seed=seed)
    labels = torch.as_tensor(labels)
    return SemiSupervised(model, posterior, Labeled(labels, X_ALL[labels >= 0]), **options)
