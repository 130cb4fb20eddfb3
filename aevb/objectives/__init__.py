"""Bounds on log p(x), to be maximized, and estimators of their gradients.

    bounds              elbo_a, elbo_b, iwae, free_bits; the gradient goes through the draw
    path_derivative     through the draw alone, not through the parameters of log q
    doubly_reparameterized  the same for iwae, without its bias
    score_function      through log q alone: any draw will do; vimco is its best form for iwae
    gumbel_softmax, straight_through    discrete draws, made soft where the gradient passes
    enumeration         every code in turn: nothing is drawn

Each has the value of its bound; what differs is the gradient, in variance, cost and bias.
"""

from aevb.objectives.baselines import (
    Baseline,
    Learned,
    LeaveOneOut,
    RunningMean,
    Signal,
    learned_baseline,
)
from aevb.objectives.bounds import (
    Draw,
    Encoded,
    Objective,
    Terms,
    draw,
    elbo_a,
    elbo_b,
    encode,
    free_bits,
    iwae,
)
from aevb.objectives.exact import Enumerated, enumeration
from aevb.objectives.pathwise import (
    DoublyReparameterized,
    PathDerivative,
    doubly_reparameterized,
    path_derivative,
)
from aevb.objectives.relaxed import Relaxed, gumbel_softmax, straight_through
from aevb.objectives.score import ScoreFunction, score_function, vimco

__all__ = [
    "Baseline",
    "DoublyReparameterized",
    "Draw",
    "Encoded",
    "Enumerated",
    "LeaveOneOut",
    "Learned",
    "Objective",
    "PathDerivative",
    "Relaxed",
    "RunningMean",
    "ScoreFunction",
    "Signal",
    "Terms",
    "doubly_reparameterized",
    "draw",
    "elbo_a",
    "elbo_b",
    "encode",
    "enumeration",
    "free_bits",
    "gumbel_softmax",
    "iwae",
    "learned_baseline",
    "path_derivative",
    "score_function",
    "straight_through",
    "vimco",
]
