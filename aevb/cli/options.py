"""Options that commands share; those of a run come from the table of settings, as they stand there.

What is typed is parsed here and held to its bounds there.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import typer

from aevb.errors import UsageError
from aevb.settings import Settings, as_option

_HINTS = get_type_hints(Settings, include_extras=True)


def meaning(name: str) -> str:
    """What a setting means."""
    return next(said for said in get_args(_HINTS[name]) if isinstance(said, str))


def to_file(said: str, *suffixes: str) -> Any:
    """The option of a file to write, whose ending is looked at before the work is done."""

    def check(option: typer.CallbackParam, path: Path | None) -> Path | None:
        if path is not None and path.suffix not in suffixes:
            *most, last = suffixes
            known = f"{', '.join(most)} or {last}" if most else last
            raise UsageError(f"{option.opts[0]} {path} must end in {known}")
        return path

    return typer.Option(help=said, callback=check)


Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that `aevb train` wrote.")]
RowsOf = Annotated[
    str | None,
    typer.Argument(metavar="DATA", help="A data set's name or a file [default: test rows]."),
]
Out = Annotated[
    Path | None,
    to_file(
        "Where to write: .npy, .csv or .png [default: a .npy in RUN]. Pictures in bytes are given "
        "in [0, 1], by impute in the units of the file.",
        *(".npy", ".csv", ".png"),
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.")]
Samples = Annotated[int, typer.Option(min=1, help="Draws of z for each row.")]
Refine = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=1000,
        help="Steps for each datum from what the encoder says [default: those of the run].",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help=meaning("seed"))]
Threads = Annotated[int | None, typer.Option(min=1, help=meaning("threads"))]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help=meaning("device"))]
Limit = Annotated[int | None, typer.Option(min=1, help=meaning("data_limit"))]
AllowNan = Annotated[bool, typer.Option("--allow-nan", help=meaning("allow_nan"))]
Resize = Annotated[str | None, typer.Option(metavar="HxW", help=meaning("resize"))]


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


def widths(text: str) -> tuple[int, ...]:
    """The whole numbers of --hidden."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(
            f"--hidden takes whole numbers with commas between, like 500 or 200,200; found {text!r}"
        ) from None


READ: dict[str, tuple[str, Callable[[str], Any]]] = {
    "hidden": ("N,N", widths),
    "resize": ("HxW", size_of),
}
"""How settings of several numbers are written, and read."""


Command = Callable[..., None]


def takes_settings(*names: str, **usual: Any) -> Callable[[Command], Command]:
    """Give a command that takes `**settings` an option for these of them, or for all but the data.

    It is called with what was given, or is `usual` here: a setting that was left out is not there.
    """
    names = names or tuple(field.name for field in fields(Settings) if field.name != "data")

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        first, *own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        parameters = [first, *(_option(name, usual) for name in names), *own]

        def called(**options: Any) -> None:
            left_out = [n for n in names if options[n] is None or options[n] is False]
            given = {name: value for name, value in options.items() if name not in left_out}
            given |= {k: read(given[k]) for k, (_, read) in READ.items() if k in given}
            command(**usual | given)

        called.__name__, called.__doc__ = command.__name__, command.__doc__
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return called

    return decorate


def _option(name: str, usual: Mapping[str, Any]) -> inspect.Parameter:
    """The option of a setting, which says what is usual where nothing is given."""
    kind, said = get_args(_HINTS[name])[0], meaning(name)
    if kind is bool:
        made = typer.Option(as_option(name), help=said)
        return inspect.Parameter(name, _KEYWORD, default=False, annotation=Annotated[bool, made])
    value = usual.get(name, getattr(Settings, name))
    if name in usual or (value is not None and "[" not in said):
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        said = f"{said.split(' [')[0].removesuffix('.')} [default: {text}]."
    metavar = READ[name][0] if name in READ else None
    made = typer.Option(help=said, metavar=metavar, show_default=False)
    kind = str if name in READ else kind
    annotation = Annotated[kind | None, made]  # type: ignore[valid-type]
    return inspect.Parameter(name, _KEYWORD, default=None, annotation=annotation)


_KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD
