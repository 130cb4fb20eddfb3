"""Learners, one file each, with the same two methods: `init` makes a state, `step` moves it."""

from aevb.algorithms.aevb import AEVB
from aevb.algorithms.em import EM
from aevb.algorithms.em_gradient import GeneralizedEM
from aevb.algorithms.full_bayes import FullBayes, uncertain
from aevb.algorithms.gradient import GradientLearner
from aevb.algorithms.learner import Learner, State
from aevb.algorithms.mean_field import MeanField, NormalWishart
from aevb.algorithms.monte_carlo_em import MonteCarloEM
from aevb.algorithms.semi_supervised import SemiSupervised
from aevb.algorithms.wake_sleep import ReweightedWakeSleep, WakeSleep

__all__ = [
    "AEVB",
    "EM",
    "FullBayes",
    "GeneralizedEM",
    "GradientLearner",
    "Learner",
    "MeanField",
    "MonteCarloEM",
    "NormalWishart",
    "ReweightedWakeSleep",
    "SemiSupervised",
    "State",
    "WakeSleep",
    "uncertain",
]
