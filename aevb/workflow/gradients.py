"""Estimators of the gradient, compared on a run's own model and held-out rows."""

from collections.abc import Callable

from aevb.evaluation import Comparison, compare_gradients
from aevb.storage import RunFolder
from aevb.storage.gradients import TEMPERATURE


def measure_gradients(
    folder: RunFolder,
    *,
    limit: int,
    replicates: int,
    samples: int | None,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Every estimator that applies to a run, on up to `limit` of its test rows.

    The bound is that of the run, with as many samples unless others are asked for.
    Errors: those of the folder and of `compare_gradients`.
    """
    settings = folder.settings()
    rows = folder.dataset().test.limit(limit)
    return compare_gradients(
        *folder.load_for(rows),
        rows,
        bound="iwae" if settings.objective == "iwae" else "elbo",
        samples=settings.samples if samples is None else samples,
        replicates=replicates,
        temperature=settings.temperature or TEMPERATURE,
        seed=seed,
        progress=progress,
    )
