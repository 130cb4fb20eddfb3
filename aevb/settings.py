"""Everything that can be said of a run: name, type, bounds, usual value and meaning, in one table.

The command line has an option for each, `config.json` an entry, the estimators a parameter for all
but the data and how steps are computed, under the same name; the seed is their `random_state`. It
is read at every start of the command line, and so imports nothing heavy.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from aevb.errors import ModelFileError, UsageError, name_shortly, shortly

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Binarize = Literal["none", "threshold", "once", "epoch"]

# The paper has tanh; relu ends half a nat higher on static MNIST, at the same cost (README).
NETWORK_DEFAULTS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (500,)},
    "convolutional": {"hidden": (32, 64)},
    "linear": {"hidden": ()},
}

POSTERIOR_DEFAULTS = {"mean-field": "per-datum", "monte-carlo-em": "per-datum"}
"""By the algorithm; of others the encoder of the paper."""

DECISIVE = ("network", "algorithm", "components")
"""What others depend on where they are left open."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, each with what it means; `check_settings` holds them to their bounds.

    Units: nats, of `free_bits`. Errors: none here; UsageError or ModelFileError of that function.
    Example:
        >>> settings = check_settings({"latent_dim": 2, "network": "linear"})
        >>> settings.hidden, settings.posterior, settings.lr_schedule
        ((), 'mean-field', 'cosine')
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    data: Annotated[str, "A data set's name, or a file."] = "digits"
    latent_dim: Annotated[int, Ge(1), Le(10_000), "Latent dimensions."] = 20
    latent_classes: Annotated[
        int | None,
        Ge(2),
        Le(10_000),
        "Of each latent, with --posterior categorical [default: 10].",
    ] = None
    hidden: Annotated[
        tuple[Annotated[int, Ge(1)], ...],
        "Widths, encoder first, like 200,200 [default: 500; channels 32,64].",
    ] = (500,)
    activation: Annotated[
        str,
        "tanh (the paper's), relu, elu, gelu, silu, softplus, leaky-relu, sigmoid.",
    ] = "relu"
    network: Annotated[Literal["mlp", "convolutional", "linear"], "Kind of networks."] = "mlp"
    likelihood: Annotated[
        str,
        "auto, bernoulli, continuous-bernoulli, discretized-logistic, "
        "discretized-logistic-mixture, gaussian, full-gaussian, laplace, logistic, student-t, "
        "log-normal, gamma, categorical, ordinal, poisson, negative-binomial, "
        "zero-inflated-negative-binomial, or mixed: a family for each kind of column.",
    ] = "auto"
    classes: Annotated[int | None, "Classes, grades or levels of grey [default: of the data]."] = (
        None
    )
    posterior: Annotated[
        str,
        "mean-field, low-rank, full-covariance, elliptical, mixture, planar, radial, householder, "
        "sylvester, real-nvp, iaf, ladder, von-mises-fisher, dirichlet, or a family such as "
        "laplace or gamma; bernoulli and categorical for discrete codes; per-datum:FAMILY and "
        "global:FAMILY have free parameters; auto: mean-field, or per-datum where the algorithm "
        "has no recognition model.",
    ] = "auto"
    prior: Annotated[
        str,
        "standard-normal, learned-normal, mixture, vamp, flow, autoregressive, or a family such as "
        "gamma; of discrete codes bernoulli, categorical, learned-bernoulli, learned-categorical; "
        "auto: the usual one where the posterior's draws lie.",
    ] = "auto"
    layers: Annotated[
        int, Ge(1), Le(10), "Layers of codes, each half as wide as the one before."
    ] = 1
    objective: Annotated[
        str, "elbo-a, elbo-b, iwae; auto: b where KL(q || p) has a closed form."
    ] = "auto"
    gradient: Annotated[
        str,
        "reparameterized, score-function, path-derivative, doubly-reparameterized, vimco, "
        "gumbel-softmax, straight-through, enumeration; auto: the first where draws have one.",
    ] = "auto"
    baseline: Annotated[
        str,
        "Of score-function: none, running-mean, learned, leave-one-out; auto: the last, where "
        "there are 2 samples.",
    ] = "auto"
    temperature: Annotated[float | None, Gt(0), "Of gumbel-softmax [default: 0.5]."] = None
    samples: Annotated[int, Ge(1), Le(100_000), "L, posterior samples per datum and step."] = 1
    algorithm: Annotated[
        str,
        "aevb, semi-amortized, full-bayes, wake-sleep, reweighted-wake-sleep, monte-carlo-em, "
        "mean-field, em.",
    ] = "aevb"
    components: Annotated[
        int | None,
        Ge(1),
        Le(10_000),
        "Train a mixture of so many Gaussians, by em, mean-field or aevb.",
    ] = None
    covariance: Annotated[
        Literal["full", "diagonal", "spherical"] | None,
        "Of the components [default: full]; of em without them diagonal is factor analysis, the "
        "default, and spherical probabilistic PCA.",
    ] = None
    weight_draws: Annotated[
        int, Ge(1), Le(1000), "Of full-bayes: draws of the weights that the model averages over."
    ] = 10
    refine: Annotated[
        int | None, Ge(0), Le(1000), "Of semi-amortized: steps for each datum [default: 10]."
    ] = None
    beta: Annotated[float, Ge(0), "Weight of the divergence in the objective."] = 1.0
    warmup_steps: Annotated[int, Ge(0), "Steps until beta has its full value."] = 0
    free_bits: Annotated[float, Ge(0), "Nats free of charge per dimension."] = 0.0
    weight_prior: Annotated[
        Literal["none", "normal"], "normal: MAP with N(0, I) on the weights."
    ] = "none"
    optimizer: Annotated[str, "adam, adagrad, sgd."] = "adam"
    lr: Annotated[float | None, Gt(0), "Learning rate [default: the optimizer's]."] = None
    lr_schedule: Annotated[str, "constant, steps, cosine, linear."] = "cosine"
    clip: Annotated[float | None, Gt(0), "Bound on the gradient's norm."] = None
    batch_size: Annotated[int, Ge(1), "M, data per step."] = 100
    epochs: Annotated[
        int | None, Ge(1), "Passes over the data [default: 100 to 400 by its size]."
    ] = None
    patience: Annotated[int | None, Ge(1), "Stop after so many epochs without a better bound."] = (
        None
    )
    binarize: Annotated[Binarize | None, "Of grey levels [default: the data set's]."] = None
    allow_nan: Annotated[bool, "NaN is a cell that was not observed."] = False
    resize: Annotated[tuple[int, int] | None, "Size for the images of a folder, like 28x28."] = None
    data_limit: Annotated[int | None, Ge(1), "A random subset of so many rows."] = None
    seed: Annotated[int, Ge(0), Lt(2**64), "Seed of everything random."] = 0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float64"],
        "Of the matrix products [auto: bfloat16 where it is faster].",
    ] = "auto"
    threads: Annotated[
        int | None, Ge(1), Le(1024), "Threads [default: the idle cores; 1 for a small model]."
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        "Where it runs [auto: a GPU, where there is one and the work is large].",
    ] = "auto"
    step: Annotated[Literal["auto", "compiled", "eager"], "How the step runs."] = "auto"

    @property
    def exact(self) -> bool:
        """Whether the model's posterior is exact: a mixture's, or that of a linear model by EM."""
        return self.components is not None or self.algorithm == "em"

    @property
    def needs_all(self) -> bool:
        """Whether each step takes all rows."""
        return self.exact and self.algorithm != "aevb"


_WORDS = {
    "tuple_type": "expected whole numbers, like (200, 200)",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    "string_type": "expected a name",
}
"""What is said where pydantic's words are of types."""


def as_option(name: str) -> str:
    """A setting as the command line spells it."""
    return f"--{name.replace('_', '-')}"


def check_settings(
    given: Mapping[str, Any], where: str | None = None, spell: Callable[[str], str] = as_option
) -> Settings:
    """Settings from what was given of them, or one sentence: UsageError, or ModelFileError for a
    file.

    `spell` turns the name of a setting into what the person has written.
    """
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(_with_usual(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = name_shortly(str(first["loc"][0]) if first["loc"] else "settings", 40)
        said = _WORDS.get(first["type"], f"{first['msg'][0].lower()}{first['msg'][1:]}")
        said += f", found {shortly(first.get('input'))}"
        if where is not None:
            raise ModelFileError(f"{where}: {name}: {said}") from error
        raise UsageError(f"{spell(name)}: {said}") from error


def _with_usual(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was left out suits the rest: widths the kind of network, posterior the algorithm."""
    usual = dict(NETWORK_DEFAULTS.get(str(given.get("network", "mlp")), {}))
    usual["posterior"] = POSTERIOR_DEFAULTS.get(str(given.get("algorithm")), "mean-field")
    if given.get("components") is not None or given.get("algorithm") == "em":
        usual["posterior"] = "exact"
    return dict(given) | {k: v for k, v in usual.items() if given.get(k) in (None, "auto")}


def said_of(settings: Settings) -> dict[str, Any]:
    """What a person must say beside the data to have these settings: all that is not as usual.

    Example:
        >>> said_of(check_settings({"hidden": [200], "seed": 0, "network": "convolutional"}))
        {'hidden': (200,), 'network': 'convolutional'}
    """
    named = {name: getattr(settings, name) for name in DECISIVE}
    usual = asdict(check_settings(named)) | {name: getattr(Settings, name) for name in DECISIVE}
    found = asdict(settings)
    return {k: v for k, v in found.items() if v not in (None, usual[k]) and k != "data"}


@cache
def _adapter() -> "TypeAdapter[Settings]":
    from pydantic import TypeAdapter

    return TypeAdapter(Settings)
