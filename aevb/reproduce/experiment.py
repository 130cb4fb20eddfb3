"""The experiments of Kingma & Welling (2013), section 5: their settings, and how one is run.

One hidden layer of tanh units in encoder and decoder; Adagrad on minibatches of M = 100 with L = 1
samples; all parameters from N(0, 0.01); a prior N(0, I) on the generative parameters, so that
learning is approximate MAP; the global step size from {0.01, 0.02, 0.1}, the one with the highest
bound on training rows after the first iterations. What the paper leaves open is fixed so:

    N(0, 0.01)      0.01 is the variance, as elsewhere in the paper: a deviation of 0.1
    grey pixels     a pixel of MNIST is drawn as a Bernoulli of its grey level, afresh at every
                    presentation; what is judged is one draw, always the same
    Frey Face       a Gaussian density of grey / 255, mean through a sigmoid, variance at least
                    1e-4; test rows are a random tenth of the frames
    first           the pilot runs of each step size, of a twentieth of the samples and at most
    iterations      500,000, from the same start and in the same order as the run itself
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aevb.algorithms import Learner
from aevb.conditional import Conditional, standard_normal
from aevb.data import Binarization, Dataset, Rows, open_source, split
from aevb.errors import TrainingError
from aevb.evaluation import bound_parts, posterior_for
from aevb.families import LIKELIHOOD_MIN_VARIANCE, Bernoulli, Family, Normal
from aevb.files import replace_atomically
from aevb.model import Model
from aevb.networks import MLP
from aevb.optimizers import constant
from aevb.plan import Plan, work_of
from aevb.posterior import PerDatum, Posterior, mean_field, per_datum
from aevb.randomness import Stream, generator, normal
from aevb.reproduce.jobs import Share
from aevb.reproduce.performing import Budget
from aevb.settings import check_settings
from aevb.storage import RunFolder, learner
from aevb.storage.files import npy_bytes, read_json, to_json
from aevb.training import Callback, train

BATCH, SAMPLES = 100, 1
STEP_SIZES = (0.01, 0.02, 0.1)
INITIAL_VARIANCE = 0.01
WITHOUT_ENCODER = ("monte-carlo-em",)
PILOT_SHARE, MOST_PILOT = 0.05, 500_000
LEAST_PRESENTED = 20_000
"""Samples between two looks at the clock: a small data set is presented several times over."""

STEPS_BETWEEN_SHARES = 100
PICTURES = "pictures.npy"
MNIST, FREY = "mnist", "frey-face"
TITLES = {MNIST: "MNIST", FREY: "Frey Face"}
HIDDEN = {MNIST: 500, FREY: 200}
ROWS = {MNIST: 50_000, FREY: None}
SIZES: dict[Budget, dict[str, Any]] = {
    "minute": {"samples": 40_000, "first": 2_000, "points": 6, "judged": 1_000},
    "hour": {"samples": 10_000_000, "first": 100_000, "points": 12, "judged": 10_000},
    "full": {"samples": 100_000_000, "first": 100_000, "points": 18, "judged": 10_000},
}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Experiment:
    """A run of section 5: `samples` training samples evaluated, on `rows` training rows.

    It is looked at `points` times, evenly in the log of the samples from `first` on, on at most
    `judged` test rows and as many of training. `binarize` None is what is usual for the data.
    """

    data: str
    latent_dim: int
    hidden: int
    samples: int
    first: int
    algorithm: str = "aevb"
    rows: int | None = None
    binarize: str | None = None
    judged: int = 10_000
    points: int = 12
    seed: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Experiment":
        """The experiment of a job, whose settings may say more."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})


Look = Callable[[Experiment, Model, Posterior, Dataset], dict[str, float]]
"""What is measured of a model at a moment of its training."""


def of_paper(data: str, latent_dim: int, budget: Budget, algorithm: str = "aevb") -> Experiment:
    """The experiment of figure 2, whose networks and learning are those of figures 4 and 5 too."""
    rows, size = ROWS[data], SIZES[budget]
    return Experiment(
        data, latent_dim, HIDDEN[data], algorithm=algorithm, rows=rows, binarize=None, **size
    )


def until(experiment: Experiment, samples: int) -> Experiment:
    """The experiment with so many samples, looked at when they are over."""
    return replace(experiment, samples=samples, first=samples, points=1)


@dataclass(frozen=True)
class Learned:
    """What a run left: its model and posterior, its data, and what was measured."""

    model: Model
    posterior: Posterior
    data: Dataset
    result: dict[str, Any]


def open_data(experiment: Experiment) -> Dataset:
    """The data of an experiment: its test rows, and so many rows for training."""
    binarize = None if experiment.binarize is None else Binarization(experiment.binarize)
    return split(open_source(experiment.data), binarize, limit=experiment.rows)


def build(experiment: Experiment, data: Dataset) -> tuple[Model, Posterior]:
    """Model and posterior with every parameter drawn from N(0, 0.01).

    Example:
        >>> experiment = Experiment("digits", 2, 8, 1000, 100)
        >>> model, posterior = build(experiment, open_data(experiment))
        >>> posterior(torch.zeros(3, 64)).event_shape
        torch.Size([2])
    """
    width, latent = data.train.width, experiment.latent_dim
    grey = data.train.binarize is Binarization.NONE and data.source.likelihood != "bernoulli"
    family: Family = Normal(LIKELIHOOD_MIN_VARIANCE, sigmoid_mean=True) if grey else Bernoulli()
    decoder = MLP(latent, [experiment.hidden], family.outputs(width))
    model = Model(standard_normal(latent), Conditional(decoder, family))
    posterior: Posterior = (
        per_datum(len(data.train), latent)
        if experiment.algorithm in WITHOUT_ENCODER
        else mean_field(MLP(width, [experiment.hidden], 2 * latent))
    )
    source = generator(experiment.seed, Stream.INITIALIZATION)
    with torch.no_grad():
        encoder = () if isinstance(posterior, PerDatum) else posterior.parameters()
        for p in (*model.parameters(), *encoder):
            p.copy_(math.sqrt(INITIAL_VARIANCE) * normal(source, p.shape))
    return model, posterior


def bounds(
    experiment: Experiment, model: Model, posterior: Posterior, data: Dataset
) -> dict[str, float]:
    """The bound on test rows and on as many training rows, one sample each, the same every time."""
    some = {"train": data.train, "test": data.test}
    return {
        name: bound_parts(model, posterior, judged(rows, experiment.judged), seed=experiment.seed)[
            "elbo"
        ]
        for name, rows in some.items()
    }


def learn(
    experiment: Experiment, folder: Path, share: Share, look: Look = bounds, part: float = 1.0
) -> Learned:
    """Choose the step size, run the experiment in the folder, or go on with it, and measure.

    The result has the `step_size`, the training bound of each `pilot`, and the `curve`: for each
    moment the `samples` evaluated and what `look` gives. Training is so large a `part` of the job.
    """
    data = open_data(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    rate, pilots = _step_size(experiment, data, folder / "pilot.json")
    model, posterior = build(experiment, data)
    curve = Curve(
        folder / "curve.json", experiment, lambda: look(experiment, model, posterior, data)
    )
    history = train(
        *_prepared(experiment, model, posterior, data, rate),
        run=RunFolder(folder),
        resume=True,
        callbacks=[curve, Told(share, part)],
    )
    result = {
        "step_size": rate,
        "pilot": {str(size): bound for size, bound in pilots.items()},
        "curve": curve.points,
        "training_rows": len(data.train),
        **times(history),
    }
    return Learned(model, posterior, data, result)


def times(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The seconds of a run, and rows per second of the steps alone, without what is measured."""
    own = [record["rows_per_second"] / (1 - record["overhead"]) for record in history]
    return {
        "rows_per_second": float(np.median(own)),
        "training_seconds": sum(record["seconds"] for record in history),
    }


def learn_and_show(
    settings: Mapping[str, Any], folder: Path, share: Share, show: Callable[[Model], Array]
) -> dict[str, Any]:
    """Run an experiment; what the model shows, (N, X), is kept beside its checkpoints."""
    learned = learn(Experiment.of(settings), folder, share)
    replace_atomically(folder / PICTURES, npy_bytes(show(learned.model).astype(np.float32)))
    return learned.result | {"shape": list(learned.data.shape)}


def shown(folder: Path) -> Array:
    """What a job has kept, (N, X)."""
    kept: Array = np.load(folder / PICTURES, allow_pickle=False).astype(np.float64)
    return kept


def judged(rows: Rows, most: int) -> Rows:
    """At most so many of the rows, as the model sees them outside training."""
    some = rows.limit(most)
    return some.keep_bits() if some.binarize is not Binarization.NONE else some


class Told(Callback):
    """Tells the share of the steps that are done, times the part that training is of the job."""

    def __init__(self, share: Share, part: float = 1.0) -> None:
        self.share, self.part, self.total = share, part, 1

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None:
        self.total = total

    def step(self, t: int) -> None:
        if t % STEPS_BETWEEN_SHARES == 0:
            self.share(self.part * t / self.total)


class Curve(Callback):
    """Measures at moments spaced evenly in the log of the samples, and keeps what it measured.

    The file is written at every moment, whole; a run that is resumed goes on with what was measured
    up to its checkpoint.
    """

    def __init__(
        self, path: Path, experiment: Experiment, measure: Callable[[], dict[str, float]]
    ) -> None:
        self.path, self.experiment, self.measure = path, experiment, measure
        self.points: list[dict[str, float]] = []
        self.due: set[int] = set()

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None:
        first = min(total, max(1, self.experiment.first // BATCH))
        moments = np.geomspace(first, total, self.experiment.points)
        self.due = {int(t) for t in np.unique(np.round(moments))}
        if self.path.exists():
            kept = read_json(self.path)["points"]
            self.points = [point for point in kept if point["samples"] <= done * BATCH]

    def step(self, t: int) -> None:
        if t in self.due:
            self.points.append({"samples": t * BATCH, **self.measure()})
            replace_atomically(self.path, to_json({"points": self.points}))


def _step_size(
    experiment: Experiment, data: Dataset, path: Path
) -> tuple[float, dict[float, float | None]]:
    """The step size with the highest training bound after the pilot, and the bound of each."""
    found: dict[float, float | None]
    if path.exists():
        found = {float(size): bound for size, bound in read_json(path).items()}
    else:
        found = {rate: _pilot(experiment, data, rate) for rate in STEP_SIZES}
        replace_atomically(path, to_json({str(rate): bound for rate, bound in found.items()}))
    finite = {rate: bound for rate, bound in found.items() if bound is not None}
    if not finite:
        raise TrainingError(f"learning diverged with each of the step sizes {STEP_SIZES}")
    return max(finite, key=lambda rate: finite[rate]), found


def _pilot(experiment: Experiment, data: Dataset, rate: float) -> float | None:
    """The bound on training rows after the first iterations; None where they diverged."""
    model, posterior = build(experiment, data)
    samples = min(MOST_PILOT, max(10 * BATCH, int(PILOT_SHARE * experiment.samples)))
    try:
        train(*_prepared(experiment, model, posterior, data, rate, samples))
    except TrainingError:
        return None
    rows = judged(data.train, experiment.judged)
    bound = bound_parts(model, posterior_for(model, posterior, rows), rows, seed=experiment.seed)[
        "elbo"
    ]
    return bound if math.isfinite(bound) else None


def _prepared(
    experiment: Experiment,
    model: Model,
    posterior: Posterior,
    data: Dataset,
    rate: float,
    samples: int | None = None,
) -> tuple[Learner, Dataset, Plan]:
    """What the training loop takes, for all samples of the experiment or for the first ones."""
    rows = _epoch(experiment, data, experiment.samples)
    whole = _plan(experiment, rows)
    worth = work_of(model, posterior, rows, whole, "cpu").worth_compiling
    if samples is not None:
        rows = _epoch(experiment, data, samples)
    settings = check_settings(
        {
            "algorithm": experiment.algorithm,
            "objective": "elbo-b",
            "optimizer": "adagrad",
            "lr": rate,
            "weight_prior": "normal",
            "precision": "float32",
            "step": "compiled" if worth else "eager",
        }
    )
    nothing = rows.pick(np.arange(0))  # is validated: what is judged is judged at other moments
    return (
        learner(settings, model, posterior, len(data.train)),
        replace(data, train=rows, validation=nothing),
        replace(whole, epochs=math.ceil((samples or experiment.samples) / len(rows))),
    )


def _epoch(experiment: Experiment, data: Dataset, samples: int) -> Rows:
    # A row that comes twice would have two chains.
    alone = experiment.algorithm in WITHOUT_ENCODER
    return data.train if alone else presented(data.train, samples)


def presented(rows: Rows, samples: int) -> Rows:
    """The rows of one epoch: all of them, several times over where they are few.

    Each as often as any other, and a whole number of minibatches; where `samples` are fewer, so
    many rows at random.
    Example:
        >>> rows = open_data(Experiment("digits", 2, 8, 1000, 100)).train
        >>> len(rows), len(presented(rows, 500)), len(presented(rows, 10**6)) % (100 * len(rows))
        (1437, 500, 0)
    """
    n = len(rows)
    if samples <= n:
        return rows.limit(samples)
    even = math.lcm(n, BATCH)
    copies = even * math.ceil(LEAST_PRESENTED / even) // n
    return rows.pick(np.tile(np.arange(n), min(copies, math.ceil(samples / n))))


def _plan(experiment: Experiment, rows: Rows) -> Plan:
    epochs = math.ceil(experiment.samples / len(rows))
    return Plan(epochs, BATCH, SAMPLES, constant, seed=experiment.seed)
