"""What was found: a plain sentence, the figure behind it, and the one thing to change.

A check is a function of what is looked at to a finding, to several, or to nothing; `walk` goes
through a table of them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aevb.evaluation.calibration import Calibration
from aevb.evaluation.certificate import finite


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a model, a posterior, a run or its data.

    `name` is for programs and never changes; `sentence` says what is wrong with the figure in it;
    `figure` is that number; `advice` names the one option or line to change.
    Example:
        >>> print(Finding("still-rising", "The bound still rose by 2.0 nats.", 2.0, "Train on."))
        The bound still rose by 2.0 nats. Train on.
    """

    name: str
    sentence: str
    figure: float
    advice: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.advice}"

    def as_dict(self) -> dict[str, Any]:
        """The finding, ready for JSON, which has no infinity."""
        return {
            "name": self.name,
            "sentence": self.sentence,
            "figure": finite(self.figure),
            "advice": self.advice,
        }


class Skipped(Exception):  # not an error
    """A check that has nothing to say here; the message says why."""


@dataclass(frozen=True)
class Examination:
    """What checks found: `findings`, the names of those `passed`, and those `skipped` with why.

    `calibration` is a figure and no finding: an amortized posterior is hardly ever calibrated.
    Example:
        >>> print(Examination((), ("shapes",), {"maps": "no map is known"}))
        No finding. Passed: shapes. Skipped: maps (no map is known).
    """

    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    skipped: dict[str, str]
    calibration: Calibration | None = None

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        count = len(self.findings)
        head = f"{count} finding{'s' if count > 1 else ''}:\n" if count else "No finding."
        lines = [f"  {i}. [{f.name}] {f}\n" for i, f in enumerate(self.findings, 1)]
        looked = f"Passed: {', '.join(self.passed) or 'nothing'}."
        rest = ", ".join(f"{name} ({why})" for name, why in self.skipped.items())
        text = f"{head}{''.join(lines)}{'' if count else ' '}{looked}"
        text += f" Skipped: {rest}." if rest else ""
        return text if self.calibration is None else f"{text}\n{self.calibration}"

    def as_dict(self) -> dict[str, Any]:
        """The examination, ready for JSON."""
        return {
            "healthy": self.healthy,
            "findings": [finding.as_dict() for finding in self.findings],
            "passed": list(self.passed),
            "skipped": dict(self.skipped),
            "calibration": None if self.calibration is None else self.calibration.as_dict(),
        }


Subject = TypeVar("Subject")


def walk(
    checks: Mapping[str, Callable[[Subject], Finding | Iterable[Finding] | None]], subject: Subject
) -> Examination:
    """Go through checks by their names; one that raises has that for a finding.

    Example:
        >>> print(walk({"size": lambda x: None, "rows": lambda x: [][0]}, 1))
        1 finding:
          1. [check-failed] The check of rows could not be finished (1 failure): IndexError: list \
index out of range. Mend what is raised, or give the model what it expects.
        Passed: size.
    """
    findings: list[Finding] = []
    passed, skipped = [], {}
    for name, look in checks.items():
        before = len(findings)
        try:
            found = look(subject) or ()
            findings.extend([found] if isinstance(found, Finding) else found)
        except Skipped as why:
            if len(findings) == before:
                skipped[name] = str(why)
                continue
        except Exception as error:
            findings.append(failed(name, error))
        if len(findings) == before:
            passed.append(name)
    return Examination(_each_once(findings), tuple(passed), skipped)


def failed(name: str, error: Exception) -> Finding:
    """What the model raised inside a check, as a finding."""
    return Finding(
        "check-failed",
        f"The check of {name} could not be finished (1 failure): {type(error).__name__}: "
        f"{first_line(error)}.",
        1.0,
        "Mend what is raised, or give the model what it expects.",
    )


def first_line(error: Exception) -> str:
    """What an error says first."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no reason was given"


def _each_once(findings: list[Finding]) -> tuple[Finding, ...]:
    """Failures of one cause under one name: what a model raises, it raises in many checks."""
    kept: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        cause = finding.sentence.split("): ")[-1] if finding.name == "check-failed" else ""
        kept.setdefault((finding.name, cause or finding.sentence), finding)
    return tuple(kept.values())
