"""Learners, one file each, with the same two methods: `init` makes a state, `step` moves it."""

from aevb.algorithms.aevb import AEVB, State

__all__ = ["AEVB", "State"]
