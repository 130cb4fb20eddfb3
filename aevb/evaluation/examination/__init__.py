"""The examination of a user's own model and posterior: one check to a function, one tuple of them.

subject      copies, rows and draws
elements     densities of single numbers     vectors     densities of vectors, maps
shapes       batches, rows, random layers    domain      supports, precision, far codes
estimators   sums, divergences, moments      gradients   parameters, draws, deviations
objective    a bound of the user's own    recognition  usual mistakes as formulas
driver       the tuple, and `check`
"""

from aevb.evaluation.examination.driver import check

__all__ = ["check"]
