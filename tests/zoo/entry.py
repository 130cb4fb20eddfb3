"""One line of the table of distributions that every law runs through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A distribution at some parameters, and the truth of scipy beside it.

    `make` takes the parameters as tensors under their names and gives the distribution. `scipy`
    makes the frozen scipy.stats law from the same numbers as floats; None where scipy has none.
    `kind` is "continuous", "discrete", or "multivariate" (an event of one axis).
    """

    name: str
    make: Callable[..., Any]
    parameters: dict[str, Any]
    """Numbers or nested lists: one element of a batch."""
    scipy: Callable[..., Any] | None = None
    kind: str = "continuous"
    reparameterized: bool = True
    extremes: tuple[dict[str, Any], ...] = ()
    """Other parameters, around 1e-6 and 1e6, at which nothing may be NaN or infinite."""
    truth: dict[str, Callable[..., float]] | None = None
    """Further truth by name ("mean", "variance", "entropy", "log_prob", "cdf", "icdf")."""
    no: frozenset[str] = frozenset()
    """What does not exist or is not closed: "cdf", "icdf", "mean", "variance", "entropy"."""
