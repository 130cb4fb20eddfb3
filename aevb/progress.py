"""Progress for a person, on stderr: a bar where it is a terminal, now and then a line elsewhere."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from aevb.training import Callback

LINES = 10
"""How many lines a whole run writes where there is no terminal."""


SECONDS_BETWEEN_MOVES = 0.1


class Verbosity(Enum):
    """How much is said on stderr beside errors; the level is the logger's."""

    QUIET = None
    NORMAL = logging.INFO
    VERBOSE = logging.DEBUG


class _Bar(Callback):
    """A bar with bound, reconstruction, divergence, rows per second and the time left."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.moved_at = 0.0
        self.task: TaskID = progress.add_task("", total=None, metrics="")

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None:
        self.epochs = total // steps_per_epoch
        self.progress.update(
            self.task,
            total=total,
            completed=done,
            metrics="",
            description=f"epoch {done // steps_per_epoch + 1}/{self.epochs}",
        )

    def step(self, t: int) -> None:
        if time.monotonic() - self.moved_at > SECONDS_BETWEEN_MOVES:  # a move costs as a small step
            self.moved_at = time.monotonic()
            self.progress.update(self.task, completed=t)

    def epoch(self, record: Mapping[str, Any]) -> None:
        following = min(record["epoch"] + 1, self.epochs)
        self.progress.update(
            self.task, metrics=summary(record), description=f"epoch {following}/{self.epochs}"
        )


class _Lines(Callback):
    """A line for every epoch, or for every tenth of the run."""

    def __init__(self, write: Callable[[str], None], every_epoch: bool) -> None:
        self.write, self.every_epoch = write, every_epoch

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None:
        self.epochs = total // steps_per_epoch
        self.every = 1 if self.every_epoch else math.ceil(self.epochs / LINES)

    def epoch(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] % self.every == 0 or record["epoch"] == self.epochs:
            text = details(record) if self.every_epoch else summary(record)
            self.write(f"epoch {record['epoch']}/{self.epochs}  {text}")


def summary(record: Mapping[str, Any]) -> str:
    """An epoch in a line: validation figures where there are some, else those of training."""
    which = "validation" if record["validation"] else "train"
    return f"{_parts(which, record)} nats  {record['rows_per_second']:,.0f} rows/s"


def details(record: Mapping[str, Any]) -> str:
    """All of an epoch in a line."""
    parts = [_parts(which, record) for which in ("train", "validation") if record[which]]
    return (
        f"{'  '.join(parts)} nats  {record['seconds']:.2f} s  "
        f"{record['rows_per_second']:,.0f} rows/s  overhead {record['overhead']:.1%}  "
        f"learning rate x {record['learning_rate_factor']:.3g}"
    )


def _parts(which: str, record: Mapping[str, Any]) -> str:
    parts = record[which]
    names = {"elbo": "bound", "reconstruction": "reconstruction", "kl": "KL"}
    if parts["elbo"] is None:
        names = {"objective": "objective"} | names
    known = [f"{said} {parts[k]:.2f}" for k, said in names.items() if parts[k] is not None]
    return f"{which} {'  '.join(known)}"


@contextmanager
def follow(verbosity: Verbosity = Verbosity.NORMAL) -> Iterator[Sequence[Callback]]:
    """The callbacks that fit where stderr goes; until the end the logger "aevb" is shown there."""
    if verbosity is Verbosity.QUIET:
        yield ()
        return
    every_epoch = verbosity is Verbosity.VERBOSE
    console = _terminal()
    if console is None:
        with sentences(_to_stderr, verbosity.value):
            yield (_Lines(_to_stderr, every_epoch),)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[metrics]}"),
        TimeRemainingColumn(),
    )

    def above(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    with Progress(*columns, console=console) as progress, sentences(above, verbosity.value):
        shown = _Bar(progress)
        yield (shown, _Lines(above, True)) if every_epoch else (shown,)


@contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A plain bar for work that counts (done, total)."""
    console = None if quiet else _terminal()
    if console is None:
        yield lambda done, total: None
        return
    with Progress(console=console) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _terminal() -> Console | None:
    """Stderr as a place for a bar, or None: a file, a pipe, or a terminal that cannot redraw."""
    console = Console(stderr=True)
    able = sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal
    return console if able else None


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


class _Sentences(logging.Handler):
    """Hands each message to a function."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self.write = write

    def emit(self, record: logging.LogRecord) -> None:
        self.write(record.getMessage())


@contextmanager
def sentences(
    write: Callable[[str], None] = _to_stderr, level: int = logging.INFO
) -> Iterator[None]:
    """The logger "aevb" shown from a level on, and then left as it was found."""
    logger, handler = logging.getLogger("aevb"), _Sentences(write)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
