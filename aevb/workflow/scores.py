"""Numbers of a run on data: log p(x) with its certificate, and the rows that are improbable."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aevb.data import Rows
from aevb.devices import device_for
from aevb.errors import TrainingError, UsageError
from aevb.evaluation import (
    Asked,
    Evidence,
    check_methods,
    diagnose,
    estimate,
    score_rows,
    worth_compiling,
)
from aevb.evaluation.certificate import finite
from aevb.storage import RunFolder, Unfinished
from aevb.workflow.cards import card
from aevb.workflow.training import training_report

Array = NDArray[np.float64]
MOST_TRAINING_ROWS = 2000
USUAL = Asked()


def score(
    folder: RunFolder,
    methods: Sequence[str] = ("importance",),
    asked: Asked = USUAL,
    *,
    split: str = "test",
    limit: int | None = None,
    refine: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], Array]:
    """Evaluate a run on one of its splits: the report for `--json`, and the value per datum.

    With `refine` the posterior of each datum is refined by so many steps first; such numbers are
    not what the folder says of the run.
    Work that is stopped is kept in the folder, and taken up when the same is asked for again.
    """
    check_methods(methods)
    data = folder.dataset()
    rows: Rows = getattr(data, split).limit(limit)
    model, posterior = folder.load_for(rows, refine)
    samples = max(asked.samples_of(method) for method in methods)
    long = worth_compiling(model, posterior, rows, samples)
    device = device_for(device, long or set(methods) - {"importance", "elbo"} != set())
    asked = replace(asked, compiled=long)
    about = asdict(asked) | {"split": split, "limit": limit, "refine": refine, "device": device}

    def kept(method: str) -> Unfinished:
        return folder.unfinished({"method": method, "data": data.source.fingerprint, **about})

    found = estimate(
        *(model.to(device), posterior.to(device), rows, methods, asked),
        kept=kept,
        progress=progress,
    )
    first = found.certificates[0]
    report = first.as_dict() | {
        "run": str(folder.path),
        "seed": asked.seed,
        "refine": refine,
        "estimates": [certificate.as_dict() for certificate in found.certificates],
        "sandwiches": [sandwich.as_dict() for sandwich in found.sandwiches()],
        **_of_pass(found.evidence),
        **diagnose(model, posterior, rows).as_dict(),
    }
    if folder.settings().likelihood == "mixed":  # a sum over units that differ says little
        report["reconstruction_error"] = None
    if refine is None:
        _keep(folder, report)
    for method in methods:
        kept(method).remove()
    return report, first.values


def _of_pass(evidence: Evidence | None) -> dict[str, Any]:
    """What a pass of importance sampling says, where one was made."""
    if evidence is None:
        return {}
    return {
        "elbo": evidence.elbo.as_dict(),
        "importance": evidence.importance.as_dict(),
        "reconstruction": finite(float(evidence.reconstruction.mean())),
        "kl": finite(float(evidence.kl.mean())),
        "kl_by": evidence.kl_by,
    }


def _keep(folder: RunFolder, report: dict[str, Any]) -> None:
    """Write the report into the folder, beside what earlier ones said of the same weights."""
    history = folder.history()
    if history:
        text = card(folder, training_report(folder, folder.settings(), history), report)
        with suppress(TrainingError):  # a run that may be read but not written is evaluated too
            folder.write_card(text)
            folder.write_evaluation((folder.evaluation() or {}) | report)


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
    if folder.in_memory:
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
