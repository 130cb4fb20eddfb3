"""Held-out data under free parameters: new parameters, optimized under the fixed model."""

import torch

from aevb.data import Rows
from aevb.devices import parameter_of
from aevb.distributions import route
from aevb.evaluation.estimates import batch_for, evaluating
from aevb.model import Model
from aevb.objectives import elbo_a
from aevb.posterior import Batch, FreeParameters, PerDatum
from aevb.randomness import Stream, generator

SAMPLES = 8


def refit(
    model: Model,
    posterior: PerDatum,
    rows: Rows,
    *,
    steps: int = 300,
    rate: float = 0.05,
    seed: int = 0,
) -> PerDatum:
    """Give each row numbers of its own in the family of a posterior, all else held fixed.

        phi_n = argmax over phi of E_q[log p(x_n, z) - log q(z; phi)]

    Shapes: N rows; the posterior's index is the row's position. Adam, `steps` steps on all rows of
    a chunk at once, `rate` in units of phi, falling linearly to zero.
    Source: stochastic variational inference (Hoffman et al. 2013).
    """
    like = parameter_of(model)
    posterior, parameters = posterior.renewed(len(rows))
    posterior.to(like)
    table = parameters.table
    way = route(posterior(Batch(torch.zeros(1), torch.zeros(1, dtype=torch.int64))))
    with evaluating(model, posterior):
        for positions, x in rows.chunks(1000):
            batch = batch_for(model, x, positions)
            optimizer = torch.optim.Adam([table])
            for t in range(steps):
                source = generator(seed, Stream.EVALUATION, int(positions[0]), t, 1)
                noise = way.noise(source, (SAMPLES, len(x)), like.dtype).to(like.device)
                with torch.enable_grad():
                    loss = -elbo_a(model, posterior, batch, noise).sum()
                    (table.grad,) = torch.autograd.grad(loss, [table])
                optimizer.param_groups[0]["lr"] = rate / FreeParameters.GAIN * (1 - t / steps)
                optimizer.step()
    assert torch.isfinite(table).all()
    return posterior
