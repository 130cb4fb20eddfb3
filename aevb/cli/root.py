"""The application that the commands join, and what they share: options, output, run folders."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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


Run = Annotated[Path, typer.Argument(help="A run folder that `aevb train` wrote.")]
RowsOf = Annotated[
    str | None,
    typer.Argument(metavar="[DATA]", help="A data set's name or a file [default: test rows]."),
]
Out = Annotated[Path | None, typer.Option(help="Where to write: .npy, .csv or .png.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="A line for every epoch, and why.")]
Refine = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=1000,
        help="Steps for each datum from what the encoder says [default: those of the run].",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads [default: the idle cores; 1 for a small model].")
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="Where it runs [auto: a GPU, where there is one and the work is large]."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="A random subset of so many rows.")]
AllowNan = Annotated[bool, typer.Option("--allow-nan", help="NaN is a cell that was not observed.")]
Resize = Annotated[
    str | None, typer.Option(metavar="HxW", help="Size for the images of a folder, like 28x28.")
]
Binarize = Literal["none", "threshold", "once", "epoch"]


def open_run(run: Path, threads: int | None = None) -> "RunFolder":
    """The run folder at a path, with so many threads."""
    import torch

    from aevb.storage import RunFolder

    torch.set_num_threads(threads or usable_threads(torch.get_num_threads(), PROCESS_START))
    return RunFolder(run).require()


def size_of(text: str | None) -> tuple[int, int] | None:
    """The size (height, width) that --resize names."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 0 < int(part) < 2**15 for part in parts):
        raise UsageError(
            f"--resize takes a height and a width in pixels, like 28x28; found {text!r}"
        )
    return int(parts[0]), int(parts[1])


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
