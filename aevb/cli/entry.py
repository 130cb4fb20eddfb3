"""The entry point: every error becomes one sentence and an exit code."""

import os
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

import typer

from aevb.cli.root import app, print_json
from aevb.errors import AevbError, UsageError, shortly
from aevb.files import cache_folder


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; every error becomes one sentence and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    as_json = "--json" in given
    given = given or ["--help"]
    _keep_compiled_code()
    try:
        code = app(args=given, prog_name="aevb", standalone_mode=False)
        if code == 130:  # typer's answer to Ctrl-C, which says nothing
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(_fail(error, as_json))
    except KeyboardInterrupt:
        sys.exit(_fail(UsageError("interrupted"), as_json, 130))


def _keep_compiled_code() -> None:
    """Let torch's compiler keep its code where it lasts, unless it was told another folder."""
    with suppress(OSError, RuntimeError):  # there is no home: torch has a folder of its own
        folder = cache_folder() / "compiled"
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if os.access(there, os.W_OK):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _fail(error: Exception, as_json: bool, code: int | None = None) -> int:
    """Say the error in one sentence, on stderr or as JSON, and give its exit code."""
    if isinstance(error, AevbError):
        sentence, exit_code = str(error), error.exit_code
    elif isinstance(error, typer.TyperException):
        sentence = (
            " ".join(error.format_message().split()).replace(": Value error, ", ": ").rstrip(".")
        )
        for found in getattr(error.__cause__, "errors", list)():
            sentence += f", found {shortly(found['input'])}"
        exit_code = 2
    elif isinstance(error, BrokenPipeError):
        return 1
    else:
        said = str(error).strip().splitlines()
        sentence = (
            f"{type(error).__name__}: {said[0] if said else 'no message'} (--debug shows where)"
        )
        exit_code = 1
    exit_code = exit_code if code is None else code
    if as_json:
        print_json({"error": sentence, "exit_code": exit_code})
    else:
        print(f"aevb: {sentence}", file=sys.stderr)
    return exit_code
