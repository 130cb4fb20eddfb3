"""Arrays to figures: curves, grids, tables, walks through the latent space, numbers by datum.

Every function takes arrays and, if wanted, the matplotlib `Axes` to draw on, and returns the
`Axes`; those that end in an animation return its bytes. Without axes it makes a figure of its own
that pyplot never hears of: nothing has to be closed, no display is needed and no global setting
is changed. `save` keeps the result, `png` and `svg` give it as bytes and as text.

Data are of three kinds: images (C, H, W), signals (X,), drawn as lines, and tables (X,), drawn by
their columns: where a function takes `names`, these make a table of what would be a signal.
"""

from aevb.plots.animations import posterior_cloud, samples_animation
from aevb.plots.curves import learning_curve
from aevb.plots.gradients import gradient_variances
from aevb.plots.imputation import impute_grid
from aevb.plots.latent import latent_scatter
from aevb.plots.lines import profiles
from aevb.plots.manifolds import manifold, manifold_grid, prior_predictive
from aevb.plots.output import png, save, svg
from aevb.plots.pictures import analogies, image_grid, reconstructions, samples
from aevb.plots.scores import kl_by_dimension, reconstruction_by_row, score_histogram
from aevb.plots.tables import pair_plot
from aevb.plots.walks import interpolation, samples_along_training, traversals

__all__ = [
    "gradient_variances",
    "analogies",
    "image_grid",
    "impute_grid",
    "interpolation",
    "kl_by_dimension",
    "latent_scatter",
    "learning_curve",
    "manifold",
    "manifold_grid",
    "pair_plot",
    "png",
    "posterior_cloud",
    "prior_predictive",
    "profiles",
    "reconstruction_by_row",
    "reconstructions",
    "samples",
    "samples_along_training",
    "samples_animation",
    "save",
    "score_histogram",
    "svg",
    "traversals",
]
