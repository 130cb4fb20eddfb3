"""The report of a run: its numbers, what follows from them, its pictures, on one page."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from aevb import plots
from aevb.data import Column
from aevb.errors import UsageError
from aevb.evaluation import Asked
from aevb.evaluation.case import SAMPLES
from aevb.evaluation.chunks import Progress
from aevb.evaluation.doctor import examine
from aevb.files import write
from aevb.plots.style import in_figures
from aevb.report import Block, Note, Number, Picture, Section, Table, number, report
from aevb.settings import Settings, as_option, said_of
from aevb.storage import RunFolder, layer_sizes
from aevb.storage.run import REPORT
from aevb.workflow.material import Material
from aevb.workflow.pictures import KINDS, draw, draw_beside, pictures_of
from aevb.workflow.scores import RowScores, score
from aevb.workflow.training import kept_record

EVALUATION_ROWS = 1000
MOST_COLUMNS, MOST_UNUSUAL = 50, 10
UNUSUAL_CELLS = 6
CONTAMINATION = 0.05
"""The share of training rows below which a test row counts as unusual."""


def write_report(
    folder: RunFolder,
    target: Path | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write the report of a run as one HTML page, into its folder unless told otherwise.

    The last evaluation is told where it is of the weights that are there; else the run is evaluated
    on up to 1000 test rows with 1000 samples.
    Errors: UsageError for a name that does not end in .html or cannot be written.
    """
    target = folder.path / REPORT if target is None else target
    if target.suffix != ".html":
        raise UsageError(f"--out {target} must end in .html")
    write(target, report_of(Material(folder, seed, progress)).encode())
    return target


def report_of(material: Material) -> str:
    """The page for a run."""
    folder, settings = material.folder, material.folder.settings()
    facts = folder.data_facts()
    history = folder.history()
    evaluated, which = _evaluation(material) if material.in_file else (None, "")
    found = examine(material.case).findings
    warnings = [Note(str(finding), warning=True) for finding in found]
    sections = [
        Section("Numbers", [*_numbers(evaluated, which), *warnings]),
        Section("Data", _data(facts, settings, material)),
        *_training(history),
        *_diagnosis(material, evaluated),
        Section("Pictures", [_picture(material, kind) for kind in pictures_of(material)]),
        *_unusual(material),
        Section("Settings", [Table(_settings(settings), ("setting", "value"))]),
        Section("To reproduce it", _reproduction(material, settings)),
    ]
    name = Path(str(facts.get("name", settings.data))).name
    return report(f"A variational auto-encoder of {name}", sections, _summary(facts, settings))


def _summary(facts: Mapping[str, Any], settings: Settings) -> dict[str, object]:
    """What stands in the header."""
    return {
        "Training rows": _row_counts(facts).get("train"),
        "A row": " x ".join(map(str, _list(facts.get("shape")))),
        "Likelihood": settings.likelihood,
        "Latent dimensions": "/".join(map(str, layer_sizes(settings.latent_dim, settings.layers))),
        "Posterior": settings.posterior,
        "Prior": settings.prior,
    }


# -- numbers --------------------------------------------------------------------------------------


def _evaluation(material: Material) -> tuple[Mapping[str, Any], str]:
    """The last evaluation of these weights, or a new one, and a sentence on which it is."""
    kept = material.folder.evaluation()
    if kept is not None and kept.get("importance") and kept.get("elbo"):
        return kept, "The numbers are those of the last evaluation, by aevb evaluate or a report."
    asked = Asked(seed=material.seed)
    made, _ = score(material.folder, asked=asked, limit=EVALUATION_ROWS, progress=material.progress)
    rows = len(material.data.test)
    which = f"{rows}" if rows <= EVALUATION_ROWS else f"{EVALUATION_ROWS} of {rows}"
    return made, f"The run was evaluated for this report, on {which} test rows."


def _numbers(evaluated: Mapping[str, Any] | None, which: str) -> list[Block]:
    if evaluated is None:
        return [
            Note(
                "The model was fitted in Python, on data that no file holds: numbers and pictures "
                "that need them are left out."
            )
        ]
    shown: list[Number] = [number(evaluated[name]) for name in ("importance", "elbo")]
    return [*shown, Note(which)]


# -- data, training, diagnosis --------------------------------------------------------------------


def _data(facts: Mapping[str, Any], settings: Settings, material: Material) -> list[Block]:
    counts = _row_counts(facts)
    about: list[list[object]] = [
        ["name", facts.get("name")],
        ["kind", material.kind],
        ["rows", ", ".join(f"{counts[key]} {name}" for key, name in PARTS if counts.get(key))],
        ["split", facts.get("split")],
        ["shape of a row", " x ".join(map(str, _list(facts.get("shape"))))],
        ["likelihood", settings.likelihood],
        ["about the data", facts.get("likelihood_reason")],
        ["missing cells", facts.get("missing", 0)],
        ["binarization", facts.get("binarize")],
        ["fingerprint", facts.get("fingerprint")],
    ]
    blocks: list[Block] = [Table([row for row in about if row[1] not in (None, "")])]
    if material.columns:
        shown = [
            [str(k), column.name, column.kind, ", ".join(column.levels)]
            for k, column in enumerate(material.columns[:MOST_COLUMNS], start=1)
        ]
        blocks.append(Table(shown, COLUMN_HEADER))
        if len(material.columns) > MOST_COLUMNS:
            blocks.append(Note(f"The first {MOST_COLUMNS} of {len(material.columns)} columns."))
    return blocks


PARTS = (("train", "training"), ("validation", "validation"), ("test", "test"))
COLUMN_HEADER = ("column", "name", "kind", "texts")


def _training(history: list[dict[str, Any]]) -> Iterator[Section]:
    if not history:
        return
    kept = kept_record(history)
    rows = [
        [name, *(_rounded(parts[key]) for key in ("elbo", "reconstruction", "kl"))]
        for name in ("train", "validation")
        if (parts := kept[name]) is not None
    ]
    header = ("nats per datum", "bound", "reconstruction", "KL(q || p)")
    said = (
        f"{len(history)} epochs; the model kept is that of epoch {kept['epoch']}. The "
        "training bound is an average over the epoch, while the parameters change."
    )
    yield Section("Training", [Table(rows, header), Note(said)])


def _rounded(value: float | None) -> object:
    return "" if value is None else round(float(value), 3)


def _diagnosis(material: Material, evaluated: Mapping[str, Any] | None) -> Iterator[Section]:
    if evaluated is None:
        return
    found, importance = material.diagnosis, evaluated["importance"]
    effective = importance.get("effective_sample_size")
    facts: list[list[object]] = [
        ["active units", f"{found.active_units} of {material.latent_dim}"],
        ["effective samples of log p(x)", f"{_short(effective)} of {importance['samples']}"],
    ]
    if material.folder.settings().likelihood != "mixed":
        facts.append(
            ["reconstruction error, squared, per datum", _short(found.reconstruction_error)]
        )
    blocks: list[Block] = [Table(facts)]
    if found.kl_by_dimension is not None:
        variance = found.posterior_mean_variance
        by_dimension = [
            [f"z{k + 1}", round(float(found.kl_by_dimension[k]), 4), round(float(variance[k]), 4)]
            for k in material.ranked[:MOST_COLUMNS]
        ]
        header = ("dimension", "KL(q || p), nats", "variance of the posterior means")
        blocks.append(Table(by_dimension, header))
    yield Section("Latent dimensions", blocks)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "unknown"


# -- pictures, rows -------------------------------------------------------------------------------


def _picture(material: Material, kind: str) -> Block:
    """A picture, or why there is none: numbers that are not finite cannot be drawn."""
    try:
        drawn = draw(material, kind)
    except UsageError as error:
        return Note(f"{kind}: {error}")
    data = drawn if isinstance(drawn, bytes) else plots.png(drawn)
    caption = KINDS[kind].caption
    return Picture(data, caption, f"{kind}: {caption}")


def _unusual(material: Material) -> Iterator[Section]:
    """The test rows that the model finds least probable."""
    if not material.in_file:
        return
    usual = material.case.evidence_on_train.importance.values
    threshold = float(np.quantile(usual, CONTAMINATION))
    found = RowScores(material.case.evidence.importance.values, threshold, CONTAMINATION)
    lowest = found.lowest(MOST_UNUSUAL)
    rows = material.test.pick(lowest)
    extra = material.columns[:UNUSUAL_CELLS]
    array = material.rows(rows)
    table = [
        [
            str(int(k) + 1),
            str(int(number_in_data) + 1),
            _nats(found.values[k]),
            "yes" if found.below[k] else "no",
            *map(_cell, values, extra),
        ]
        for k, number_in_data, values in zip(lowest, rows.index, array, strict=True)
    ]
    header = ["test row", "row of the data", "log p(x), nats", "below"]
    header += [column.name or f"column {k}" for k, column in enumerate(extra, start=1)]
    said = (
        f"The lowest by log p(x), {SAMPLES} samples; {int(found.below.sum())} of "
        f"{len(found.values)} test rows lie below {in_figures(threshold)} nats, as do "
        f"{100 * CONTAMINATION:g} % of the training rows."
    )
    blocks: list[Block] = [Note(said), Table(table, header)]
    if material.kind != "table":
        again = material.decode(material.codes[lowest])
        drawn = draw_beside(material, rows, again, "reconstruction")
        caption = "These rows and their reconstructions, the least probable first."
        blocks.append(Picture(plots.png(drawn), caption, caption))
    yield Section("The most unusual rows", blocks)


def _nats(value: float) -> object:
    """A score in two decimals; a row may be impossible."""
    return round(float(value), 2) if np.isfinite(value) else "\N{MINUS SIGN}inf"


def _cell(value: float, column: Column) -> object:
    """A cell as its table has it, nothing where it was not observed."""
    if np.isnan(value):
        return None
    return column.levels[min(int(value), len(column.levels) - 1)] if column.levels else float(value)


# -- settings -------------------------------------------------------------------------------------


def _settings(settings: Settings) -> list[list[object]]:
    """Every setting that is not empty, tuples written as the command line takes them."""
    found = asdict(settings)
    return [[name, _spelled(name, value)] for name, value in found.items() if value is not None]


def _spelled(name: str, value: object) -> object:
    if isinstance(value, tuple):
        return ("x" if name == "resize" else ",").join(map(str, value))
    return value


def _reproduction(material: Material, settings: Settings) -> list[Block]:
    used = material.folder.config().get("used", {})
    versions = [[name, value] for name, value in used.items()] if isinstance(used, dict) else []
    if not material.in_file:
        return [Note("The model was fitted in Python, with these settings."), Table(versions)]
    return [
        Note(command_of(settings)),
        Note(
            "The same command gives the same bytes on the same machine with the same versions and "
            "threads."
        ),
        Table(versions),
    ]


def command_of(settings: Settings) -> str:
    """The command line that trains this run anew.

    Example:
        >>> from aevb.settings import check_settings
        >>> command_of(check_settings({"data": "digits", "hidden": (200,), "allow_nan": True}))
        'aevb train digits --hidden 200 --allow-nan'
    """
    words = ["aevb", "train", settings.data]
    for name, value in said_of(settings).items():
        words.append(as_option(name))
        if value is not True:
            words.append(str(_spelled(name, value)))
    return shlex.join(words)


def _row_counts(facts: Mapping[str, Any]) -> dict[str, Any]:
    rows = facts.get("rows")
    return rows if isinstance(rows, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
