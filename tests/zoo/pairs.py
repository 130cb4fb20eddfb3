"""Pairs (model, posterior) with every module that a file can describe, and data that fit them."""

import numpy as np
import torch
from torch import nn

import aevb
from aevb import distributions, families
from aevb.algorithms import uncertain
from aevb.conditional import Chain, Conditional, Informed, Unconditional
from aevb.distributions import route
from aevb.gaussian_mixture import GaussianMixture
from aevb.linear_gaussian import LinearGaussian
from aevb.networks import Leading, ObservedInput, StandardizedInput
from aevb.posterior import Amortized, Batch, ExactPosterior, Ladder, amortized, everywhere
from aevb.priors import VampPrior
from aevb.refinement import Refined

N, X, D = 6, 20, 3
IMAGE = (1, 5, 4)


def binary(generator):
    return torch.randint(0, 2, (N, X), generator=generator).float()


def real(generator):
    return torch.randn(N, X, generator=generator)


def grey(generator):
    return torch.rand(N, X, generator=generator)


def counts(generator):
    return torch.randint(0, 4, (N, X), generator=generator).float()


def one_hot(generator):
    return torch.eye(X)[torch.randint(0, X, (N,), generator=generator)]


def encoder(outputs=2 * D):
    return aevb.MLP(X, [7], outputs)


def decoder(outputs=X):
    return aevb.MLP(D, [5, 4], outputs, nn.ELU)


def convolutional():
    model = aevb.Model(
        aevb.standard_normal(D),
        aevb.bernoulli(aevb.ConvolutionalDecoder(D, [2, 3], IMAGE)),
    )
    return model, aevb.mean_field(aevb.ConvolutionalEncoder(IMAGE, [2, 3], 2 * D))


def full():
    model = aevb.Model(
        Unconditional(families.MultivariateNormal(), D, learned=True),
        aevb.full_gaussian(decoder(X * (X + 3) // 2)),
    )
    return model, aevb.full_covariance(encoder(D * (D + 3) // 2))


def plain(likelihood):
    def build():
        return aevb.Model(aevb.standard_normal(D), likelihood()), aevb.mean_field(encoder())

    return build


def shared_noise():
    likelihood = aevb.gaussian(decoder(), sigmoid_mean=True, noise_shape=(X,))
    model = aevb.Model(Unconditional(families.Normal(), D, learned=True), likelihood)
    return model, aevb.mean_field(encoder())


def classes():
    """Codes of one class of D."""
    family = families.OneHotCategoricals(D)
    model = aevb.Model(Unconditional(family, D, learned=True), aevb.bernoulli(decoder()))
    return model, amortized(encoder(D), family)


def free():
    return aevb.Model(aevb.standard_normal(D), aevb.poisson(decoder())), aevb.per_datum(N, D)


def standardized():
    likelihood = aevb.Conditional(decoder(2 * X), families.Standardized(families.Normal(0.01), X))
    network = StandardizedInput(encoder(), X)
    return aevb.Model(aevb.standard_normal(D), likelihood), aevb.mean_field(network)


def mixed():
    kinds = [[0, 1], [2], [3, 4], list(range(5, X))]
    reals = families.Standardized(families.Normal(0.01), 2)
    of_kinds = [reals, families.Categorical(3), families.Poisson(), families.NegativeBinomial()]
    family = families.Masked(families.Columns(of_kinds, kinds))
    likelihood = aevb.Conditional(decoder(family.outputs(X)), family)
    network = ObservedInput(aevb.MLP(2 * X, [4], 2 * D))
    return aevb.Model(aevb.standard_normal(D), likelihood), aevb.mean_field(network)


def of_codes(prior, family):
    """A prior, and a posterior of one family or another."""

    def build():
        q = family()
        model = aevb.Model(Unconditional(prior(), D), aevb.bernoulli(decoder()))
        return model, Amortized(Conditional(encoder(q.outputs(D)), q))

    return build


def vamp():
    posterior = aevb.mean_field(encoder())
    prior = VampPrior(posterior.conditional, 4, X, unit=True)
    return aevb.Model(prior, aevb.bernoulli(decoder())), posterior


def improved():
    """Weights that are averaged over, and an encoder that is refined for each datum."""
    model = uncertain(aevb.Model(aevb.standard_normal(D), aevb.bernoulli(decoder())), draws=2)
    return model, Refined(aevb.mean_field(encoder()), model, steps=2)


def layered():
    """A chain of two layers, and the ladder that shares it."""
    below = Conditional(aevb.MLP(1, [3], 4), families.Normal())
    prior = Chain([Unconditional(families.Normal(), 1), below], [1, 2], reverse=True)
    model = aevb.Model(prior, aevb.bernoulli(Leading(aevb.MLP(2, [3], X), 2)))
    rungs, heads = [aevb.MLP(X, [], 4), aevb.MLP(4, [], 4)], [aevb.MLP(4, [], n) for n in (4, 2)]
    return model, Amortized(Ladder(rungs, heads, prior))


def with_class():
    """A code that begins with a class."""
    kind = Unconditional(families.OneHotCategorical(), 3)
    prior = Chain([kind, Unconditional(families.Normal(), 2)], [3, 2])
    model = aevb.Model(prior, aevb.bernoulli(aevb.MLP(5, [3], X)))
    classifier = Conditional(aevb.MLP(X, [3], 3), families.OneHotCategorical())
    about = Conditional(aevb.MLP(4 + 3, [3], 4), families.Normal())
    return model, Amortized(Informed([classifier, about], [3, 2], aevb.MLP(X, [], 4)))


def levels():
    counts = families.ZeroInflatedNegativeBinomial()
    of_kinds = [families.Ordinal(4, 2), counts, families.DiscretizedLogistic(2, 3)]
    family = families.Columns(of_kinds, [[0, 1], [2, 3], list(range(4, X))])
    likelihood = aevb.Conditional(decoder(family.outputs(X)), family)
    return aevb.Model(aevb.standard_normal(D), likelihood), everywhere(D)


def mixed_gaussians():
    model = GaussianMixture(D, X)
    return model, ExactPosterior(model)


def oracle():
    model = LinearGaussian(D, X, (X,))
    return model, model.exact_encoder()


CODES = {
    "mixture": (
        lambda: families.Mixture(D, 2),
        lambda: families.LowRankMultivariateNormal(2),
    ),
    "simplex": (families.Dirichlet, families.Dirichlet),
    "elliptical": (families.Normal, families.Elliptical),
    "sphere": (lambda: families.HypersphericalUniform(D), families.VonMisesFisher),
    "elementwise": (
        lambda: families.Elementwise(distributions.Gamma),
        lambda: families.Elementwise(distributions.Erlang, {"shape": 2}),
    ),
    "planar": (families.Normal, lambda: families.Planar(D, 2)),
    "radial": (families.Normal, lambda: families.Radial(D, 2)),
    "householder": (families.Normal, lambda: families.Householder(D, 2)),
    "sylvester": (families.Normal, lambda: families.Sylvester(D, 2, 2)),
    "real-nvp": (families.Normal, lambda: families.RealNVP(D, 2, [4], 3)),
    "autoregressive": (
        lambda: families.MaskedAutoregressive(D, 2, [4, 5], 0),
        lambda: families.InverseAutoregressive(D, 2, [4], 3),
    ),
}
"""The families of the prior and of the posterior."""
PAIRS = {
    "linear-gaussian": (oracle, real),
    "gaussian-mixture": (mixed_gaussians, real),
    "vamp": (vamp, binary),
    "layered": (layered, binary),
    "improved": (improved, binary),
    "levels": (levels, binary),
    **{name: (of_codes(*pair), binary) for name, pair in CODES.items()},
    "mixed": (mixed, binary),
    "standardized": (standardized, real),
    "bernoulli": (plain(lambda: aevb.bernoulli(decoder())), binary),
    "linear": (plain(lambda: aevb.bernoulli(aevb.MLP(D, [], X))), binary),
    "convolutional": (convolutional, binary),
    "continuous-bernoulli": (plain(lambda: aevb.continuous_bernoulli(decoder())), grey),
    "gaussian": (plain(lambda: aevb.gaussian(decoder(2 * X))), real),
    "shared-noise": (shared_noise, grey),
    "full-covariance": (full, real),
    "with-class": (with_class, binary),
    "one-hot": (plain(lambda: aevb.Conditional(decoder(), families.OneHotCategorical())), one_hot),
    "categorical": (plain(lambda: aevb.categorical(decoder(4 * X), 4)), counts),
    "negative-binomial": (plain(lambda: aevb.negative_binomial(decoder(2 * X))), counts),
    "classes": (classes, binary),
    "per-datum": (free, counts),
}


def perturbed(build, seed=0):
    """A pair with weights and buffers that no constructor would give."""
    model, posterior = build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in (model, posterior):
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model, posterior


def bound(model, posterior, x, dtype=torch.float32):
    batch = Batch(x.to(dtype), torch.arange(N))
    with torch.no_grad():
        way = route(posterior(batch))
        noise = way.noise.draw(np.random.default_rng(1), (4, N), dtype)
        return aevb.elbo_a(model, posterior, batch, noise)


def small():
    return perturbed(PAIRS["bernoulli"][0])


def saved_in(folder):
    """The folder, with a small model in it."""
    aevb.save(folder, *small())
    return folder


class Own(nn.Module):
    """A network that no table knows, with a buffer of integers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(D)
        self.out = nn.Linear(D, X)

    def forward(self, z):
        return self.out(torch.relu(self.norm(z)))


class MLP(Own):
    """A network of the user's with the name of one of ours."""


def with_own(network):
    return aevb.Model(aevb.standard_normal(D), aevb.bernoulli(network)), aevb.mean_field(encoder())
