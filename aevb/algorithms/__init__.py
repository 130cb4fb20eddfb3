"""Learners, one file each, with the same two methods: `init` makes a state, `step` moves it."""

from aevb.algorithms.aevb import AEVB
from aevb.algorithms.gradient import GradientLearner
from aevb.algorithms.learner import Learner, State
from aevb.algorithms.semi_supervised import SemiSupervised

__all__ = ["AEVB", "GradientLearner", "Learner", "SemiSupervised", "State"]
