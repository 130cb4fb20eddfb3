"""The figures of Kingma & Welling (2013) and tables of later work, made anew: one file for each.

A file has its settings on top and, beside them, what the literature says of the result.
"""

from aevb.reproduce.jobs import How, Job, run_all
from aevb.reproduce.performing import (
    BUDGETS,
    Expectation,
    Reproduction,
    budget_of,
    markdown,
    perform,
)
from aevb.reproduce.registry import NAMES, reproduction

__all__ = [
    "BUDGETS",
    "NAMES",
    "Expectation",
    "How",
    "Job",
    "Reproduction",
    "budget_of",
    "markdown",
    "perform",
    "reproduction",
    "run_all",
]
