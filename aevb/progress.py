"""Progress for a person, on stderr: a bar where it is a terminal, now and then a line elsewhere."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from aevb.training import Callback, Silent

LINES = 10
"""How many lines a whole run writes where there is no terminal."""


class _Bar:
    """A bar with bound, reconstruction, divergence, rows per second and the time left."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
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
        self.progress.update(self.task, completed=t)

    def epoch(self, record: Mapping[str, Any]) -> None:
        following = min(record["epoch"] + 1, self.epochs)
        self.progress.update(
            self.task, metrics=summary(record), description=f"epoch {following}/{self.epochs}"
        )

    def say(self, sentence: str) -> None:
        self.progress.console.print(sentence, highlight=False, markup=False)


class _Lines:
    """A line for every tenth of the run."""

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None:
        self.epochs = total // steps_per_epoch
        self.every = max(1, self.epochs // LINES)

    def step(self, t: int) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] % self.every == 0 or record["epoch"] == self.epochs:
            print(f"epoch {record['epoch']}/{self.epochs}  {summary(record)}", file=sys.stderr)

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr)


def summary(record: Mapping[str, Any]) -> str:
    """An epoch in a line: validation figures where there are some, else those of training."""
    which = "validation" if record["validation"] else "train"
    parts = record[which]
    return (
        f"{which} bound {parts['elbo']:.2f}  reconstruction {parts['reconstruction']:.2f}  "
        f"KL {parts['kl']:.2f} nats  {record['rows_per_second']:,.0f} rows/s"
    )


@contextmanager
def follow(*, quiet: bool = False) -> Iterator[Callback]:
    """The callback that fits where stderr goes."""
    if quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield _Bar(progress)


@contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A plain bar for work that counts (done, total)."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
