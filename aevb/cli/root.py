"""The application that the commands join, and what they share: output, run folders."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aevb import __version__
from aevb.errors import UsageError
from aevb.machine import PROCESS_START, usable_threads

if TYPE_CHECKING:
    from aevb.storage import RunFolder

app = typer.Typer(
    name="aevb",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Every command takes --json, and --debug for a traceback on errors.",
)


@app.callback()
def version(
    show: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True)
    ] = False,
) -> None:
    """Fit variational auto-encoders, and know how good they are."""
    if show:
        print(f"aevb {__version__}")
        raise typer.Exit


def open_run(run: Path, threads: int | None = None) -> "RunFolder":
    """The run folder at a path, with so many threads."""
    import torch

    from aevb.storage import RunFolder

    torch.set_num_threads(threads or usable_threads(torch.get_num_threads(), PROCESS_START))
    return RunFolder(run).require()


def row_number(number: int, count: int) -> int:
    """The position of a row that is named by its number from 1."""
    if number > count:
        raise UsageError(f"row {number} was asked for, the data have {count} rows")
    return number - 1


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(value, allow_nan=False))


def say(value: dict[str, Any], line: str, json_: bool) -> None:
    """Print a result: as a JSON object, or as a line for a person."""
    if json_:
        print_json(value)
    else:
        print(line)
