"""A plan for training, and the work that it comes to: by which the step's form is decided.

T = epochs * ceil(N / M) steps;   operations of a step = 3 M (encode + S decode)
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from aevb.conditional import Averaged
from aevb.data import Rows
from aevb.devices import device_for
from aevb.errors import at_least
from aevb.evaluation import operations
from aevb.model import Model
from aevb.optimizers import Schedule, cosine
from aevb.posterior import Posterior
from aevb.products import has_bfloat16
from aevb.settings import Settings
from aevb.storage import pick_schedule

LARGE_STEP = 1e8
"""Operations from which the products are most of a step."""
SPEED_UNCOMPILED = {"cpu": (1.5e-3, 1.2e11), "cuda": (6e-3, 1e13)}
"""Of a step, about: seconds however small it is, and operations per second."""
SECONDS_WORTH_COMPILING = 15.0
"""Of an uncompiled run; a compilation takes about 10 where nothing is kept from an earlier one."""


@dataclass(frozen=True)
class Plan:
    """How long and in what portions to train.

        T = epochs ceil(N / M) steps;   weight of the divergence at step t: beta min(1, t / warm-up)

    `schedule` maps the share of the run that is over to a factor on the learning rate. `beta`
    weighs the divergence in the training objective, reached linearly over `warmup_steps`.
    `patience` epochs without a better validation bound stop the run.
    Units: `warmup_steps` in steps, `patience` in epochs.
    Errors: UsageError for numbers below 1, for a negative beta or warm-up; a warm-up that would not
    finish before training does is refused when the run starts.
    Source: Higgins et al. (2017), "beta-VAE", equation 4; Bowman et al. (2016), "Generating
    sentences from a continuous space", for the warm-up.
    Example:
        >>> plan = Plan(batch_size=100, beta=2.0, warmup_steps=4)
        >>> plan.steps_per_epoch(250), plan.temper(1), plan.temper(8)
        (3, 0.5, 2.0)
    """

    epochs: int = 100
    batch_size: int = 100
    samples: int = 1
    schedule: Schedule = cosine
    beta: float = 1.0
    warmup_steps: int = 0
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "samples", "patience"):
            value = getattr(self, name)
            if value is not None:
                at_least(1, value, name)
        for name in ("beta", "warmup_steps"):
            at_least(0, getattr(self, name), name)

    def steps_per_epoch(self, rows: int) -> int:
        """ceil(N / M): the last batch of an epoch may be smaller."""
        return math.ceil(rows / self.batch_size)

    def temper(self, t: int) -> float:
        """The weight of the divergence at step t = 1, 2, ...."""
        return self.beta * (min(1.0, t / self.warmup_steps) if self.warmup_steps else 1.0)


def usual_epochs(rows: int, batch_size: int) -> int:
    """Passes over the data that suit most models: about 4000 steps, of 100 to 400 epochs."""
    return min(400, max(100, math.ceil(4000 / math.ceil(rows / batch_size))))


@dataclass(frozen=True)
class Work:
    """What a run will compute: the floating-point operations of a step, and the number of steps.

        seconds = steps (least + operations / speed)

    How it is best computed follows from these sizes alone, never from the clock, so that a resumed
    run decides the same.
    Units: floating-point operations of products and convolutions; seconds.
    Example:
        >>> short, long = Work(operations=1e6, steps=100), Work(operations=1e9, steps=10_000)
        >>> short.worth_compiling, long.worth_compiling
        (False, True)
    """

    operations: float
    steps: int
    device: str = "cpu"
    parts: int = 1
    """How often the decoder stands in the graph of a step: it compiles so much more slowly."""

    @property
    def seconds(self) -> float:
        """What it would take uncompiled, about, on a usual processor or GPU."""
        least, rate = SPEED_UNCOMPILED[self.device]
        return self.steps * (least + self.operations / rate)

    @property
    def worth_compiling(self) -> bool:
        """Whether the run earns back the seconds that a first compilation takes."""
        return self.seconds > SECONDS_WORTH_COMPILING * self.parts

    @property
    def worth_threads(self) -> bool:
        """Whether a step is large enough for several threads: a small one they only slow down."""
        return self.operations > LARGE_STEP

    @property
    def precision(self) -> str:
        """bfloat16 where the device has it and products are most of a step, else float32."""
        large = self.operations > LARGE_STEP
        return "bfloat16" if large and has_bfloat16(self.device) else "float32"


def work_of(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    plan: Plan,
    device: str = "auto",
    passes: int = 1,
) -> Work:
    """The work of a plan on these rows, counted on one of them, and the device for it.

        operations of a step = 3 M (encode + S decode)

    A step is forward and backward: three times the operations of products and convolutions. One of
    a learner that makes several `passes` counts as so many. For `device` auto it is a GPU, where
    there is one and a step is large.
    Shapes: rows (N, X). Units: floating-point operations.
    Errors: UsageError where a GPU is asked for and there is none.
    Example:
        >>> import aevb
        >>> import numpy as np
        >>> model = Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [], 5)))
        >>> rows = Rows(np.zeros((3, 5)), np.arange(3), shape=(5,))
        >>> work_of(model, aevb.mean_field(aevb.MLP(5, [], 4)), rows, Plan(epochs=7)).steps
        7
    """
    encode, decode = operations(model, posterior, rows)
    if isinstance(model.likelihood, Averaged):  # a step is at one draw of the weights
        decode //= model.likelihood.draws
    by_row = encode + plan.samples * decode
    steps = passes * plan.epochs * plan.steps_per_epoch(len(rows))
    in_step = 3.0 * by_row * min(plan.batch_size, len(rows))
    parts = getattr(posterior, "decodings", 1)  # of anyone's make
    return Work(in_step, steps, device_for(device, in_step > LARGE_STEP), parts)


def plan_of(settings: Settings) -> Plan:
    """The part of the settings that the training loop obeys."""
    assert settings.epochs is not None
    return Plan(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        samples=settings.samples,
        schedule=pick_schedule(settings),
        beta=settings.beta,
        warmup_steps=settings.warmup_steps,
        patience=settings.patience,
        seed=settings.seed,
    )


def sized(settings: Settings, rows: int) -> Settings:
    """Batch size and epochs for so many rows, where they were left open.

    A learner that needs all rows in each step is given them.
    """
    size = settings.batch_size
    if settings.needs_all and size == Settings.batch_size:
        size = max(1, rows)
    return replace(settings, batch_size=size, epochs=settings.epochs or usual_epochs(rows, size))


def decided(settings: Settings, work: Work) -> Settings:
    """How steps run, where that was left open: the device, compiled or not, the precision."""
    step = "compiled" if work.worth_compiling else "eager"
    found: dict[str, Any] = {"device": work.device, "step": step, "precision": work.precision}
    left_open = [name for name in found if getattr(settings, name) == "auto"]
    return replace(settings, **{name: found[name] for name in left_open})
