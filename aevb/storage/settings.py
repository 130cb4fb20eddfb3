"""Settings: everything that a command can say of a run, named and checked once, kept as JSON."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aevb.data import Column, Source, open_source
from aevb.errors import ModelFileError, UsageError
from aevb.storage.files import name_shortly, shortly

# The paper has tanh; relu ends half a nat higher on static MNIST, at the same cost (README).
NETWORK_DEFAULTS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (500,), "activation": "relu"},
    "convolutional": {"hidden": (32, 64), "activation": "relu"},
    "linear": {"hidden": (), "activation": "relu"},
}


POSTERIOR_DEFAULTS = {"mean-field": "per-datum", "monte-carlo-em": "per-datum"}
"""By the algorithm; of others the encoder of the paper."""


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
    prior: str = "auto"
    layers: int = Field(1, ge=1, le=10)
    network: Literal["mlp", "convolutional", "linear"] = "mlp"
    latent_dim: int = Field(20, ge=1, le=10_000)
    components: int | None = Field(None, ge=1, le=10_000)
    covariance: Literal["full", "diagonal", "spherical"] | None = None
    latent_classes: int | None = Field(None, ge=2, le=10_000)
    hidden: tuple[int, ...]
    activation: str
    objective: str = "auto"
    gradient: str = "auto"
    baseline: str = "auto"
    temperature: float | None = Field(None, gt=0, allow_inf_nan=False)
    algorithm: str = "aevb"
    weight_draws: int = Field(10, ge=1, le=1000)
    refine: int | None = Field(None, ge=0, le=1000)
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

    @property
    def exact(self) -> bool:
        """Whether the model's posterior is exact: a mixture's, or that of a linear model by EM."""
        return self.components is not None or self.algorithm == "em"

    @model_validator(mode="before")
    @classmethod
    def _fit_the_rest(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What was left out suits the rest: widths the kind of network, posterior the algorithm."""
        usual = dict(NETWORK_DEFAULTS.get(str(values.get("network", "mlp")), {}))
        usual["posterior"] = POSTERIOR_DEFAULTS.get(str(values.get("algorithm")), "mean-field")
        if values.get("components") is not None or values.get("algorithm") == "em":
            usual["posterior"] = "exact"
        return values | {k: v for k, v in usual.items() if values.get(k) in (None, "auto")}


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
