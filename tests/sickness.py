"""Small models as people write them, and the thirty mistakes of the field planted in them.

A plant is a pair (model, posterior), or an objective for the healthy pair, and the names of the
findings of which one must be made. `TWINS` are the same constructions without the mistake.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from helpers import seeded
from torch import distributions as td
from torch import nn

from aevb import families, networks
from aevb.conditional import Conditional
from aevb.distributions import Normal as RoutedNormal
from aevb.distributions import reparameterize
from aevb.flows import FlowDistribution
from aevb.model import Model

LATENT, WIDTH, ROWS = 2, 6, 40
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def bits():
    return torch.from_numpy((np.random.default_rng(1).random((ROWS, WIDTH)) < 0.4).astype("f"))


def grey():
    return torch.from_numpy(np.random.default_rng(2).random((ROWS, WIDTH)).astype("f"))


def reals():
    return torch.from_numpy(np.random.default_rng(3).normal(0, 1, (ROWS, WIDTH)).astype("f"))


# -- healthy parts ---------------------------------------------------------------------------------


class Prior(nn.Module):
    def __init__(self, mean=0.0, scale=1.0, event=True):
        super().__init__()
        self.register_buffer("mean", torch.full((LATENT,), mean))
        self.scale, self.event = scale, event

    def forward(self):
        return td.Independent(td.Normal(self.mean, self.scale), int(self.event))


class Decoder(nn.Module):
    """A network and a law of its numbers."""

    def __init__(self, law, outputs=WIDTH, layers=()):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(LATENT, 8), nn.Tanh(), *layers, nn.Linear(8, outputs)
        )
        self.law = law

    def forward(self, z):
        return self.law(self.network(z))


class Encoder(nn.Module):
    """A network to a mean and a second number for each dimension, and a law of both."""

    def __init__(self, law=None, layers=()):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), *layers)
        self.head = nn.Linear(8, 2 * LATENT)
        self.law = law or gaussian

    def forward(self, batch):
        return self.law(*self.head(self.network(batch.x)).chunk(2, -1))


def gaussian(mean, log_variance):
    return td.Independent(td.Normal(mean, (0.5 * log_variance).exp()), 1)


def coins(raw):
    return td.Independent(td.Bernoulli(logits=raw), 1)


def normals(raw):
    mean, log_scale = raw.chunk(2, -1)
    return td.Independent(td.Normal(mean, log_scale.exp()), 1)


def pair(law=coins, q=None, prior=None, outputs=WIDTH, decoder=(), encoder=()):
    def make():
        model = Model(prior or Prior(), Decoder(law, outputs, decoder))
        posterior = Encoder(q, encoder)
        for p in [*model.parameters(), *posterior.parameters()]:
            nn.init.normal_(p, std=0.5)
        return model, posterior

    return seeded(make)


def of_reals(law):
    return pair(law, outputs=2 * WIDTH)


# -- laws with a mistake ---------------------------------------------------------------------------


def law_of(base, name, log_prob, **more):
    """A law of torch's in which one thing is another: a subclass, as people write it."""
    return type(name, (base,), {"log_prob": log_prob, **more})


def elementwise(kind):
    return lambda mean, second: td.Independent(kind(mean, (0.5 * second).exp()), 1)


CrossEntropy = law_of(
    td.ContinuousBernoulli,
    "CrossEntropy",
    lambda self, x: x * self.logits - F.softplus(self.logits),
)
"""Binary cross-entropy of grey levels, called a likelihood."""

NoConstant = law_of(
    td.Normal,
    "NoConstant",
    lambda self, x: -0.5 * ((x - self.loc) / self.scale) ** 2 - self.scale.log(),
)
Precedence = law_of(
    RoutedNormal,
    "Precedence",
    lambda self, z: -0.5 * ((z - self.loc) ** 2 + self.scale.log() * 2) / self.scale**2,
)
RecoveredNoise = law_of(
    RoutedNormal,
    "RecoveredNoise",
    lambda self, z: (
        -HALF_LOG_2PI - self.scale.log() - 0.5 * ((z - self.loc) / (2 * self.scale.log())) ** 2
    ),
)
VarianceAsScale = law_of(
    RoutedNormal,
    "VarianceAsScale",
    lambda self, z: td.Normal(self.loc, self.scale**2).log_prob(z),
)


class SmallNoise(RoutedNormal):
    """Noise of a hundredth outside the density."""

    def transform(self, noise):
        return self.loc + 0.01 * self.scale * noise


class NoNoise(RoutedNormal):
    def transform(self, noise):
        return (self.loc + 0 * noise).expand(noise.shape)


class Sampled(RoutedNormal):
    def transform(self, noise):
        with torch.no_grad():
            return self.loc + self.scale * noise


class TorchSampled(td.Normal):
    """A law of torch's own kind, whose rsample is its sample."""

    def rsample(self, sample_shape=()):
        return self.sample(sample_shape)


class Gate:
    """The gate of an autoregressive flow, on all but the first number."""

    def __init__(self, weight, sign):
        self.weight, self.sign = weight, sign

    def _scale(self, x):
        return torch.sigmoid(2 + self.weight * x[..., :1])

    def forward(self, x):
        s = self._scale(x)
        y = torch.cat([x[..., :1], s * x[..., 1:]], -1)
        # The mistake: the logarithm of another sigmoid.
        inner = 2 + self.weight * x[..., :1] if self.sign > 0 else self.weight * x[..., :1]
        return y, (F.logsigmoid(inner) * (x.shape[-1] - 1)).squeeze(-1)

    def inverse(self, y):
        x = torch.cat([y[..., :1], y[..., 1:] / self._scale(y)], -1)
        return x, self.forward(x)[1]


def gated(sign):
    def law(mean, log_variance):
        base = td.Independent(RoutedNormal(mean, (0.5 * log_variance).exp()), 1)
        return FlowDistribution(base, [Gate(0.7, sign)])

    return law


class Affine(td.Transform):
    """y = 3 x + 1, with a log-determinant that is right or left out."""

    domain = codomain = td.constraints.real
    bijective = True

    def __init__(self, right):
        super().__init__()
        self.right = right

    def _call(self, x):
        return 3 * x + 1

    def _inverse(self, y):
        return (y - 1) / 3

    def log_abs_det_jacobian(self, x, y):
        return torch.full_like(x, math.log(3) if self.right else 0.0)


def transformed(right):
    def law(mean, log_variance):
        base = td.Normal(mean, (0.5 * log_variance).exp())
        return td.Independent(td.TransformedDistribution(base, [Affine(right)]), 1)

    return law


def softplus_of_log(mean, raw):
    return td.Independent(td.Normal(mean, F.softplus(raw).exp()), 1)


class LogExpm1(td.Bernoulli):
    """log(1 - s) as log(-expm1(log s)), which is minus infinity times zero far out."""

    def log_prob(self, x):
        log_s = F.logsigmoid(self.logits)
        return x * log_s + (1 - x) * torch.log(-torch.expm1(log_s))


class FunctionalDropout(nn.Module):
    def __init__(self, heeds):
        super().__init__()
        self.heeds = heeds

    def forward(self, x):
        return F.dropout(x, 0.3, training=self.training if self.heeds else True)


class Scaled(Model):
    """log p(x given z) divided by the pixels inside "log p(x, z)"."""

    def log_joint(self, x, z):
        return self.prior().log_prob(z) + self.log_likelihood(x, z) / WIDTH


def scaled_joint():
    model, posterior = pair()
    return Scaled(model.prior, model.likelihood), posterior


def halved():
    model, posterior = pair()
    return model.bfloat16(), posterior.bfloat16()


# -- objectives ------------------------------------------------------------------------------------


def parts(model, posterior, batch, noise):
    """(log p(x given z), log p(z), log q, KL by formula) as a person writes them out."""
    q = posterior(batch)
    mean, scale = q.base_dist.loc, q.base_dist.scale
    z = mean + scale * noise
    p = model.prior()
    m, s = p.base_dist.loc, p.base_dist.scale
    kl = (0.5 * ((scale / s) ** 2 + ((mean - m) / s) ** 2 - 1) - (scale / s).log()).sum(-1)
    return model.likelihood(z).log_prob(batch.x), p.log_prob(z), q.log_prob(z), kl


def objective(formula):
    """An objective of the parts R, P, Q and K, and of S samples."""

    def call(model, posterior, batch, noise):
        return formula(*parts(model, posterior, batch, noise))

    return call


def log_mean(log_w, dim=0, count=None):
    return log_w.logsumexp(dim) - math.log(count or log_w.shape[dim])


def without_gradient(model, posterior, batch, noise):
    q = posterior(batch)
    z = reparameterize(q, noise)
    with torch.no_grad():
        likelihood = model.likelihood(z).log_prob(batch.x)
    return (likelihood + model.prior().log_prob(z) - q.log_prob(z)).mean(0)


def drawn_inside(model, posterior, batch, noise):
    q = posterior(batch)
    z = q.sample((len(noise),))
    return (model.likelihood(z).log_prob(batch.x) + model.prior().log_prob(z) - q.log_prob(z)).mean(
        0
    )


def detached_scale(model, posterior, batch, noise):
    """The numbers of the bound, with a gradient that knows of one deviation only in part."""
    q = posterior(batch)
    z = q.base_dist.loc + q.base_dist.scale.detach() * noise
    kl = td.kl_divergence(q, model.prior().expand(q.batch_shape))
    return model.likelihood(z).log_prob(batch.x).mean(0) - kl


def at_the_mean(model, posterior, batch, noise):
    return objective(lambda r, p, q, k: r.mean(0) - k)(model, posterior, batch, 0 * noise)


def standard_prior(model, posterior, batch, noise):
    q = posterior(batch)
    z = reparameterize(q, noise)
    p = td.Independent(td.Normal(torch.zeros_like(z), 1.0), 1)
    return (model.likelihood(z).log_prob(batch.x) + p.log_prob(z) - q.log_prob(z)).mean(0)


def beta_tc(model, posterior, batch, noise):
    """A total correlation with the weight of the whole in column 0 instead of the diagonal."""
    q = posterior(batch)
    z = reparameterize(q, noise[:1])[0]
    n = len(z)
    weights = torch.full((n, n), -math.log(n - 1))
    weights[:, 0] = -math.log(n)
    each = q.base_dist.log_prob(z.unsqueeze(1)) + weights.unsqueeze(-1)
    correlation = each.sum(-1).logsumexp(1) - each.logsumexp(1).sum(-1)
    return (
        objective(lambda r, p, q, k: r.mean(0) - k)(model, posterior, batch, noise)
        - 5 * correlation
    )


WELL = {
    "A": objective(lambda r, p, q, k: (r + p - q).mean(0)),
    "B": objective(lambda r, p, q, k: r.mean(0) - k),
    "importance": objective(lambda r, p, q, k: log_mean(r + p - q)),
}
"""Objectives without a mistake."""


def levels():
    family = families.DiscretizedLogistic(256)
    _, posterior = pair()

    def make():
        network = networks.MLP(LATENT, [8], family.outputs(WIDTH))
        return Model(Prior(), Conditional(network, family)), posterior

    return seeded(make)


def as_levels():
    return torch.round(grey() * 255) / 255


# -- mistakes beyond the thirty --------------------------------------------------------------------


class Unnormalized(Prior):
    """A mixture whose weights add up to 1.3."""

    def forward(self):
        return td.Independent(TwoBumps(self.mean, self.scale), 1)


class TwoBumps(td.Normal):
    def log_prob(self, z):
        return torch.logaddexp(
            super().log_prob(z) + math.log(0.8), super().log_prob(z + 1) + math.log(0.5)
        )


def covariant(kind):
    """A full covariance; `kind` is the class of its law."""

    def law(mean, raw):
        corner = torch.tensor([[1.0, 0.0], [0.8, 0.6]]).to(mean)
        return kind(mean, scale_tril=(0.5 * raw).exp().unsqueeze(-1) * corner)

    return law


class WithoutDeterminant(td.MultivariateNormal):
    def log_prob(self, z):
        return super().log_prob(z) + 0.5 * self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class HalfAsWide(td.MultivariateNormal):
    def rsample(self, sample_shape=()):
        return self.loc + 0.5 * (super().rsample(sample_shape) - self.loc)


class ShiftedDraws(td.MultivariateNormal):
    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape) + 0.5


class Tempered(td.Bernoulli):
    """Its draws are sharper than its probabilities say."""

    def sample(self, sample_shape=()):
        return td.Bernoulli(logits=3 * self.logits).sample(sample_shape)


class StatesItsMode(td.Bernoulli):
    @property
    def mean(self):
        return (self.logits > 0).to(self.logits)


class WithoutFactorial(td.Poisson):
    def log_prob(self, x):
        return x * self.rate.log() - self.rate


def rates(kind):
    return lambda raw: td.Independent(kind(raw.exp()), 1)


def counts():
    return torch.from_numpy(np.random.default_rng(5).poisson(1.0, (ROWS, WIDTH)).astype("f"))


class WrongInverse(Gate):
    def inverse(self, y):
        return torch.cat([y[..., :1], y[..., 1:] * self._scale(y)], -1), self.forward(y)[1]


def wrongly_inverted(mean, log_variance):
    base = td.Independent(RoutedNormal(mean, (0.5 * log_variance).exp()), 1)
    return FlowDistribution(base, [WrongInverse(0.7, 1)])


class AlwaysTraining(nn.Dropout):
    """A layer whose mode nobody can change."""

    def train(self, mode=True):
        return super().train(True)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


class Root(nn.Module):
    """A root of nothing has a slope without end."""

    def forward(self, x):
        return x + torch.sqrt((x - x.detach()).square())


class Center(nn.Module):
    """A mean over the batch, at evaluation too."""

    def forward(self, x):
        return x - x.mean(0)


def into_training(model, posterior, batch, noise):
    model.train()
    return WELL["A"](model, posterior, batch, noise)


def without_logarithms(model, posterior, batch, noise):
    r, p, q, _ = parts(model, posterior, batch, noise)
    return (1000 * (r + p - q)).exp().mean(0).log() / 1000
