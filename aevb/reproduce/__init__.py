"""The figures of Kingma & Welling (2013) and tables of later work, made anew: one file for each.

A file has its settings on top and, beside them, what the literature says of the result.
"""

from aevb.reproduce.jobs import How, Job, run_all
from aevb.reproduce.performing import Budget, Expectation, Reproduction, markdown, perform
from aevb.reproduce.registry import NAMES, reproduction

__all__ = [
    "NAMES",
    "Budget",
    "Expectation",
    "How",
    "Job",
    "Reproduction",
    "markdown",
    "perform",
    "reproduction",
    "run_all",
]
