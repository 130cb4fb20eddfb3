"""What the commands do, as functions of a run folder: settle, fit, score, draw, describe.

The faces of the project (the command line, the page) parse and print; the work is here.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from aevb import codes, plots
from aevb.data import Dataset, Rows, open_source, split
from aevb.data.dataset import Binarization
from aevb.data.named import NAMES, summary
from aevb.distributions import Standardized
from aevb.errors import TrainingError, UsageError
from aevb.evaluation import diagnose, evidence
from aevb.following import Snapshots, TensorBoard
from aevb.model import Model
from aevb.posterior import PerDatum, Posterior
from aevb.storage import (
    RunFolder,
    Settings,
    build,
    check_domain,
    check_settings,
    facts_of,
    learner,
    pick_schedule,
)
from aevb.training import Callback, Plan, train, usual_epochs, worth_compiling, worth_threads

Array = NDArray[np.float64]
logger = logging.getLogger("aevb")

# -- training -------------------------------------------------------------------------------------


def settle(
    folder: RunFolder,
    options: Mapping[str, Any],
    explicit: set[str],
    *,
    resume: bool,
    force: bool,
) -> tuple[Settings, bool]:
    """The settings of a run and whether it resumes one: the folder's own where it does.

    Errors: UsageError where the folder holds a run and neither was asked for, where it holds files
    of something else that a run would overwrite, or where an explicit option differs from what the
    run was begun with.
    """
    if strangers := folder.strangers():
        raise UsageError(
            f"{folder.path} holds {', '.join(strangers)}, but no run: they would be overwritten, "
            "so move them away, or name another folder with --out"
        )
    asked = check_settings(dict(options) | {"data": _lasting(options["data"])})
    if not folder.exists:
        return asked, False
    if force:
        folder.clear()
        return asked, False
    if not resume:
        raise UsageError(
            f"{folder.path} holds a run already: add --resume to go on with it, --force to replace "
            "it, or name another folder with --out"
        )
    stored = folder.settings()
    for name in sorted(explicit):
        then, now = getattr(stored, name), getattr(asked, name)
        if now not in (then, "auto"):
            raise UsageError(
                f"--{name.replace('_', '-')} {now} differs from the {then} that {folder.path} was "
                "begun with: leave it out to resume, or start anew with --force"
            )
    return stored, True


def _lasting(data: str) -> str:
    """A name as it is, a path from the root: the run must find its data from any folder."""
    return data if data in NAMES or not Path(data).exists() else str(Path(data).resolve())


def resolve(settings: Settings) -> tuple[Settings, Dataset]:
    """Open the data, and settle what was left to them: binarization, likelihood and epochs.

    A Bernoulli gets binarized data; grey levels that stay grey get a Gaussian whose mean stays
    between 0 and 1.
    """
    source = settings.open_data()
    binarize, likelihood = settings.binarize, settings.likelihood
    if binarize is None:
        binarize = source.binarize if likelihood in ("auto", "bernoulli") else "none"  # type: ignore[assignment]
    if likelihood == "auto":
        if binarize != "none":
            likelihood = "bernoulli"
        elif source.likelihood == "bernoulli" and source.binarize != "none":
            likelihood = "gaussian"
        else:
            likelihood = source.likelihood
    data = split(source, Binarization(binarize), limit=settings.data_limit)
    epochs = settings.epochs or usual_epochs(len(data.train), settings.batch_size)
    settled = {"binarize": binarize, "likelihood": likelihood, "epochs": epochs}
    return settings.model_copy(update=settled), data


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


def fit(
    folder: RunFolder,
    settings: Settings,
    *,
    resume: bool,
    callbacks: Sequence[Callback] = (),
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train as the settings say, into the folder; returns what `aevb train --json` prints."""
    settings, data = (settings, folder.dataset()) if resume else resolve(settings)
    model, posterior = build(settings, data)
    check_domain(model, data)
    plan = plan_of(settings)
    algorithm = learner(settings, model, posterior, len(data.train))
    if settings.threads is None:
        many = worth_threads(algorithm, len(data.train), plan)
        settings = settings.model_copy(update={"threads": torch.get_num_threads() if many else 1})
    assert settings.threads is not None
    torch.set_num_threads(settings.threads)
    if settings.step == "auto":
        algorithm.compiled = worth_compiling(algorithm, len(data.train), plan)
        settings = settings.model_copy(
            update={"step": "compiled" if algorithm.compiled else "eager"}
        )
    logger.debug(
        f"threads: {settings.threads}; step: {settings.step} (by the sizes of model, batch and run "
        "where they were left open)"
    )
    if not resume:
        logger.info(
            f"{data.name}: {len(data.train)} training rows of shape {data.shape}, likelihood "
            f"{settings.likelihood} ({data.source.reason}), binarize {settings.binarize}"
        )
        folder.write_config(model, posterior, facts_of(settings, data))
    try:
        with ExitStack() as stack:
            followers = [*callbacks, _snapshots(folder, settings, data, model, posterior)]
            if tensorboard:
                rate = getattr(algorithm.optimizer, "learning_rate", 1.0)
                followers.append(stack.enter_context(_tensorboard(folder, settings, rate)))
            history = train(algorithm, data, plan, run=folder, resume=resume, callbacks=followers)
    except UsageError:
        if not resume and not folder.begun:  # then nothing is in the way of another try
            folder.clear()
        raise
    if settings.step == "compiled" and not algorithm.compiled:  # no compiler was found
        settings = settings.model_copy(update={"step": "eager"})
        folder.write_config(model, posterior, facts_of(settings, data))
    report = _report(folder, settings, history)
    folder.write_card(card(folder, report, None))
    return report


def _snapshots(
    folder: RunFolder, settings: Settings, data: Dataset, model: Model, posterior: Posterior
) -> Snapshots:
    # Free parameters exist for the training rows only.
    held_out = len(data.validation) > 0 and not isinstance(posterior, PerDatum)
    rows = data.validation if held_out else data.train
    return Snapshots(model, posterior, rows, folder.snapshots_folder, seed=settings.seed)


def _tensorboard(folder: RunFolder, settings: Settings, rate: float) -> TensorBoard:
    table = [f"| {name} | {value} |" for name, value in settings.model_dump().items()]
    return TensorBoard(
        folder.tensorboard,
        learning_rate=rate,
        about="\n".join(["| setting | value |", "|---|---|", *table]),
    )


def _report(folder: RunFolder, settings: Settings, history: list[dict[str, Any]]) -> dict[str, Any]:
    scored = [record for record in history if record["validation"] is not None]
    best = max(scored or history[-1:], key=lambda r: float((r["validation"] or r["train"])["elbo"]))
    speeds = [record["rows_per_second"] for record in history]
    return {
        "run": str(folder.path),
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "train": best["train"],
        "validation": best["validation"],
        "rows_per_second": float(np.median(speeds)),
        "overhead": float(np.median([record["overhead"] for record in history])),
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
        "seed": settings.seed,
        "step": settings.step,
        "likelihood": settings.likelihood,
        "binarize": settings.binarize,
    }


# -- evaluation -----------------------------------------------------------------------------------


def score(
    folder: RunFolder,
    *,
    method: str = "importance",
    samples: int = 1000,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], Array]:
    """Evaluate a run on one of its splits: the report for `--json`, and the value per datum."""
    data = folder.dataset()
    rows: Rows = getattr(data, split).limit(limit)
    model, posterior = folder.load_for(rows)
    result = evidence(
        model, posterior, rows, samples, seed=seed, data=f"{data.name} {split}", progress=progress
    )
    chosen = result.elbo if method == "elbo" else result.importance
    report = chosen.as_dict() | {
        "run": str(folder.path),
        "seed": seed,
        "elbo": result.elbo.as_dict(),
        "importance": result.importance.as_dict(),
        "reconstruction": float(result.reconstruction.mean()),
        "kl": float(result.kl.mean()),
        **diagnose(model, posterior, rows).as_dict(),
    }
    history = folder.history()
    if history:
        text = card(folder, _report(folder, folder.settings(), history), report)
        with suppress(TrainingError):  # a run that may be read but not written is evaluated too
            folder.write_card(text)
            folder.write_evaluation(report)
    return report, chosen.values


def evaluation_table(report: Mapping[str, Any]) -> str:
    """The report of `score` as lines for a person."""
    importance, elbo = report["importance"], report["elbo"]
    by_dimension = report["kl_per_dimension"]

    def line(name: str, value: float, error: float | None, note: str) -> str:
        spread = f" ± {error:.2f}" if error is not None else ""
        return f"{name:<28}{value:>10.2f}{spread:<8} {note}"

    monte_carlo = importance["monte_carlo_error"]
    lines = [
        f"{report['data']}, {report['n']} rows, binarize {report['binarize']}",
        line(
            "log p(x), at least",
            importance["mean"],
            importance["standard_error"],
            f"nats; importance, {report['samples']} samples, Monte-Carlo error "
            f"{'unknown' if monte_carlo is None else f'{monte_carlo:.3f}'}, "
            f"effective {importance['effective_sample_size']:.0f}",
        ),
        line("evidence lower bound", elbo["mean"], elbo["standard_error"], "nats"),
        line("  reconstruction", report["reconstruction"], None, "nats"),
        line("  KL(q || p)", report["kl"], None, "nats"),
        line("bits per dimension, at most", importance["bits_per_dimension"], None, "bits"),
        line("reconstruction error", report["reconstruction_error"], None, "squared, per datum"),
        f"{'active units':<28}{report['active_units']:>10} of {report['latent_dim']}",
    ]
    if by_dimension is not None:
        ranked = sorted(by_dimension, reverse=True)
        shown = " ".join(f"{value:.2f}" for value in ranked[:20])
        lines.append(f"{'KL by dimension':<28}{shown}{' ...' if len(ranked) > 20 else ''}")
    return "\n".join(lines)


def card(folder: RunFolder, trained: Mapping[str, Any], evaluated: Mapping[str, Any] | None) -> str:
    """The run's README: data, settings, numbers."""
    config = folder.config()
    facts, settings = config["data"], config["settings"]
    rows = facts["rows"]
    lines = [
        f"# A variational auto-encoder of {facts['name']}",
        "",
        f"Data: {facts['name']}, {rows['train']} training, {rows['validation']} validation and "
        f"{rows['test']} test rows of shape {tuple(facts['shape'])} (split: {facts['split']}); "
        f"binarize: {facts['binarize']}; fingerprint {facts['fingerprint']}.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in settings.items() if value is not None),
        "",
        f"Trained for {trained['epochs']} epochs; the model kept is that of epoch "
        f"{trained['best_epoch']}.",
        "",
        "| nats per datum | bound | reconstruction | KL |",
        "|---|---|---|---|",
    ]
    for name in ("train", "validation"):
        parts = trained[name]
        if parts is not None:
            lines.append(
                f"| {name} | {parts['elbo']:.3f} | {parts['reconstruction']:.3f} | "
                f"{parts['kl']:.3f} |"
            )
    if evaluated is not None:
        lines += ["", "```", evaluation_table(evaluated), "```"]
    return "\n".join(lines) + "\n"


# -- pictures -------------------------------------------------------------------------------------


def picture(folder: RunFolder, kind: str, target: Path, *, seed: int = 0) -> Path:
    """Draw one picture of a run; UsageError where the run has nothing such to show."""
    return plots.save(PICTURES[kind](folder, seed), target)


def pictures_of(folder: RunFolder) -> list[str]:
    """The names of the pictures that a run has: a manifold needs two latent dimensions."""
    model, _ = folder.load()
    return [kind for kind in PICTURES if kind != "manifold" or _is_planar(model)]


def draw_rows(folder: RunFolder, array: Array, target: Path, beside: Rows | None = None) -> Path:
    """Draw rows (N, X) as the pictures they are, beside the data they belong to if given."""
    model, _ = folder.load()
    if beside is None:
        return plots.save(_draw(model, array, folder.shape), target)
    return plots.save(_draw_beside(model, beside, array, folder.shape), target)


def _curve(folder: RunFolder, seed: int) -> Axes:
    return plots.learning_curve(folder.history())


def _reconstructions(folder: RunFolder, seed: int) -> Axes:
    data = folder.dataset()
    rows = data.test.limit(30)
    model, posterior = folder.load_for(rows)
    return _draw_beside(model, rows, codes.reconstruct(model, posterior, rows), data.shape)


def _samples(folder: RunFolder, seed: int) -> Axes:
    model, _ = folder.load()
    return _draw(model, codes.sample(model, 100, seed=seed), folder.shape)


def _manifold(folder: RunFolder, seed: int) -> Axes:
    model, _ = folder.load()
    if not _is_planar(model):
        raise UsageError("the manifold needs two latent dimensions: train with --latent-dim 2")
    return plots.manifold(lambda z: _in_deviations(model, codes.decode(model, z)), folder.shape)


def _is_planar(model: Model) -> bool:
    return bool(model.prior().event_shape[0] == 2)


def _latent(folder: RunFolder, seed: int) -> Axes:
    rows = folder.dataset().test.limit(5000)
    model, posterior = folder.load_for(rows)
    return plots.latent_scatter(codes.encode(model, posterior, rows), rows.labels)


PICTURES: dict[str, Callable[[RunFolder, int], Axes]] = {
    "curve": _curve,
    "reconstructions": _reconstructions,
    "samples": _samples,
    "manifold": _manifold,
    "latent": _latent,
}


def _draw(model: Model, array: Array, shape: tuple[int, ...]) -> Axes:
    ax = plots.samples(_shown(model, array, shape))
    if len(shape) < 3 and _standardized(model) is not None:
        ax.set_ylabel("deviations from the mean")
    return ax


def _draw_beside(model: Model, rows: Rows, array: Array, shape: tuple[int, ...]) -> Axes:
    data = rows.all().double().numpy()
    return plots.reconstructions(_shown(model, data, shape), _shown(model, array, shape))


def _shown(model: Model, array: Array, shape: tuple[int, ...]) -> Array:
    """Rows as images, held to [0, 1]; rows of a table in units that columns can share."""
    if len(shape) == 3:
        return array.reshape(-1, *shape).clip(0, 1)
    return _in_deviations(model, array)


def _in_deviations(model: Model, array: Array) -> Array:
    """Columns from their mean in deviations, where the model learned them so."""
    family = _standardized(model)
    if family is None:
        return array
    return family.standardize(torch.from_numpy(array)).double().numpy()


def _standardized(model: Model) -> Standardized | None:
    family = model.family
    return family if isinstance(family, Standardized) else None


# -- data -----------------------------------------------------------------------------------------


def data_table() -> list[dict[str, Any]]:
    """A row for each named data set."""
    return [_row(asdict(summary(name))) for name in NAMES]


def describe_data(name: str) -> dict[str, Any]:
    """Fetch a data set or read a file, and say what it is."""
    data = split(open_source(name))
    about = asdict(summary(name)) if name in NAMES else {}
    extra = {key: about[key] for key in ("citation", "licence", "note") if about.get(key)}
    return {
        "name": data.name,
        "rows": len(data.source.values),
        "shape": "x".join(map(str, data.shape)),
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "likelihood": data.source.likelihood,
        "reason": data.source.reason,
        "binarize": data.source.binarize,
        "mean": round(float(np.mean([x.double().mean() for _, x in data.train.chunks(10_000)])), 6),
        "fingerprint": data.source.fingerprint,
        **extra,
    }


def _row(facts: dict[str, Any]) -> dict[str, Any]:
    size = sum(size for _, size in facts["files"])
    return facts | {
        "shape": "x".join(map(str, facts["shape"])),
        "megabytes": math.ceil(size / 1e6),
    }
