"""What the latent dimensions do: divergence by dimension, active units, reconstruction error."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aevb.data import Rows
from aevb.distributions import center, kl_by_dimension
from aevb.evaluation.batches import evaluating, in_batches
from aevb.evaluation.certificate import finite
from aevb.model import Model
from aevb.posterior import Posterior

ACTIVE_VARIANCE = 1e-2
CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What each latent dimension does over some rows, and how well codes bring x back.

    Shapes: `kl_by_dimension` (D,), the mean over data of KL(q || p), or None where it does not fall
    apart into dimensions; `posterior_mean_variance` (D,), Var_n(E_q[z_d given x_n]).
    Units: nats per datum; `reconstruction_error` squared data units per datum.
    Source: Burda et al. (2015), section 5.2, for active units.
    Example:
        >>> found = Diagnosis(np.array([1.2, 0.0]), np.array([0.7, 1e-4]), 3.1)
        >>> found.active_units
        1
    """

    kl_by_dimension: NDArray[np.float64] | None
    posterior_mean_variance: NDArray[np.float64]
    reconstruction_error: float

    @property
    def active_units(self) -> int:
        """How many dimensions are active: their `posterior_mean_variance` exceeds 0.01."""
        return int((self.posterior_mean_variance > ACTIVE_VARIANCE).sum())

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis, ready for JSON."""
        by_dimension = self.kl_by_dimension
        told = {
            "kl_per_dimension": None if by_dimension is None else by_dimension.tolist(),
            "active_units": self.active_units,
            "latent_dim": len(self.posterior_mean_variance),
            "reconstruction_error": self.reconstruction_error,
        }
        return dict(finite(told))


def diagnose(model: Model, posterior: Posterior, rows: Rows) -> Diagnosis:
    """Look at each latent dimension over a set of rows.

        a dimension is active where  Var_n(E_q[z_d given x_n]) > 0.01
        reconstruction error = mean_n sum_i (x_ni - E[x_i given z = E_q[z given x_n]])^2

    The sum over i is that of the cells that were observed.
    Shapes: N rows; results over D dimensions. Units: nats per datum; squared data units per datum.
    Source: Burda et al. (2015), section 5.2, for active units.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> diagnose(model, aevb.mean_field(aevb.MLP(64, [8], 4)), digits.test).active_units <= 2
        True
    """
    means, divergences, squares = [], [], []
    with evaluating(model, posterior):
        for _, batch in in_batches(model, rows, CHUNK):
            q = posterior(batch)
            divergence = kl_by_dimension(q, model.prior())
            code = center(q)
            means.append(code.double())
            if divergence is not None:
                divergences.append(divergence.double())
            error = batch.x.double() - model.expectation(code).double()
            squares.append(error.square().flatten(1).nansum(1))  # of the observed cells
    mean = torch.cat(means)
    return Diagnosis(
        torch.cat(divergences).mean(0).cpu().numpy() if divergences else None,
        mean.var(0, unbiased=False).cpu().numpy(),
        float(torch.cat(squares).mean()),
    )
