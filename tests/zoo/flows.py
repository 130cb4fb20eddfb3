"""Families of flows by name, and pairs with one for the posterior and one for the prior."""

import torch

import aevb
from aevb.conditional import Conditional, Unconditional
from aevb.families import (
    Householder,
    InverseAutoregressive,
    MaskedAutoregressive,
    Planar,
    Radial,
    RealNVP,
    Sylvester,
)
from aevb.networks import MLP
from aevb.posterior import Amortized

D, X = 3, 6
FLOWS = {
    "planar": lambda context: Planar(D, 3),
    "radial": lambda context: Radial(D, 3),
    "householder": lambda context: Householder(D, 2),
    "sylvester": lambda context: Sylvester(D, 2, 2),
    "real-nvp": lambda context: RealNVP(D, 2, [5], context),
    "iaf": lambda context: InverseAutoregressive(D, 2, [5], context),
    "maf": lambda context: MaskedAutoregressive(D, 2, [5], context),
}


def pair(posterior, prior=None, seed=0, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        family = FLOWS[posterior](4)
        q = Amortized(Conditional(MLP(X, [5], family.outputs(D)), family))
        above = aevb.standard_normal(D) if prior is None else Unconditional(FLOWS[prior](0), D)
        model = aevb.Model(above, aevb.bernoulli(MLP(D, [5], X)))
    return model.to(dtype), q.to(dtype)
