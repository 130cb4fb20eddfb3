"""Arrays to figures: learning curves, picture grids, manifolds and latent codes.

Every function takes arrays and, if wanted, the matplotlib `Axes` to draw on, and returns the
`Axes`. Without one it makes a figure of its own that pyplot never hears of: nothing has to be
closed, no display is needed and no global setting is changed. `save` keeps the result.
"""

from aevb.plots.curves import learning_curve
from aevb.plots.latent import latent_scatter, manifold, manifold_grid
from aevb.plots.pictures import image_grid, profiles, reconstructions, samples
from aevb.plots.style import png, save

__all__ = [
    "image_grid",
    "latent_scatter",
    "learning_curve",
    "manifold",
    "manifold_grid",
    "png",
    "profiles",
    "reconstructions",
    "samples",
    "save",
]
