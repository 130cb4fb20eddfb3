"""What can go wrong, each answered with one sentence and an exit code.

Every sentence says what was expected, where, what was found and what to do.
The command line prints it without a traceback and leaves with `exit_code`.
"""

from typing import Any, SupportsIndex


class AevbError(Exception):
    """A mistake that a person can mend; the message is one sentence for that person."""

    exit_code = 1


class TrainingError(AevbError, RuntimeError):
    """The run failed: a non-finite objective, a run folder in use, nothing to resume."""


class UsageError(AevbError, ValueError):
    """An option or an argument that cannot be obeyed, alone or beside another."""

    exit_code = 2


class DataError(AevbError, ValueError):
    """Data that cannot be read, or that lie outside the domain of the likelihood."""

    exit_code = 3


class ModelFileError(AevbError):
    """A run folder or weight file that is missing, damaged, unknown or refused."""

    exit_code = 4


class Interrupted(AevbError):
    """The run was asked to stop (SIGINT, SIGTERM) and has saved itself."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def at_least(least: int, found: float, what: str, *, whole: bool = False) -> None:
    """Refuse a number that is too small, or NaN; with `whole`, what is no whole number too.

    Errors: UsageError, in which `what` names the number.
    Example:
        >>> at_least(1, 0, "the number of samples")
        Traceback (most recent call last):
            ...
        aevb.errors.UsageError: the number of samples must be at least 1, found 0
    """
    if whole and not isinstance(found, SupportsIndex):
        raise UsageError(f"{what} must be a whole number, found {shortly(found)}")
    if not found >= least:
        raise UsageError(f"{what} must be at least {least}, found {found}")


def reason(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters; its type if it says nothing.

    Example:
        >>> reason(FileNotFoundError(2, "No such file or directory", "a.csv")), reason(KeyError())
        ('No such file or directory', 'KeyError')
    """
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    words = "".join(c if c.isprintable() else " " for c in said).split()
    return " ".join(words)[:200] or type(error).__name__


def shortly(value: Any, length: int = 80) -> str:
    """A value as it stands in a sentence: on one line, printable, cut.

    Example:
        >>> shortly([0.25, 0.5, 0.75, 1.0], 11)
        '[0.25, 0.5,...'
    """
    try:
        said = " ".join(ascii(value).split())
    except (RecursionError, ValueError):  # nested, or a whole number of too many digits
        said = type(value).__name__
    return said if len(said) <= length else f"{said[:length]}..."


def name_shortly(name: str, length: int = 100) -> str:
    """A name as it stands in a sentence: as it is, or as `shortly` has it where it is odd.

    Example:
        >>> print(name_shortly("rows.csv"), name_shortly("rows" + chr(7)))
        rows.csv 'rows\\x07'
    """
    return name if name.isprintable() and len(name) <= length else shortly(name, length)
