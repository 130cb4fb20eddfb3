"""Learners, one file each, with the same two methods: `init` makes a state, `step` moves it."""

from aevb.algorithms.aevb import AEVB
from aevb.algorithms.full_bayes import FullBayes, uncertain
from aevb.algorithms.gradient import GradientLearner
from aevb.algorithms.learner import Learner, State

__all__ = ["AEVB", "FullBayes", "GradientLearner", "Learner", "State", "uncertain"]
