"""Priors and posteriors by name: what there is, which go together, and how they are put together.

--posterior   a family, amortized; per-datum:FAMILY and global:FAMILY have free parameters
--prior       a family or construction whose draws lie where the posterior's do
--layers L    z = (z_1, ..., z_L):  p(z_L) ... p(z_1 given z_2),  q upwards, or down as a ladder
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from aevb import distributions as zoo
from aevb import families
from aevb.conditional import Chain, Conditional, Unconditional
from aevb.distributions import kl
from aevb.errors import UsageError
from aevb.families import Elementwise, Family, Normal
from aevb.networks import MLP
from aevb.posterior import Amortized, FreeParameters, Global, Ladder, PerDatum, Posterior
from aevb.priors import VampPrior
from aevb.storage.settings import POSTERIOR_DEFAULTS, Settings, pick

STEPS = 8
"""Of a flow made of small maps; the larger ones take a quarter."""
CONTEXT = 32
"""Numbers that an encoder tells the networks of a flow."""
LOG_JOINT = "log-joint"
"""The objective of Monte Carlo EM, log p(x, z)."""
FREEDOM = 5.0
"""Degrees of freedom of Student's t: tails heavier than a Gaussian's, with a variance."""
COMPONENTS = 5
"""Of a posterior that is a mixture."""
PRIOR_COMPONENTS = 500
"""Of a prior that is a mixture, and pseudo-inputs of a VampPrior (Tomczak & Welling 2018)."""
WIDTH = 128
"""Of the networks of a flow."""

FAMILIES: dict[str, tuple[str, Callable[[int], Family]]] = {
    "mean-field": ("real", lambda size: Normal()),
    "low-rank": ("real", lambda size: families.LowRankMultivariateNormal(min(5, size))),
    "full-covariance": ("real", lambda size: families.MultivariateNormal()),
    "elliptical": ("real", lambda size: families.Elliptical()),
    "laplace": ("real", lambda size: Elementwise(zoo.Laplace)),
    "logistic": ("real", lambda size: Elementwise(zoo.Logistic)),
    "student-t": ("real", lambda size: Elementwise(zoo.StudentT, {"df": FREEDOM})),
    "cauchy": ("real", lambda size: Elementwise(zoo.Cauchy)),
    "gumbel": ("real", lambda size: Elementwise(zoo.Gumbel)),
    "uniform": ("real", lambda size: Elementwise(zoo.Uniform)),
    "triangular": ("real", lambda size: Elementwise(zoo.Triangular)),
    "mixture": ("real", lambda size: families.Mixture(size, COMPONENTS)),
    "planar": ("real", lambda size: families.Planar(size, STEPS)),
    "radial": ("real", lambda size: families.Radial(size, STEPS)),
    "householder": ("real", lambda size: families.Householder(size, STEPS)),
    "sylvester": ("real", lambda size: families.Sylvester(size, STEPS // 2, min(size, STEPS))),
    "real-nvp": ("real", lambda size: families.RealNVP(size, STEPS // 2, (WIDTH,), CONTEXT)),
    "iaf": ("real", lambda size: families.InverseAutoregressive(size, 2, (WIDTH,), CONTEXT)),
    "exponential": ("positive", lambda size: Elementwise(zoo.Exponential)),
    "rayleigh": ("positive", lambda size: Elementwise(zoo.Rayleigh)),
    "weibull": ("positive", lambda size: Elementwise(zoo.Weibull)),
    "pareto": ("positive", lambda size: Elementwise(zoo.Pareto)),
    "reciprocal": ("positive", lambda size: Elementwise(zoo.Reciprocal)),
    "gompertz": ("positive", lambda size: Elementwise(zoo.Gompertz)),
    "erlang": ("positive", lambda size: Elementwise(zoo.Erlang, {"shape": 2})),
    "log-normal": ("positive", lambda size: Elementwise(zoo.LogNormal)),
    "gamma": ("positive", lambda size: Elementwise(zoo.Gamma)),
    "beta": ("unit", lambda size: Elementwise(zoo.Beta)),
    "kumaraswamy": ("unit", lambda size: Elementwise(zoo.Kumaraswamy)),
    "logit-normal": ("unit", lambda size: Elementwise(zoo.LogitNormal)),
    "dirichlet": ("simplex", lambda size: families.Dirichlet()),
    "von-mises-fisher": ("sphere", lambda size: families.VonMisesFisher()),
}
"""The families of z by name, with the set that their draws fill."""
WAYS = ("per-datum", "global")
POSTERIORS = (*FAMILIES, "ladder", *WAYS)
FIXED = {
    name: FAMILIES[name]
    for name in (
        *("laplace", "logistic", "student-t", "cauchy"),
        *("exponential", "rayleigh", "weibull", "erlang", "log-normal", "gamma"),
        *("beta", "kumaraswamy", "logit-normal", "dirichlet"),
    )
}
"""Priors that are a family at standard numbers: location 0, scales and concentrations 1.

Left out are those whose density falls faster than a posterior's tails, say as exp(-exp(z)).
"""
HEAVY = {
    "cauchy": ("cauchy", "student-t"),
    "pareto": ("log-normal",),
}
"""Families without a mean at some parameters, and the priors under which KL(q || p) is finite."""
PRIORS: dict[str, tuple[str, Callable[[int], Unconditional]]] = {
    "standard-normal": ("real", lambda size: Unconditional(Normal(), size)),
    "learnt-normal": ("real", lambda size: Unconditional(Normal(), size, learnt=True)),
    "mixture": (
        "real",
        lambda size: Unconditional(families.Mixture(size, PRIOR_COMPONENTS), size),
    ),
    "flow": (
        "real",
        lambda size: Unconditional(families.RealNVP(size, STEPS // 2, (WIDTH,), 0), size),
    ),
    "autoregressive": (
        "real",
        lambda size: Unconditional(families.MaskedAutoregressive(size, 1, (WIDTH,), 0), size),
    ),
    "uniform-sphere": (
        "sphere",
        lambda size: Unconditional(families.HypersphericalUniform(size), size),
    ),
    **{
        name: (space, lambda size, make=make: Unconditional(make(size), size))  # type: ignore[misc]
        for name, (space, make) in FIXED.items()
    },
}
SPACES = {
    "real": ("any real numbers", "standard-normal"),
    "positive": ("positive numbers", "exponential"),
    "unit": ("numbers between 0 and 1", "beta"),
    "simplex": ("shares that add up to 1", "dirichlet"),
    "sphere": ("directions of length 1", "uniform-sphere"),
}
"""Where codes may lie, in words, and the prior there where none was asked for."""


def way_and_family(posterior: str) -> tuple[str, str]:
    """How a posterior gets its numbers, and its family: per-datum alone is a diagonal Gaussian."""
    if posterior in WAYS:
        return posterior, "mean-field"
    way, _, name = posterior.rpartition(":")
    if way and way not in WAYS:
        raise UsageError(
            f"--posterior {posterior!r} is not known: before the colon stands "
            f"{' or '.join(WAYS)}, as in per-datum:planar"
        )
    pick(dict.fromkeys(POSTERIORS), name, "--posterior")
    return way or "amortized", name


def _space(family: str) -> str:
    """The set that draws of a family fill; a ladder is of Gaussians."""
    return "real" if family == "ladder" else FAMILIES[family][0]


def prior_for(posterior: str, prior: str) -> str:
    """The name of the prior: as asked, or the usual one where the posterior's draws lie.

    Errors: UsageError for names that there are not, or a pair that makes no sense.
    """
    _, name = way_and_family(posterior)
    space = _space(name)
    if prior == "auto":
        return HEAVY[name][0] if name in HEAVY else SPACES[space][1]
    known = {**PRIORS, "vamp": ("real", None)}
    own = pick(known, prior, "--prior")[0]
    if own != space:
        fitting = ", ".join(p for p, (s, _) in known.items() if s == space)
        raise UsageError(
            f"--posterior {posterior} draws {SPACES[space][0]} and --prior {prior} is a density of "
            f"{SPACES[own][0]}: choose {fitting}"
        )
    if name in HEAVY and prior not in HEAVY[name]:
        raise UsageError(
            f"--posterior {posterior} has tails so heavy that KL(q || p) is infinite under --prior "
            f"{prior}: choose {' or '.join(HEAVY[name])}"
        )
    return prior


def check_latents(posterior: str, prior: str, layers: int, size: int) -> None:
    """UsageError, with the reason, for a combination that makes no sense."""
    way, name = way_and_family(posterior)
    prior = prior_for(posterior, prior)
    space = _space(name)
    if layers > 1 and space != "real":
        raise UsageError(
            f"--layers {layers} needs codes that may be any real numbers, since each layer's "
            f"middle is given by the one above, and --posterior {posterior} draws "
            f"{SPACES[space][0]}"
        )
    if layers > 1 and name in HEAVY:
        raise UsageError(
            f"--layers {layers} has Gaussians between the layers, under which KL(q || p) of the "
            f"heavy tails of --posterior {posterior} is infinite: choose another, or one layer"
        )
    if name == "ladder" and layers < 2:
        raise UsageError("--posterior ladder needs at least two layers to climb: add --layers 2")
    gaussian = prior in ("standard-normal", "learnt-normal")
    if name == "ladder" and (way != "amortized" or not gaussian):
        raise UsageError(
            "--posterior ladder multiplies what x says with what the model says, layer by layer, "
            "as Gaussians: it is amortized, with the prior standard-normal or learnt-normal"
        )
    if prior == "vamp" and (posterior, layers) != ("mean-field", 1):
        raise UsageError(
            "--prior vamp is a mixture of what the encoder says of pseudo-inputs: it needs "
            "--posterior mean-field and one layer"
        )
    least = layer_sizes(size, layers)[-1] if "flow" in prior else size
    if least < 2 and (space in ("simplex", "sphere") or "real-nvp" in name or prior == "flow"):
        raise UsageError(
            f"--latent-dim {size} leaves one dimension, and {name if prior != 'flow' else 'flow'} "
            "needs at least two"
        )


def check_algorithm(settings: Settings) -> None:
    """UsageError for a posterior, or an objective, that the algorithm has no use for."""
    algorithm, posterior = settings.algorithm, settings.posterior
    if algorithm not in POSTERIOR_DEFAULTS:
        return
    way, name = way_and_family(posterior)
    if way != "per-datum":
        raise UsageError(
            f"--algorithm {algorithm} has no recognition model, and --posterior {posterior} is one "
            "for all rows: leave it out, or choose per-datum:FAMILY"
        )
    factors = name != "ladder" and isinstance(FAMILIES[name][1](2), Normal | Elementwise)
    if algorithm == "mean-field" and not factors:
        raise UsageError(
            f"--algorithm mean-field has a posterior that factorizes over dimensions, and that of "
            f"--posterior {posterior} does not: choose a family such as per-datum:laplace, or "
            "--algorithm aevb"
        )
    if algorithm == "monte-carlo-em" and settings.objective not in ("auto", LOG_JOINT):
        raise UsageError(
            f"--algorithm monte-carlo-em has no bound: its objective is {LOG_JOINT}, not "
            f"{settings.objective}: leave --objective out"
        )


def layer_sizes(size: int, layers: int) -> list[int]:
    """The dimensions of z_1, ..., z_L: each layer has half of those below it, at least one."""
    sizes = [size]
    while len(sizes) < layers:
        sizes.append(max(1, sizes[-1] // 2))
    return sizes


def has_closed_divergence(settings: Settings) -> bool:
    """Whether KL(q || p) of the settings has a closed form, which estimator B needs."""
    posterior, size = settings.posterior, settings.latent_dim
    _, name = way_and_family(posterior)
    prior = prior_for(posterior, settings.prior)
    if settings.layers > 1 or prior == "vamp":
        return False
    with torch.random.fork_rng(devices=[]):
        family = FAMILIES[name][1](size)
        p = PRIORS[prior][1](size)()
        return kl(family(torch.rand(1, family.outputs(size)), 1), p) is not None


Encoder = Callable[[int], nn.Module]
"""Makes a network from x to so many numbers."""


def make_posterior(
    posterior: str, sizes: list[int], hidden: tuple[int, ...], rows: int, encoder: Encoder
) -> Posterior:
    """The posterior over all layers, but for a ladder, which needs the prior."""
    way, name = way_and_family(posterior)
    made = [FAMILIES[name][1](size) for size in sizes]
    numbers = made[0].outputs(sizes[0])
    conditional: nn.Module
    if way == "amortized":
        conditional = Conditional(encoder(numbers), made[0])
    else:
        table = FreeParameters(rows if way == "per-datum" else 1, numbers)
        conditional = Conditional(table, made[0], condition_ndim=0)
    if len(sizes) > 1:
        upwards = zip(sizes, sizes[1:], made[1:], strict=False)
        links = [Conditional(MLP(n, hidden, f.outputs(m)), f) for n, m, f in upwards]
        conditional = Chain([conditional, *links], sizes)
    if way == "amortized":
        return Amortized(conditional)
    return PerDatum(conditional) if way == "per-datum" else Global(conditional)


def make_ladder(
    sizes: list[int], hidden: tuple[int, ...], prior: nn.Module, encoder: Encoder
) -> Posterior:
    """A ladder over the prior's layers: a deterministic way up, and the model's way down."""
    width = hidden[-1] if hidden else 2 * sizes[0]
    up = [encoder(width), *(MLP(width, hidden, width) for _ in sizes[1:])]
    return Amortized(Ladder(up, [MLP(width, (), 2 * size) for size in sizes], prior))


def make_prior(
    prior: str, sizes: list[int], hidden: tuple[int, ...], encoder: Any, width: int, unit: bool
) -> nn.Module:
    """The prior over all layers: by its name that of the last, Gaussians given the one above."""
    if prior == "vamp":
        return VampPrior(encoder, PRIOR_COMPONENTS, width, unit)
    top = PRIORS[prior][1](sizes[-1])
    if len(sizes) == 1:
        return top
    downwards = sizes[::-1]
    links = [Conditional(MLP(n, hidden[::-1], 2 * m), Normal()) for n, m in pairwise(downwards)]
    return Chain([top, *links], downwards, reverse=True)
