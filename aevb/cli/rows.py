"""Commands on rows of data: `impute`, `denoise`, `score`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aevb.cli.codes import deliver
from aevb.cli.options import Json, Limit, Out, RowsOf, Run, Samples, Seed, to_file
from aevb.cli.root import app, open_run, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from aevb.workflow.scores import RowScores


@app.command()
def impute(
    run: Run,
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file with missing cells.")],
    method: Annotated[
        Literal["hmc", "importance"] | None,
        typer.Option(
            help="How z is inferred; importance is several times faster "
            "[default: hmc; importance for codes that are no free numbers]."
        ),
    ] = None,
    samples: Samples = 100,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Fill missing cells by their posterior mean.

    All others stay as they are in the file."""
    import numpy as np

    from aevb import imputation, plots
    from aevb.workflow.material import Material, with_holes
    from aevb.workflow.outputs import write_filled
    from aevb.workflow.pictures import draw_filled

    folder = open_run(run)
    rows = folder.rows(data, allow_nan=True)
    original = np.asarray(rows.values).reshape(len(rows), -1)
    missing = int(np.isnan(original).sum())
    model, posterior, holed = with_holes(folder, rows)
    filled = imputation.impute(model, posterior, holed, method=method, samples=samples, seed=seed)
    target = folder.path / "imputed.npy" if out is None else out
    if target.suffix == ".png":
        some = holed.pick(np.arange(min(len(rows), 20)))
        plots.save(draw_filled(Material(folder), some, filled[: len(some)]), target)
    else:
        in_units = filled / rows.scale
        write_filled(target, in_units, original, folder.columns, _file(data))
    line = f"{target}: {filled.shape[0]} x {filled.shape[1]}, {missing} missing cells filled"
    say({"out": str(target), "shape": list(filled.shape), "missing": missing}, line, json_)


def _file(data: str) -> Path | None:
    return Path(data) if Path(data).is_file() else None


@app.command()
def denoise(
    run: Run,
    data: RowsOf = None,
    samples: Samples = 100,
    out: Out = None,
    data_limit: Limit = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Infer what lies behind noisy rows.

    It is the mean of p(x | z), averaged over z given the row."""
    from aevb import imputation
    from aevb.workflow.material import Material, with_holes
    from aevb.workflow.pictures import draw_beside

    folder = open_run(run)
    rows = folder.rows(data, allow_nan=True).limit(data_limit)
    model, posterior, holed = with_holes(folder, rows)
    clean = imputation.denoise(model, posterior, holed, samples=samples, seed=seed)

    def picture() -> "Axes":
        return draw_beside(Material(folder), rows, clean, "denoised")

    deliver(folder, clean, out, "denoised.npy", json_, picture)


@app.command()
def score(
    run: Run,
    data: RowsOf = None,
    contamination: Annotated[
        float, typer.Option(help="Share of the training rows below the threshold.")
    ] = 0.05,
    samples: Samples = 100,
    out: Annotated[
        Path | None,
        to_file("Where to write: .csv or .npy [default: RUN/scores.csv].", ".csv", ".npy"),
    ] = None,
    data_limit: Limit = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Score rows by log p(x), and say which are improbable.

    What is improbable follows from the scores of training rows."""
    import numpy as np

    from aevb.workflow.outputs import write_array
    from aevb.workflow.scores import judge_rows

    folder = open_run(run)
    target = folder.path / "scores.csv" if out is None else out
    rows = folder.rows(data)
    numbers = np.arange(len(rows))
    if data_limit is not None:
        limited = rows.limit(data_limit)
        numbers = np.flatnonzero(np.isin(rows.index, limited.index))
        rows = limited
    found = judge_rows(folder, rows, contamination=contamination, samples=samples, seed=seed)
    table = np.column_stack([numbers + 1, found.values, found.below])
    write_array(target, table, ("row", "log_p", "below"))
    lowest = [
        {"row": int(numbers[k]) + 1, "log_p": _finite(found.values[k])} for k in found.lowest(5)
    ]
    report = {
        "out": str(target),
        "n": len(rows),
        "mean": _finite(found.values.mean()),
        "unit": "nats",
        "samples": samples,
        "threshold": found.threshold,
        "contamination": found.contamination,
        "below": int(found.below.sum()),
        "lowest": lowest,
    }
    say(report, _in_words(report, found, "test row" if data is None else "row"), json_)


def _finite(value: float) -> float | None:
    """JSON has no infinity: a row may be impossible."""
    return float(value) if math.isfinite(value) else None


def _in_words(report: dict[str, Any], found: "RowScores", row: str) -> str:
    """The scores in a few lines for a person."""
    mean = _decimal(report["mean"])
    lines = [f"{report['out']}: {report['n']} rows, log p(x) {mean} nats on average"]
    if found.threshold is None:
        lines.append("no threshold: the training rows are in no file")
    else:
        lines.append(
            f"rows below {found.threshold:.2f}, where {100 * found.contamination:.3g} % of the "
            f"training rows lie: {report['below']}"
        )
    named = ", ".join(f"{row} {low['row']} ({_decimal(low['log_p'])})" for low in report["lowest"])
    return "\n".join([*lines, f"lowest: {named}"])


def _decimal(value: float | None) -> str:
    return "-inf" if value is None else f"{value:.2f}"
