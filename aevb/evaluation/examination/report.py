"""What an examination found, and what it looked at."""

from dataclasses import dataclass
from typing import Any

from aevb.evaluation.calibration import Calibration
from aevb.evaluation.findings import Finding


@dataclass(frozen=True)
class Examination:
    """What `check` found: `findings`, the names of checks `passed`, and those `skipped` with why.

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
