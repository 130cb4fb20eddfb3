"""The command that makes figures and tables of the literature anew: `reproduce`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aevb.cli.options import Json, Quiet
from aevb.cli.root import app, print_json, say


@app.command()
def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Which one [default: list them]."),
    ] = None,
    budget: Annotated[
        Literal["minute", "hour", "full"], typer.Option(help="About how long on two cores.")
    ] = "minute",
    out: Annotated[Path, typer.Option(help="Folder, with one for each NAME.")] = Path(
        "runs/reproduce"
    ),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="How many runs at once [default: the cores].")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each run.")] = 1,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a figure or table of the literature anew, and say whether what it shows holds.

    What is done is kept: the same command goes on where it was stopped.
    """
    from aevb.progress import bar
    from aevb.reproduce import How, budget_of, markdown, perform, reproduction

    if name is None:
        say(*_list(), json_)
        return
    found = reproduction(name)
    silent = quiet or json_
    with _told(silent), bar(name, quiet=silent) as progress:
        report = perform(found, budget_of(budget), out, How(jobs, threads), progress)
    if json_:
        print_json(report)
    else:
        print(markdown(report))
        print(f"\n{out / name / 'results.json'}   {out / name / 'figure.png'}")


def _list() -> tuple[dict[str, Any], str]:
    """What there is, as an object and in words."""
    from aevb.reproduce import NAMES, reproduction

    all_of_them = [reproduction(name) for name in NAMES]
    about = {
        r.name: {"title": r.title, "source": r.source, "data": list(r.data), **r.takes}
        for r in all_of_them
    }
    lines = [
        line
        for r in all_of_them
        for line in (
            f"{r.name}: {r.title} ({r.source}); data {', '.join(r.data)}",
            *(f"    {budget:<8}{takes}" for budget, takes in r.takes.items()),
        )
    ]
    return {"reproductions": about}, "\n".join(lines)


@contextmanager
def _told(silent: bool) -> Iterator[None]:
    """What each run comes to, on stderr."""
    from aevb.progress import sentences

    if silent:
        yield
        return
    with sentences(lambda text: print(text, file=sys.stderr)):
        yield
