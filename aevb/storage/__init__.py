"""Run folders, model files and settings: here, and in the command line, names are strings."""

from aevb.storage.building import (
    build,
    build_with_class,
    check_domain,
    settle_latents,
)
from aevb.storage.facts import facts_of
from aevb.storage.latents import has_closed_divergence, layer_sizes
from aevb.storage.learners import learner, passes_of, pick_schedule
from aevb.storage.run import RunFolder
from aevb.storage.unfinished import Unfinished
from aevb.storage.weights import load, save

__all__ = [
    "RunFolder",
    "Unfinished",
    "build",
    "build_with_class",
    "check_domain",
    "facts_of",
    "has_closed_divergence",
    "layer_sizes",
    "learner",
    "load",
    "passes_of",
    "pick_schedule",
    "save",
    "settle_latents",
]
