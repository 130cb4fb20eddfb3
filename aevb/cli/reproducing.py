"""The command that makes figures and tables of the literature anew: `reproduce`."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aevb.cli.options import Json, Quiet
from aevb.cli.root import app, print_json, say


@app.command()
def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Which one [default: list them]."),
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
    """Make a figure or table of the literature anew.

    It is said whether what it shows holds.

    What is done is kept: the same command goes on where it was stopped.
    """
    from aevb.progress import bar, sentences
    from aevb.reproduce import How, markdown, perform, reproduction

    if name is None:
        say(*_list(), json_)
        return
    found = reproduction(name)
    silent = quiet or json_
    with nullcontext() if silent else sentences(), bar(name, quiet=silent) as progress:
        report = perform(found, budget, out, How(jobs, threads), progress)
    if json_:
        print_json(report)
    else:
        print(markdown(report))
        print(f"\n{out / name / 'results.json'}   {out / name / 'figure.png'}")


def _list() -> tuple[dict[str, Any], str]:
    """What there is, as an object and in words."""
    from aevb.reproduce import NAMES, reproduction

    about, lines = dict[str, Any](), list[str]()
    for r in map(reproduction, NAMES):
        data = list(dict.fromkeys(job.settings["data"] for job in r.jobs("full")))
        about[r.NAME] = {"title": r.TITLE, "source": r.SOURCE, "data": data, **r.TAKES}
        lines.append(f"{r.NAME}: {r.TITLE} ({r.SOURCE}); data {', '.join(data)}")
        lines += [f"    {budget:<8}{takes}" for budget, takes in r.TAKES.items()]
    return {"reproductions": about}, "\n".join(lines)
