"""Settings: everything that a command can say of a run, named and checked once, kept as JSON."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from aevb.algorithms import AEVB
from aevb.conditional import Conditional, Unconditional, standard_normal
from aevb.data import Binarization, Column, Dataset, Source, open_source
from aevb.data.maps import rows_of
from aevb.errors import DataError, ModelFileError, UsageError
from aevb.families import (
    LIKELIHOOD_MIN_VARIANCE,
    Bernoulli,
    Categorical,
    Columns,
    ContinuousBernoulli,
    Family,
    Masked,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    Standardized,
)
from aevb.model import Model
from aevb.networks import (
    MLP,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    ObservedInput,
    StandardizedInput,
    Standardizer,
)
from aevb.objectives import Objective, elbo_a, elbo_b, free_bits, iwae
from aevb.optimizers import SGD, Adagrad, Adam, Optimizer, Schedule, constant, cosine, linear, steps
from aevb.posterior import Posterior, full_covariance, mean_field, per_datum
from aevb.randomness import Stream, generator
from aevb.storage.description import ACTIVATIONS
from aevb.storage.files import name_shortly, shortly

OBJECTIVES: dict[str, Objective] = {"elbo-a": elbo_a, "elbo-b": elbo_b, "iwae": iwae}
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adagrad": Adagrad, "sgd": SGD}
SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "steps": steps,
    "cosine": cosine,
    "linear": linear,
}
# The paper has tanh; relu ends half a nat higher on static MNIST, at the same cost (README).
NETWORK_DEFAULTS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (500,), "activation": "relu"},
    "convolutional": {"hidden": (32, 64), "activation": "relu"},
}
ROWS_FOR_START = 10_000
CELLS_LOOKED_AT = 4_000_000
MOST_OFFSET = 2.0**17
"""How many of its ranges a column may lie from zero: 64 to 128 numbers of 32 bits remain in it."""


class Settings(BaseModel):
    """The settings of a run; the command line's options under the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = "digits"
    data_limit: int | None = Field(None, ge=1)
    allow_nan: bool = False
    resize: tuple[int, int] | None = None
    binarize: Literal["none", "threshold", "once", "epoch"] | None = None
    likelihood: str = "auto"
    classes: int | None = None
    posterior: str = "mean-field"
    prior: str = "standard-normal"
    network: Literal["mlp", "convolutional"] = "mlp"
    latent_dim: int = Field(20, ge=1, le=10_000)
    hidden: tuple[int, ...]
    activation: str
    objective: str = "elbo-b"
    algorithm: Literal["aevb"] = "aevb"
    samples: int = Field(1, ge=1, le=100_000)
    beta: float = Field(1.0, ge=0, allow_inf_nan=False)
    warmup_steps: int = Field(0, ge=0)
    free_bits: float = Field(0.0, ge=0, allow_inf_nan=False)
    weight_prior: Literal["none", "normal"] = "none"
    optimizer: str = "adam"
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)
    lr_schedule: str = "cosine"
    clip: float | None = Field(None, gt=0, allow_inf_nan=False)
    batch_size: int = Field(100, ge=1)
    epochs: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**64)
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    threads: int | None = Field(None, ge=1, le=1024)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    step: Literal["compiled", "eager", "auto"] = "auto"

    def open_data(self, data: Any = None, like: tuple[Column, ...] | None = None) -> Source:
        """The data of the settings, or others, read as the settings say."""
        return open_source(
            self.data if data is None else data,
            allow_nan=self.allow_nan,
            image_size=self.resize,
            like=like,
        )

    @model_validator(mode="before")
    @classmethod
    def _fit_the_network(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Widths and activation that were left out are those that suit the kind of network."""
        usual = NETWORK_DEFAULTS.get(str(values.get("network", "mlp")), {})
        return values | {k: v for k, v in usual.items() if values.get(k) is None}


def as_option(name: str) -> str:
    """A setting as the command line spells it."""
    return f"--{name.replace('_', '-')}"


def check_settings(
    values: dict[str, Any], where: str | None = None, spell: Callable[[str], str] = as_option
) -> Settings:
    """Settings from names and values, or one sentence: UsageError, or ModelFileError for a file.

    `spell` turns the name of a setting into what the person has written.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = name_shortly(str(first["loc"][0]) if first["loc"] else "settings", 40)
        said = f"{first['msg'][0].lower()}{first['msg'][1:]}, found {shortly(first.get('input'))}"
        if where is not None:
            raise ModelFileError(f"{where}: {name}: {said}") from error
        raise UsageError(f"{spell(name)}: {said}") from error


def pick(table: dict[str, Any], name: str, option: str) -> Any:
    """The entry of a closed table; UsageError, listing what there is, for another name."""
    if name not in table:
        known = ", ".join(table)
        raise UsageError(f"{option} {name!r} is not known: choose one of {known}")
    return table[name]


def _gaussian(data: Dataset, settings: Settings) -> Family:
    if data.in_unit_interval:
        return Normal(LIKELIHOOD_MIN_VARIANCE, sigmoid_mean=True)
    return _real(math.prod(data.shape))


def _real(width: int) -> Family:
    """Real columns, each with one noise variance for all z, as in factor analysis.

    A variance that the decoder gives can follow single extreme cells, on which training diverges.
    """
    return Standardized(Normal(LIKELIHOOD_MIN_VARIANCE, noise_shape=(width,)), width)


def _full_gaussian(data: Dataset, settings: Settings) -> Family:
    return Standardized(MultivariateNormal(LIKELIHOOD_MIN_VARIANCE), math.prod(data.shape))


def _mixed(data: Dataset, settings: Settings) -> Family:
    """One family for all columns of a kind; classes are of a kind where they are as many."""
    if not data.source.columns:
        raise UsageError(
            "--likelihood mixed needs a table whose columns are of several kinds: choose auto"
        )
    groups: dict[tuple[str, int], list[int]] = {}
    for i, column in enumerate(data.source.columns):
        groups.setdefault((column.kind, len(column.levels)), []).append(i)
    made: dict[str, Callable[[int, int], Family]] = {
        "real": lambda width, levels: _real(width),
        "count": lambda width, levels: NegativeBinomial(),
        "binary": lambda width, levels: Bernoulli(),
        "category": lambda width, levels: Categorical(levels),
    }
    families = [made[kind](len(group), levels) for (kind, levels), group in groups.items()]
    return Columns(families, list(groups.values()))


def _categorical(data: Dataset, settings: Settings) -> Family:
    if settings.classes:
        return Categorical(settings.classes)
    largest = max(x.nan_to_num(nan=0.0).max() for _, x in data.train.chunks(10_000))
    return Categorical(int(largest) + 1)


LIKELIHOODS: dict[str, Callable[[Dataset, Settings], Family]] = {
    "bernoulli": lambda data, settings: Bernoulli(),
    "continuous-bernoulli": lambda data, settings: ContinuousBernoulli(),
    "gaussian": _gaussian,
    "full-gaussian": _full_gaussian,
    "categorical": _categorical,
    "poisson": lambda data, settings: Poisson(),
    "negative-binomial": lambda data, settings: NegativeBinomial(),
    "mixed": _mixed,
}
PRIORS: dict[str, Callable[[int], Unconditional]] = {"standard-normal": standard_normal}
POSTERIORS = ("mean-field", "full-covariance", "per-datum")


def build(settings: Settings, data: Dataset) -> tuple[Model, Posterior]:
    """The model and posterior that the settings name, sized and started for the data.

    Weights are drawn from (seed, INITIALIZATION); the decoder's last bias starts at the marginals
    of the training rows.
    Errors: UsageError for unknown names; DataError for data outside the likelihood's domain.
    """
    if not data.is_image and settings.network == "convolutional":
        raise UsageError("--network convolutional needs images: the data are a table, choose mlp")
    pick(dict.fromkeys(POSTERIORS), settings.posterior, "--posterior")
    pick(ACTIVATIONS, settings.activation, "--activation")
    prior = pick(PRIORS, settings.prior, "--prior")(settings.latent_dim)
    family: Family = pick(LIKELIHOODS, settings.likelihood, "--likelihood")(data, settings)
    if data.source.missing:
        family = Masked(family)
    word = generator(settings.seed, Stream.INITIALIZATION).integers(2**63)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(word))
        decoder = _decoder(settings, data, family)
        posterior = _posterior(settings, data)
    model = Model(prior, Conditional(decoder, family))
    first = data.train.take(_spread(len(data.train), ROWS_FOR_START))
    family.fit(first)
    for part in posterior.modules():
        if isinstance(part, Standardizer):
            part.fit(first)
    model.likelihood.start_at(first)  # type: ignore[operator]
    # Parameters are float32 where products are in bfloat16.
    dtype = torch.float64 if settings.precision == "float64" else torch.float32
    return model.to(dtype), posterior.to(dtype)


def check_domain(model: Model, data: Dataset) -> None:
    """Hold every row of the data to the likelihood: DataError at the first cell outside its domain.

    They are read again only where what was seen when they were opened does not settle it.
    A column whose values differ by less than 32 bits can tell is refused too.
    """
    _check_resolution(data)
    family = model.family
    # What was binarized lies in {0, 1} by construction, and in every discrete domain.
    if family is None or data.train.binarize is not Binarization.NONE or _fits(family, data):
        return
    everything = replace(data.train, index=np.arange(len(data.source.values)), kept=None)
    for positions, x in everything.chunks(max(1, 10_000_000 // everything.width)):
        try:
            family.check(x, int(positions[0]) + 1)
        except DataError as error:
            raise DataError(f"{data.name}: {error}") from error


def _fits(family: Family, data: Dataset) -> bool:
    """Whether the extremes of the columns lie in the domain, and with them all that they bound.

    That is so since every domain is, for each cell, an interval or the whole numbers in one.
    """
    if data.source.extremes is None:
        return False
    x = torch.from_numpy(data.source.extremes.reshape(3, -1)) * data.train.scale
    if data.source.missing:
        x = torch.cat([x, torch.full_like(x[:1], torch.nan)])
    return bool(family.inside(x).all())


def _check_resolution(data: Dataset) -> None:
    """DataError for a column that differs so little, beside its size, that rounding blurs it."""
    values = data.train.values
    if values.dtype.itemsize < 4 or values.dtype == np.float32:
        return  # nothing is rounded
    most = max(10, min(ROWS_FOR_START, CELLS_LOOKED_AT // data.train.width))
    some = data.train.index[_spread(len(data.train), most)]
    x = np.asarray(rows_of(values, some), np.float64).reshape(len(some), -1)
    low, high = np.fmin.reduce(x), np.fmax.reduce(x)  # of what was observed
    middle, spread = (low + high) / 2, high - low
    blurred = (spread > 0) & (np.abs(middle) > MOST_OFFSET * spread)
    if blurred.any():
        i = int(np.argmax(blurred))
        raise DataError(
            f"{data.name}, column {i + 1}: values near {middle[i]:.9g} differ by {spread[i]:.3g} "
            "only, which rounding to 32 bits would blur: subtract an offset from the column"
        )


def learner(settings: Settings, model: Model, posterior: Posterior, rows: int) -> AEVB:
    """The algorithm with its objective and optimizer, for so many training rows."""
    objective: Objective = pick(OBJECTIVES, settings.objective, "--objective")
    if settings.free_bits:
        if settings.objective != "elbo-b":
            raise UsageError(
                "--free-bits needs --objective elbo-b: it bounds KL(q || p) from below"
            )
        objective = free_bits(settings.free_bits)
    optimizer: Callable[..., Optimizer] = pick(OPTIMIZERS, settings.optimizer, "--optimizer")
    return AEVB(
        model,
        posterior,
        objective,
        optimizer() if settings.lr is None else optimizer(learning_rate=settings.lr),
        weight_prior_rows=rows if settings.weight_prior == "normal" else None,
        clip=settings.clip,
        compiled=settings.step == "compiled",
        precision="bfloat16" if settings.precision == "bfloat16" else "float32",
    )


def pick_schedule(settings: Settings) -> Schedule:
    """The learning-rate schedule that the settings name."""
    schedule: Schedule = pick(SCHEDULES, settings.lr_schedule, "--lr-schedule")
    return schedule


def _decoder(settings: Settings, data: Dataset, family: Family) -> nn.Module:
    width = math.prod(data.shape)
    outputs, activation = family.outputs(width), ACTIVATIONS[settings.activation]
    backwards = settings.hidden[::-1]
    if settings.network == "mlp":
        return MLP(settings.latent_dim, backwards, outputs, activation)
    if outputs % width:
        raise UsageError(
            f"--network convolutional cannot give the {outputs} numbers of --likelihood "
            f"{settings.likelihood}: choose mlp"
        )
    return ConvolutionalDecoder(
        settings.latent_dim, settings.hidden, data.shape, outputs // width, activation
    )


def _posterior(settings: Settings, data: Dataset) -> Posterior:
    size = settings.latent_dim
    if settings.posterior == "per-datum":
        return per_datum(len(data.train), size)
    full = settings.posterior == "full-covariance"
    family = MultivariateNormal() if full else Normal()
    outputs, activation = family.outputs(size), ACTIVATIONS[settings.activation]
    missing = data.source.missing > 0
    network: nn.Module
    if settings.network == "mlp":
        width = math.prod(data.shape)
        network = MLP(width * (1 + missing), settings.hidden, outputs, activation)
        network = ObservedInput(network) if missing else network
        if not data.in_unit_interval:
            network = StandardizedInput(network, width)
    else:
        image_shape = (data.shape[0] * (1 + missing), *data.shape[1:])
        network = ConvolutionalEncoder(image_shape, settings.hidden, outputs, activation)
        network = ObservedInput(network) if missing else network
    return full_covariance(network) if full else mean_field(network)


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` positions spread evenly over n."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
