"""A figure or a table of the literature made anew: its jobs, what is expected, what was found.

OUT/NAME/results.json     settings, seeds, versions, seconds, numbers, expectations
OUT/NAME/figure.png       the picture
OUT/NAME/jobs/            what each job has done, kept for the next time
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from matplotlib.axes import Axes

from aevb import __version__
from aevb.data import open_source
from aevb.files import replace_atomically
from aevb.plots import save
from aevb.reproduce.jobs import USUAL, How, Job, run_all
from aevb.storage.files import to_json, writing

Budget = Literal["minute", "hour", "full"]
Results = Mapping[str, Mapping[str, Any]]
"""The result of each job by its name."""


@dataclass(frozen=True)
class Expectation:
    """What the literature says, as a sentence; whether it holds, or None where this budget is too
    small to tell; and the numbers behind it."""

    sentence: str
    holds: bool | None
    numbers: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The expectation, ready for JSON."""
        return {"expected": self.sentence, "holds": self.holds, "numbers": dict(self.numbers)}


class Reproduction(Protocol):
    """One figure or table, which is a module: what it is, and the four things it does.

    `jobs` gives those of a budget, `judge` what is expected of their results, `draw` the picture
    from the results and the folder of each job, `numbers_table` the numbers in Markdown.
    """

    NAME: str
    TITLE: str
    SOURCE: str
    TAKES: Mapping[Budget, str]

    def jobs(self, budget: Budget) -> list[Job]: ...
    def judge(self, results: Results) -> list[Expectation]: ...
    def draw(self, results: Results, places: Mapping[str, Path]) -> Axes: ...
    def numbers_table(self, results: Results) -> str: ...


def perform(
    reproduction: Reproduction,
    budget: Budget,
    out: Path,
    how: How = USUAL,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Do what is not done yet, judge and draw it, and return what is written to results.json.

    Errors: DataError where a data set is not here and cannot be had, before anything is done; those
    of `run_all`.
    """
    jobs = reproduction.jobs(budget)
    for name in sorted({job.settings["data"] for job in jobs}):
        open_source(name)  # or say in one sentence that it is not here
    folder = out / reproduction.NAME
    records = run_all(jobs, folder, how, progress)
    results = {name: record["result"] for name, record in records.items()}
    report = {
        "name": reproduction.NAME,
        "title": reproduction.TITLE,
        "source": reproduction.SOURCE,
        "budget": budget,
        "takes": reproduction.TAKES[budget],
        "versions": versions(),
        "threads": how.threads,
        "seconds": sum(map(seconds_of, records.values())),
        "expectations": [found.as_dict() for found in reproduction.judge(results)],
        "jobs": [records[job.name] for job in jobs],
        "table": reproduction.numbers_table(results),
    }
    places = {job.name: folder / "jobs" / job.key for job in jobs}
    save(reproduction.draw(results, places), folder / "figure.png")
    with writing(folder):
        replace_atomically(folder / "results.json", to_json(report))
    return report


def rises(sentence: str, numbers: Mapping[str, float], *, strictly: bool = True) -> Expectation:
    """The expectation that each number is above the one before it, or at least not below.

    Example:
        >>> rises("it rises", {"before": 1.0, "after": 2.0}).holds
        True
    """
    steps = np.diff(list(numbers.values()))
    return Expectation(sentence, bool(((steps > 0) if strictly else (steps >= 0)).all()), numbers)


def seconds_of(record: Mapping[str, Any]) -> float:
    """The seconds of a job, those of its steps at least: one that was stopped forgot the rest.

    Example:
        >>> seconds_of({"seconds": 5.0, "result": {"training_seconds": 60.0}})
        60.0
    """
    return max(float(record["seconds"]), float(record["result"].get("training_seconds", 0.0)))


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "aevb": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """What results.json says, as it stands on a page: the numbers, and what was expected of them.

    Example:
        >>> report = {"title": "A figure", "source": "a paper", "budget": "minute", "takes": "5",
        ...           "seconds": 4.0, "versions": {"aevb": "1"}, "table": "| a |\\n|---|\\n| 1 |",
        ...           "expectations": [{"expected": "a is 1", "holds": True, "numbers": {"a": 1}}]}
        >>> print(markdown(report).splitlines()[-1])
        | a is 1 | yes | a 1 |
    """
    made = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{report['title']} ({report['source']}), `--budget {report['budget']}` "
        f"({report['takes']}): its runs took {_duration(report['seconds'])} one after another, "
        f"{made}.",
        "",
        report["table"],
        "",
        table(
            ("expected", "holds", "numbers"),
            [
                (found["expected"], _verdict(found["holds"]), _numbers(found["numbers"]))
                for found in report["expectations"]
            ],
        ),
    ]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    Example:
        >>> print(table(["a", "b"], [["1", "2"]]))
        | a | b |
        |---|---|
        | 1 | 2 |
    """
    lines = [head, *rows]
    text = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def number(value: float | None) -> str:
    """A number as it stands in a table: nats to a hundredth, nothing where there is none.

    Example:
        >>> number(-101.2345), number(1234567.0), number(0.00123), number(None)
        ('-101.23', '1,234,567', '0.00123', '')
    """
    if value is None:
        return ""
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 and value != round(value) else f"{value:.3g}"


def _verdict(holds: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "not told by this budget"}[holds]


def _numbers(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in numbers.items())


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min"
