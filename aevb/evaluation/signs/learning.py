"""Signs of how a model was trained: by heart, too short, with an unfinished warm-up."""

import math

import numpy as np
from numpy.typing import NDArray

from aevb.errors import DataError
from aevb.evaluation.case import Case
from aevb.evaluation.findings import Finding, Skipped
from aevb.evaluation.signs.latents import ERRORS

LEARNED_BY_HEART = 0.08
STILL_RISING, LAST, LEAST_RISE = 0.1, 0.1, 0.5
FEW_EPOCHS = 10


def warming(case: Case) -> Finding | None:
    """The model that was kept is of a step within the warm-up of the divergence."""
    if case.kept is None:
        raise Skipped("no history is known")
    steps, t = int(case.settings.get("warmup_steps", 0)), case.kept.get("t", 0)
    if t >= steps:
        return None
    return Finding(
        "warm-up-unfinished",
        f"The model that was kept is of step {t}, and the divergence has its full weight at step "
        f"{steps} only: it was trained with {100 * t / steps:.0f} % of it.",
        t / steps,
        f"Train with --warmup-steps {t // 2}.",
    )


def overfitted(case: Case) -> Finding | None:
    """The bound on training rows lies above that on held-out rows, by more than 3 standard errors
    and more than 8 % of what the model has learned beyond independent columns.

    Compared are the two with the same estimator now, or as they were at the epoch that was kept,
    on all rows: where the error is smaller.
    """
    train, held_out, error, where = min(_gaps(case), key=lambda gap: gap[2])
    gap = train - held_out
    learned = max(held_out - case.independent, 0.0)
    if not gap > max(ERRORS * error, LEARNED_BY_HEART * learned):
        return None
    return Finding(
        "over-fitting",
        f"The bound on training rows ({train:.2f} nats) lies {gap:.2f} ± {error:.2f} nats above "
        f"that on {where} ({held_out:.2f}): the model has learned training rows by heart.",
        gap,
        _to_generalize(case),
    )


def _gaps(case: Case) -> list[tuple[float, float, float, str]]:
    """(bound on training rows, bound on others, error of the difference, which others)."""
    seen, unseen = case.evidence_on_train.elbo, case.evidence.elbo
    error = math.hypot(seen.standard_error, unseen.standard_error)
    found = [(seen.mean, unseen.mean, error, "held-out rows")]
    kept, counts = case.kept, case.counts
    scored = kept and kept.get("validation") and kept["train"]["elbo"] is not None
    if kept and scored and counts.get("train") and counts.get("validation"):
        per_row = math.sqrt(1 / counts["train"] + 1 / counts["validation"])
        # An epoch's bound has one draw for each row, whose noise K samples have averaged away.
        noise = (unseen.samples - 1) * float(np.square(unseen.errors).mean())
        with np.errstate(invalid="ignore"):  # a datum may have no density
            error = math.sqrt(float(np.var(unseen.values)) + noise) * per_row
        bounds = kept["train"]["elbo"], kept["validation"]["elbo"]
        found.append((*bounds, error, "validation rows"))
    return found


def _to_generalize(case: Case) -> str:
    if case.settings.get("weight_prior", "none") == "none":
        return "Train with --weight-prior normal, which keeps weights small."
    hidden = case.settings.get("hidden") or (500,)
    fewer = ",".join(str(max(1, int(width) // 2)) for width in hidden)
    return f"Train with fewer units, --hidden {fewer}."


def unfinished(case: Case) -> Finding | None:
    """In the last tenth of the steps the bound rose by half a nat, by a tenth of all that the model
    has learned, and by three times what it jumps from epoch to epoch.

    The learning rate falls to 0 in most runs, and the bound with it comes to rest: so the last
    tenth is that of the sum of the rates over the steps, and not of their number. What was learned
    is counted from independent columns, where there are rows, and else from the first epoch.
    """
    part = "validation" if case.history and case.history[-1].get("validation") else "train"
    measured = [record for record in case.history if record.get(part)]
    records = [record for record in measured if record[part]["elbo"] is not None]
    bounds = np.array([float(record[part]["elbo"]) for record in records])
    if len(bounds) < 3:
        raise Skipped("fewer than 3 epochs with a bound are known")
    rates = np.array([float(record.get("learning_rate_factor", 1.0)) for record in records])
    over = np.cumsum(rates) / max(float(rates.sum()), 1e-12)
    rise = float(bounds[-1] - np.interp(1 - LAST, over, bounds))
    least = max(LEAST_RISE, STILL_RISING * _learned(case, bounds), ERRORS * _jumps(bounds))
    if not rise > least:
        return None
    epochs = int((over > 1 - LAST).sum())
    return Finding(
        "under-training",
        f"The {part} bound was still rising when training ended: by {rise:.2f} nats in the last "
        f"{epochs} of {len(bounds)} epochs, a tenth of all that was stepped.",
        rise,
        f"Train with --epochs {2 * len(bounds)}.",
    )


def _learned(case: Case, bounds: NDArray[np.float64]) -> float:
    """What the model has learned, in nats."""
    rise = float(bounds.max() - bounds[0])
    try:
        return max(float(bounds.max()) - case.independent, rise)
    except (Skipped, DataError):
        return rise


def _jumps(bounds: NDArray[np.float64]) -> float:
    """The error of a difference of two bounds, by second differences, which know no slope.

    They have six times the variance of a value, a difference has twice. Of a few epochs nothing is
    known but their slope.
    """
    if len(bounds) < FEW_EPOCHS:
        return 0.0
    return float(np.sqrt(np.square(np.diff(bounds[len(bounds) // 2 :], 2)).mean() / 3))
