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
from torch.distributions import Distribution

from aevb import distributions as zoo
from aevb import families
from aevb.conditional import Chain, Conditional, Unconditional
from aevb.distributions import kl
from aevb.errors import UsageError
from aevb.families import Elementwise, Family, Normal
from aevb.networks import MLP
from aevb.posterior import Amortized, FreeParameters, Global, Ladder, PerDatum, Posterior
from aevb.priors import VampPrior
from aevb.settings import POSTERIOR_DEFAULTS, Settings
from aevb.storage.settings import pick, refuse_unless

STEPS = 8
"""Of a flow made of small maps; the larger ones take a quarter."""
CONTEXT = 32
"""Numbers that an encoder tells the networks of a flow."""
FREEDOM = 5.0
"""Degrees of freedom of Student's t: tails heavier than a Gaussian's, with a variance."""
COMPONENTS = 5
"""Of a posterior that is a mixture."""
PRIOR_COMPONENTS = 500
"""Of a prior that is a mixture, and pseudo-inputs of a VampPrior (Tomczak & Welling 2018)."""
WIDTH = 128
"""Of the networks of a flow."""
CLASSES = 10
"""Of a latent that is one of several."""
OPTIONS_OF = {
    "weight_draws": ("full-bayes",),
    "refine": ("semi-amortized", "and to aevb evaluate"),
    "covariance": ("em", "or with --components"),
}
"""Options, each of one algorithm."""
LEARNED = "learned-"
"""Begins the names of priors with numbers of their own."""

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
DISCRETE: dict[str, tuple[str, Callable[[int], Family]]] = {
    "bernoulli": ("bits", lambda classes: families.Bernoulli()),
    "categorical": ("classes", lambda classes: families.OneHotCategoricals(classes)),
}
"""Those whose draws have no gradient, by the classes that a latent has; priors of the same name."""
WAYS = ("per-datum", "global")
POSTERIORS = (*FAMILIES, *DISCRETE, "ladder", *WAYS)
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
    "learned-normal": ("real", lambda size: Unconditional(Normal(), size, learned=True)),
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
DISCRETE_PRIORS = {
    f"{way}{name}": (space, name) for name, (space, _) in DISCRETE.items() for way in ("", LEARNED)
}
"""Fair ones, and learned ones: the set and the family."""
SPACES = {
    "real": ("any real numbers", "standard-normal"),
    "positive": ("positive numbers", "exponential"),
    "unit": ("numbers between 0 and 1", "beta"),
    "simplex": ("shares that add up to 1", "dirichlet"),
    "sphere": ("directions of length 1", "uniform-sphere"),
    "bits": ("zeros and ones", "bernoulli"),
    "classes": ("one of several classes", "categorical"),
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
    return "real" if family == "ladder" else {**FAMILIES, **DISCRETE}[family][0]


def prior_for(posterior: str, prior: str) -> str:
    """The name of the prior: as asked, or the usual one where the posterior's draws lie.

    Errors: UsageError for names that there are not, or a pair that makes no sense.
    """
    _, name = way_and_family(posterior)
    space = _space(name)
    if prior == "auto":
        return HEAVY[name][0] if name in HEAVY else SPACES[space][1]
    known = {**PRIORS, **DISCRETE_PRIORS, "vamp": ("real", None)}
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
    if layers > 1 and space != "real" and name not in DISCRETE:
        raise UsageError(
            f"--layers {layers} needs codes that may be any real numbers, since each layer's "
            f"middle is given by the one above, or discrete ones ({', '.join(DISCRETE)}), and "
            f"--posterior {posterior} draws {SPACES[space][0]}: choose another, or one layer"
        )
    if layers > 1 and name in HEAVY:
        raise UsageError(
            f"--layers {layers} has Gaussians between the layers, under which KL(q || p) of the "
            f"heavy tails of --posterior {posterior} is infinite: choose another, or one layer"
        )
    if name == "ladder" and layers < 2:
        raise UsageError("--posterior ladder needs at least two layers to climb: add --layers 2")
    gaussian = prior in ("standard-normal", "learned-normal")
    if name == "ladder" and (way != "amortized" or not gaussian):
        raise UsageError(
            "--posterior ladder multiplies what x says with what the model says, layer by layer, "
            "as Gaussians: it is amortized, with the prior standard-normal or learned-normal"
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
    """UsageError for a posterior, or an option, that the algorithm has no use for."""
    algorithm, posterior = settings.algorithm, settings.posterior
    refuse_unless(settings, "algorithm", OPTIONS_OF)
    if algorithm == "semi-amortized" and way_and_family(posterior)[1] == "mixture":
        raise UsageError(
            "--algorithm semi-amortized goes through its steps by second derivatives, and draws of "
            "--posterior mixture have first ones only: choose another, or train by aevb and add "
            "--refine to aevb evaluate"
        )
    if algorithm not in POSTERIOR_DEFAULTS:
        return
    way, name = way_and_family(posterior)
    if way != "per-datum":
        raise UsageError(
            f"--algorithm {algorithm} has no recognition model, and --posterior {posterior} is one "
            "for all rows: leave it out, or choose per-datum:FAMILY"
        )
    own = FAMILIES[name][1](2) if name in FAMILIES else None
    factors = name in DISCRETE or isinstance(own, Normal | Elementwise)
    if algorithm == "mean-field" and not factors:
        raise UsageError(
            f"--algorithm mean-field has a posterior that factorizes over dimensions, and that of "
            f"--posterior {posterior} does not: choose a family such as per-datum:laplace, or "
            "--algorithm aevb"
        )


def layer_sizes(size: int, layers: int) -> list[int]:
    """The dimensions of z_1, ..., z_L: each layer has half of those below it, at least one."""
    sizes = [size]
    while len(sizes) < layers:
        sizes.append(max(1, sizes[-1] // 2))
    return sizes


def code_sizes(settings: Settings) -> list[int]:
    """The numbers of z_1, ..., z_L: of a latent that is one of K classes, K numbers."""
    sizes = layer_sizes(settings.latent_dim, settings.layers)
    return [classes_of(settings) * size for size in sizes]


def classes_of(settings: Settings) -> int:
    """The classes K of a latent that is one of several; 1 for a latent that is a number.

    Errors: UsageError where they were asked for, and there are none.
    """
    if way_and_family(settings.posterior)[1] == "categorical":
        return settings.latent_classes or CLASSES
    if settings.latent_classes is not None:
        raise UsageError(
            f"--latent-classes {settings.latent_classes} is for latents that are one of several "
            f"classes, and --posterior {settings.posterior} draws "
            f"{SPACES[_space(way_and_family(settings.posterior)[1])][0]}: add --posterior "
            "categorical, or leave it out"
        )
    return 1


def has_closed_divergence(settings: Settings) -> bool:
    """Whether KL(q || p) of the settings has a closed form, which estimator B needs."""
    if settings.exact:
        return True
    if settings.layers > 1 or prior_for(settings.posterior, settings.prior) == "vamp":
        return False
    return kl(*laws_of(settings)) is not None


def laws_of(settings: Settings) -> tuple[Distribution, Distribution]:
    """q for one datum and p, at some numbers: what they can do says what may be asked of them.

    Of several layers it is the one that x speaks to; of a prior made of the encoder and of a
    ladder they are Gaussians.
    """
    _, name = way_and_family(settings.posterior)
    size, classes = code_sizes(settings)[0], classes_of(settings)
    prior = prior_for(settings.posterior, settings.prior)
    with torch.random.fork_rng(devices=[]):
        family = _family("mean-field" if name == "ladder" else name, size, classes)
        p = _top("standard-normal" if prior == "vamp" else prior, size, classes)()
        return family(torch.rand(1, family.outputs(size)), 1), p


Encoder = Callable[[int], nn.Module]
"""Makes a network from x to so many numbers."""


def _family(name: str, size: int, classes: int) -> Family:
    """The family of codes of so many numbers, of latents with so many classes each."""
    return DISCRETE[name][1](classes) if name in DISCRETE else FAMILIES[name][1](size)


def _top(prior: str, size: int, classes: int) -> Unconditional:
    """The prior of one layer, by its name."""
    if prior not in DISCRETE_PRIORS:
        return PRIORS[prior][1](size)
    family = DISCRETE[DISCRETE_PRIORS[prior][1]][1](classes)
    return Unconditional(family, size, learned=prior.startswith(LEARNED))


def make_posterior(
    posterior: str,
    sizes: list[int],
    hidden: tuple[int, ...],
    rows: int,
    encoder: Encoder,
    classes: int = 1,
) -> Posterior:
    """The posterior over all layers, but for a ladder, which needs the prior."""
    way, name = way_and_family(posterior)
    made = [_family(name, size, classes) for size in sizes]
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
    prior: str,
    sizes: list[int],
    hidden: tuple[int, ...],
    encoder: Any,
    width: int,
    unit: bool,
    classes: int = 1,
) -> nn.Module:
    """The prior over all layers: by its name that of the last; given the one above they are
    Gaussians, or discrete as it is."""
    if prior == "vamp":
        return VampPrior(encoder, PRIOR_COMPONENTS, width, unit)
    top = _top(prior, sizes[-1], classes)
    if len(sizes) == 1:
        return top
    downwards, family = sizes[::-1], top.family if prior in DISCRETE_PRIORS else Normal()
    links = [
        Conditional(MLP(n, hidden[::-1], family.outputs(m)), family) for n, m in pairwise(downwards)
    ]
    return Chain([top, *links], downwards, reverse=True)
