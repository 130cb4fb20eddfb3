"""Numbers of a run on data: log p(x) with its certificate, and the rows that are improbable."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aevb.data import Rows
from aevb.devices import device_for
from aevb.errors import TrainingError, UsageError
from aevb.evaluation import diagnose, evidence, score_rows, worth_compiling
from aevb.storage import RunFolder
from aevb.storage.run import IN_MEMORY
from aevb.workflow.cards import card
from aevb.workflow.training import training_report

Array = NDArray[np.float64]
MOST_TRAINING_ROWS = 2000


def score(
    folder: RunFolder,
    *,
    method: str = "importance",
    samples: int = 1000,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], Array]:
    """Evaluate a run on one of its splits: the report for `--json`, and the value per datum."""
    data = folder.dataset()
    rows: Rows = getattr(data, split).limit(limit)
    model, posterior = folder.load_for(rows)
    long = worth_compiling(model, posterior, rows, samples)
    device = device_for(device, long)
    result = evidence(
        model.to(device),
        posterior.to(device),
        rows,
        samples,
        seed=seed,
        data=f"{data.name} {split}",
        precision=precision,
        compiled=long,
        progress=progress,
    )
    chosen = result.elbo if method == "elbo" else result.importance
    report = chosen.as_dict() | {
        "run": str(folder.path),
        "seed": seed,
        "elbo": result.elbo.as_dict(),
        "importance": result.importance.as_dict(),
        "reconstruction": float(result.reconstruction.mean()),
        "kl": float(result.kl.mean()),
        "kl_by": result.kl_by,
        **diagnose(model, posterior, rows).as_dict(),
    }
    history = folder.history()
    if history:
        text = card(folder, training_report(folder, folder.settings(), history), report)
        with suppress(TrainingError):  # a run that may be read but not written is evaluated too
            folder.write_card(text)
            folder.write_evaluation(report)
    return report, chosen.values


class RowScores(NamedTuple):
    """log p(x) of each row, (N,) nats, and the threshold below which a row is improbable.

    The threshold is None where the training rows are in no file.
    """

    values: Array
    threshold: float | None
    contamination: float

    @property
    def below(self) -> NDArray[np.bool_]:
        """Which rows lie below the threshold, (N,)."""
        return self.values < (-np.inf if self.threshold is None else self.threshold)

    def lowest(self, n: int) -> NDArray[np.int64]:
        """The positions of the n lowest rows, the lowest first."""
        return np.argsort(self.values, kind="stable")[:n]


def scores_of(folder: RunFolder, rows: Rows, *, samples: int = 100, seed: int = 0) -> Array:
    """log p(x) of each row in nats, (N,); in double precision, and so the same in any company."""
    model, posterior = folder.load_for(rows)
    return score_rows(model.double(), posterior.double(), rows, samples, seed=seed)


def judge_rows(
    folder: RunFolder,
    rows: Rows,
    *,
    contamination: float = 0.05,
    samples: int = 100,
    seed: int = 0,
) -> RowScores:
    """The scores of rows, held against those of up to 2000 training rows.

    The threshold is the quantile of the training rows' scores at `contamination`; the one of a
    detector that was fitted in Python is its own.
    Errors: UsageError for a contamination outside (0, 0.5], and those of `scores_of`.
    """
    if not 0 < contamination <= 0.5:
        raise UsageError(
            f"--contamination is the share of rows taken for outliers, in (0, 0.5], found "
            f"{contamination:g}"
        )
    values = scores_of(folder, rows, samples=samples, seed=seed)
    if folder.settings().data in IN_MEMORY:
        return RowScores(values, *_of_detector(folder, contamination))
    train = folder.dataset().train.limit(MOST_TRAINING_ROWS)
    usual = scores_of(folder, train, samples=samples, seed=seed)
    return RowScores(values, float(np.quantile(usual, contamination)), contamination)


def _of_detector(folder: RunFolder, contamination: float) -> tuple[float | None, float]:
    """The threshold that a detector kept, and its contamination."""
    facts = folder.config().get("detector")
    if not isinstance(facts, dict) or type(facts.get("offset")) is not float:
        return None, contamination
    return facts["offset"], float(facts.get("contamination", contamination))
