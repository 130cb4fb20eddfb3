"""Run folders, model files and settings: here, and in the command line, names are strings."""

from aevb.storage.facts import facts_of
from aevb.storage.run import RunFolder
from aevb.storage.settings import (
    Settings,
    build,
    check_domain,
    check_settings,
    learner,
    pick_schedule,
)
from aevb.storage.weights import load, save

__all__ = [
    "RunFolder",
    "Settings",
    "build",
    "check_domain",
    "check_settings",
    "facts_of",
    "learner",
    "load",
    "pick_schedule",
    "save",
]
