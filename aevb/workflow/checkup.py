"""A run before the doctor: folder, history and settings made into a case, and what was found."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from aevb.data import Dataset, Rows
from aevb.evaluation.case import Case
from aevb.evaluation.doctor import examine, measured
from aevb.evaluation.findings import Examination
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.storage import RunFolder
from aevb.workflow.cards import line, row
from aevb.workflow.training import kept_record

ROWS = 1000
NO_DATA = (
    "The model was fitted in Python, on data that no file holds: only its parameters and its "
    "history were looked at; name DATA to look further."
)
NO_TRAINING_ROWS = (
    "The model was fitted in Python, on rows that no file holds: what compares with training rows "
    "was left out."
)


class Checkup(NamedTuple):
    """What the doctor found in a run, the figures, and a sentence on what was not looked at."""

    run: str
    examination: Examination
    measured: Mapping[str, Any]
    remark: str

    def as_dict(self) -> dict[str, Any]:
        """The findings and figures, ready for JSON."""
        return {
            "run": self.run,
            "healthy": self.examination.healthy,
            "findings": [finding.as_dict() for finding in self.examination.findings],
            "measured": dict(self.measured),
            "remark": self.remark or None,
            "left_out": list(self.examination.skipped),
        }

    def __str__(self) -> str:
        """The findings as a person reads them, one on a line, under the figures."""
        findings = self.examination.findings
        count = len(findings)
        whole = "nothing is wrong with what was looked at" if self.remark else "nothing is wrong"
        verdict = f"{count} finding{'s' if count > 1 else ''}" if count else whole
        lines = [f"{self.run}: {verdict}", *_figures(self.measured)]
        lines += [f"{finding.name}: {finding}" for finding in findings]
        return "\n".join([*lines, self.remark] if self.remark else lines)


def check_up(
    folder: RunFolder,
    data: str | None = None,
    *,
    limit: int | None = ROWS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Checkup:
    """Examine a run on its test rows, or on other data, beside as many of its training rows.

    Errors: those of the folder and of the data.
    """
    own = None if folder.in_memory else folder.dataset()
    rows = _rows(folder, own, data, limit)
    pair = folder.load() if rows is None else folder.load_for(rows)
    case = case_of(folder, *pair, own, rows, seed=seed, progress=progress, limit=limit)
    remark = NO_DATA if rows is None else NO_TRAINING_ROWS if own is None else ""
    return Checkup(str(folder.path), examine(case), measured(case), remark)


def case_of(
    folder: RunFolder,
    model: Model,
    posterior: Posterior,
    own: Dataset | None,
    rows: Rows | None,
    *,
    limit: int | None = ROWS,
    **more: Any,
) -> Case:
    """What a folder knows, as a case: of rows, their posterior, and the run's own data."""
    history = folder.history()
    learned = None
    if own is not None and rows is not None:
        train = own.train.limit(limit)
        learned = folder.load_for(train)[1], train
    counts = folder.data_facts().get("rows")
    return Case(
        model,
        posterior,
        rows,
        learned,
        all_train=None if own is None else own.train,
        history=history,
        kept=kept_record(history) if history else None,
        settings=asdict(folder.settings()),
        evaluated=folder.evaluation(),
        counts=counts if isinstance(counts, dict) else {},
        **more,
    )


def _rows(
    folder: RunFolder, own: Dataset | None, data: str | None, limit: int | None
) -> Rows | None:
    if data is not None:
        return folder.rows(data).limit(limit)
    return None if own is None else own.test.limit(limit)


def _figures(found: Mapping[str, Any]) -> list[str]:
    """The figures that most questions are about, a line each."""
    lines = []
    for name, key in (("held-out rows", "elbo"), ("training rows", "elbo_on_training_rows")):
        if (bound := found.get(key)) is not None:
            lines.append(line(f"bound on {name}", bound, f"nats, {bound['n']} rows"))
    if (said := found.get("mutual_information")) is not None:
        kl = "not finite" if said["kl"] is None else f"{said['kl']:.2f}"
        note = f"nats; KL(q || p) {kl}, no more than {said['cap']:.2f} can be seen"
        lines.append(row("what codes say, at least", said["lower"], note))
    if "active_units" in found:
        lines.append(f"{'active units':<28}{found['active_units']:>10} of {found['latent_dim']}")
    return lines
