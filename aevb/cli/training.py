"""The command that makes a model: `train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aevb.cli.options import Json, Quiet, takes_settings
from aevb.cli.root import app, print_json
from aevb.errors import UsageError
from aevb.settings import check_settings


@app.command()
@takes_settings()
def train(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="A data set's name, or a file [default: digits]."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder [default: runs/DATA, numbered].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line for every epoch, and why.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write RUN/tensorboard for TensorBoard.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Then evaluate, draw all, write RUN/report.html.")
    ] = False,
    **given: Any,
) -> None:
    """Train a model and write a run folder."""
    given |= {} if data is None else {"data": data}
    asked = check_settings(given)  # before anything heavy is waited for

    from aevb.following import require_tensorboard
    from aevb.progress import Verbosity, bar, follow
    from aevb.storage import RunFolder
    from aevb.workflow.training import fit, settle

    if resume and out is None:
        raise UsageError("--resume needs the folder of the run: name it with --out")
    if resume and out is not None and not out.exists() and data is None:
        raise UsageError(f"{out} does not exist: there is no run to resume, check the path")
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other: choose one")
    if tensorboard:
        require_tensorboard()  # before --force removes anything
    folder = RunFolder(_path(out, asked.data))
    silent = quiet or json_
    verbosity = Verbosity.VERBOSE if verbose else Verbosity.NORMAL
    with folder.locked():
        settings, resuming = settle(folder, asked, given, resume=resume, force=force)
        with follow(Verbosity.QUIET if silent else verbosity) as callbacks:
            result = fit(
                folder, settings, resume=resuming, callbacks=callbacks, tensorboard=tensorboard
            )
    if report:
        from aevb.workflow.reports import write_report

        with bar("evaluating", quiet=silent) as progress:
            result["report"] = str(write_report(folder, progress=progress))
    if json_:
        print_json(result)
    else:
        print(_in_words(folder.path, result))


def _in_words(path: Path, result: dict[str, Any]) -> str:
    """What a run came to, and what to do next."""
    last, best = result["train"], result["validation"] or {}
    name = "objective" if last["elbo"] is None else "elbo"
    said = {"objective": "mean log p(x, z)", "elbo": "training bound"}[name]
    epochs = f"{result['epochs']} epoch{'s' * (result['epochs'] != 1)}"
    first = f"{path}: {epochs}, {said} {last[name]:.2f} nats"
    first += f", validation bound {best['elbo']:.2f} nats" if best else ""
    following = f"next: aevb evaluate {path}   aevb plot {path} all   aevb report {path}"
    return f"{first}\n{result.get('report') or following}"


def _path(out: Path | None, data: str) -> Path:
    """The run's folder: runs/NAME where none is named, or runs/NAME-2, ... where that is taken."""
    from aevb.data.named import NAMES

    name, number = Path(data).resolve().stem, 1
    path = out or Path("runs") / name
    while out is None and path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    inside = path.resolve().is_relative_to(Path(data).resolve())
    if inside and Path(data).is_dir() and data not in NAMES:
        raise UsageError(f"{path} would lie in the folder of the data: name another with --out")
    return path
