"""Training: the settings of a run settled, the data read, the model fitted into its folder."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aevb.data import Dataset, split
from aevb.data.dataset import Binarization
from aevb.data.named import NAMES
from aevb.devices import has_gpu
from aevb.errors import DataError, UsageError
from aevb.following import Snapshots, TensorBoard
from aevb.machine import PROCESS_START, usable_threads
from aevb.model import Model
from aevb.plan import Work, decided, plan_of, sized, work_of
from aevb.posterior import Posterior, has_rows
from aevb.settings import Settings, as_option
from aevb.storage import (
    RunFolder,
    build,
    check_domain,
    facts_of,
    has_closed_divergence,
    learner,
    passes_of,
    settle_latents,
)
from aevb.storage.settings import source_of
from aevb.training import Callback, train
from aevb.workflow.cards import card

logger = logging.getLogger("aevb")


def settle(
    folder: RunFolder,
    asked: Settings,
    given: Iterable[str],
    *,
    resume: bool,
    force: bool,
) -> tuple[Settings, bool]:
    """The settings of a run and whether it resumes one: the folder's own where it does.

    `given` names those settings of which something was said.

    Errors: UsageError where the folder holds a run and neither was asked for, where it holds files
    of something else that a run would overwrite, or where an option that was given differs from
    what the run was begun with.
    """
    if strangers := folder.strangers():
        raise UsageError(
            f"{folder.path} holds {', '.join(strangers)}, but no run: they would be overwritten, "
            "so move them away, or name another folder with --out"
        )
    asked = replace(asked, data=_lasting(asked.data))
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
    for name in sorted(given):
        then, now = getattr(stored, name), getattr(asked, name)
        if now not in (then, "auto"):
            raise UsageError(
                f"{as_option(name)} {now} differs from the {then} that {folder.path} was "
                "begun with: leave it out to resume, or start anew with --force"
            )
    if stored.device == "cuda" and not has_gpu():
        raise UsageError(
            f"{folder.path} was begun on a GPU, and torch finds none here: go on where there is "
            "one, or start anew with --force"
        )
    return stored, True


def _lasting(data: str) -> str:
    """A name as it is, a path from the root: the run must find its data from any folder."""
    return data if data in NAMES or not Path(data).exists() else str(Path(data).resolve())


def resolve(settings: Settings) -> tuple[Settings, Dataset]:
    """Open the data, and settle what was left to them: binarization, likelihood and epochs.

    A Bernoulli gets binarized data; grey levels that stay grey get a Gaussian
    whose mean stays between 0 and 1.
    """
    settings = settle_latents(settings)  # what makes no sense is refused before anything is read
    source = source_of(settings)
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
    settled = replace(settings, binarize=binarize, likelihood=likelihood)
    return sized(settled, len(data.train)), data


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
    passes = passes_of(settings)
    work = work_of(model, posterior, data.train, plan, settings.device, passes)
    settings = _decide(settings, work)
    assert settings.threads is not None
    torch.set_num_threads(settings.threads)
    modules = model.to(settings.device), posterior.to(settings.device)
    algorithm = learner(settings, *modules, len(data.train))
    if not resume:
        logger.info(data_line(settings, data))
        folder.write_config(model, posterior, facts_of(settings, data))
    try:
        with ExitStack() as stack:
            followers = [*callbacks]
            if algorithm.learns_posterior:  # else its codes would stay where they began
                followers.append(_snapshots(folder, settings, data, model, posterior))
            if tensorboard:
                rate = algorithm.lr
                followers.append(stack.enter_context(_tensorboard(folder, settings, rate)))
            history = train(algorithm, data, plan, run=folder, resume=resume, callbacks=followers)
    except (UsageError, DataError):
        if not resume and not folder.begun:  # then nothing is in the way of another try
            folder.clear()
        raise
    if settings.step == "compiled" and not algorithm.compiled:  # no compiler was found
        settings = replace(settings, step="eager")
        folder.write_config(model, posterior, facts_of(settings, data))
    report = training_report(folder, settings, history)
    folder.write_card(card(folder, report, None))
    return report


def _decide(settings: Settings, work: Work) -> Settings:
    """How the step runs, where that was left open: device, threads, compiled or not, precision."""
    most, threads = torch.get_num_threads(), settings.threads
    if threads is None:
        threads = usable_threads(most, PROCESS_START) if work.worth_threads else 1
        if work.worth_threads and threads < most:
            logger.info(f"other processes keep cores busy: {threads} of {most} threads are used")
    names = ("device", "threads", "step", "precision")
    free = [name for name in names if getattr(settings, name) in ("auto", None)]
    settings = replace(decided(settings, work), threads=threads)
    logger.debug(
        f"device: {settings.device}; threads: {settings.threads}; step: {settings.step}; "
        f"precision: {settings.precision}; what was left open of them "
        f"({', '.join(free) or 'nothing'}) is decided by the work ahead, {work.steps:,} steps of "
        f"{work.operations / 1e6:,.0f} million operations"
    )
    return settings


def kept_record(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The metrics of the epoch whose model was kept: of the best validation, or the last."""
    scored = [record for record in history if record["validation"] is not None]
    return max(scored, key=lambda r: float(r["validation"]["elbo"])) if scored else history[-1]


def data_line(settings: Settings, data: Dataset) -> str:
    """The data in a line: rows, likelihood, what was found of them and their missing cells."""
    source = data.source
    plain = settings.binarize == source.binarize == "none"
    other = plain and settings.likelihood != source.likelihood
    return (
        f"{data.name}: {len(data.train)} training rows of shape {data.shape} ({source.kind}), "
        f"likelihood {settings.likelihood} "
        f"({f'as asked; auto is {source.likelihood}: ' if other else ''}{source.reason}), "
        f"binarize {settings.binarize}"
    )


def _snapshots(
    folder: RunFolder, settings: Settings, data: Dataset, model: Model, posterior: Posterior
) -> Snapshots:
    # Free parameters exist for the training rows only.
    held_out = len(data.validation) > 0 and not has_rows(posterior)
    rows = data.validation if held_out else data.train
    return Snapshots(model, posterior, rows, folder.snapshots_folder, seed=settings.seed)


def _tensorboard(folder: RunFolder, settings: Settings, rate: float) -> TensorBoard:
    table = [f"| {name} | {value} |" for name, value in asdict(settings).items()]
    return TensorBoard(
        folder.tensorboard,
        lr=rate,
        about="\n".join(["| setting | value |", "|---|---|", *table]),
    )


def training_report(
    folder: RunFolder, settings: Settings, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """What `aevb train --json` prints: the numbers of the epoch that was kept, and speeds."""
    best = kept_record(history)
    speeds = [record["rows_per_second"] for record in history]
    return {
        "run": str(folder.path),
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "train": best["train"],
        "validation": best["validation"],
        "rows_per_second": float(np.median(speeds)),
        "overhead": float(np.median([record["overhead"] for record in history])),
        "device": settings.device,
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
        "seed": settings.seed,
        "objective": settings.objective,
        "gradient": settings.gradient,
        "kl_by": "closed form" if has_closed_divergence(settings) else "samples",
        "step": settings.step,
        "likelihood": settings.likelihood,
        "binarize": settings.binarize,
    }
