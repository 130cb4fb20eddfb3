"""Held-out data under free parameters: new parameters, optimized under the fixed model."""

import torch

from aevb.data import Rows
from aevb.devices import parameter_of
from aevb.evaluation.estimates import batch_for, evaluating
from aevb.model import Model
from aevb.objectives import elbo_a
from aevb.posterior import FreeParameters, PerDatum, per_datum
from aevb.randomness import Stream, generator, standard_normal

SAMPLES = 8


def refit(
    model: Model, size: int, rows: Rows, *, steps: int = 300, rate: float = 0.05, seed: int = 0
) -> PerDatum:
    """Give each row a diagonal Gaussian over `size` dimensions of its own, the model held fixed.

        phi_n = argmax over (mean, log-variance) of E_q[log p(x_n, z) - log q(z)]

    Shapes: N rows; the posterior's index is the row's position. Adam, `steps` steps on all rows of
    a chunk at once, `rate` in units of phi, falling linearly to zero.
    Source: stochastic variational inference (Hoffman et al. 2013).
    """
    like = parameter_of(model)
    posterior = per_datum(len(rows), size).to(like)
    table = next(posterior.parameters())
    with evaluating(model, posterior):
        for positions, x in rows.chunks(1000):
            batch = batch_for(model, x, positions)
            optimizer = torch.optim.Adam([table])
            for t in range(steps):
                source = generator(seed, Stream.EVALUATION, int(positions[0]), t, 1)
                noise = standard_normal(source, (SAMPLES, len(x), size), like.dtype).to(like.device)
                with torch.enable_grad():
                    loss = -elbo_a(model, posterior, batch, noise).sum()
                    (table.grad,) = torch.autograd.grad(loss, [table])
                optimizer.param_groups[0]["lr"] = rate / FreeParameters.GAIN * (1 - t / steps)
                optimizer.step()
    assert torch.isfinite(table).all()
    return posterior
