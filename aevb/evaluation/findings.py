"""What was found: a plain sentence, the figure behind it, and the one thing to change."""

from dataclasses import dataclass
from typing import Any

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
