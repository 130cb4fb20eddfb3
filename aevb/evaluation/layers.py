"""What networks pass back: the gradient of the bound in each layer, and units that are flat."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from aevb.data import Rows
from aevb.devices import tensor_of
from aevb.distributions import route
from aevb.evaluation.batches import batch_for, evaluating
from aevb.evaluation.information import codes_of
from aevb.model import Model
from aevb.objectives import draw
from aevb.posterior import Posterior
from aevb.randomness import Stream, generator

ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.LeakyReLU, nn.Sigmoid)
FLAT = 0.005
"""A slope, over all rows, below which a unit passes nothing back; leaky ones have 0.01."""
BATCHES, BATCH_ROWS = 5, 100


def layer_gradients(
    model: Model, posterior: Posterior, rows: Rows, *, seed: int = 0
) -> dict[str, float]:
    """The root mean square of the gradient of the bound in each weight matrix, over small batches.

    At an optimum their sum is 0; those of small batches are not, where anything can be learned.
    """
    squares: dict[str, float] = {}
    for name, gradient in _gradients(model, posterior, rows, seed):
        squares[name] = squares.get(name, 0.0) + float(gradient.double().square().mean())
    return {name: (value / min(BATCHES, len(rows))) ** 0.5 for name, value in squares.items()}


def _gradients(
    model: Model, posterior: Posterior, rows: Rows, seed: int
) -> Iterator[tuple[str, Tensor]]:
    named = {
        f"{part}.{name}": p
        for part, module in (("model", model), ("posterior", posterior))
        for name, p in module.named_parameters()
        if p.requires_grad and p.ndim > 1
    }
    like = tensor_of(model)
    with evaluating(model, posterior):
        for block in range(min(BATCHES, len(rows))):
            positions = np.arange(block, len(rows), BATCHES)[:BATCH_ROWS]
            batch = batch_for(model, rows.take(positions), positions)
            source = generator(seed, Stream.CHECK, 3, block)
            noise = route(posterior(batch)).noise.draw(source, (1, len(positions)), like.dtype)
            with torch.enable_grad():
                bound = draw(model, posterior, batch, noise.to(like.device)).log_weights().mean()
                found = torch.autograd.grad(bound, list(named.values()), allow_unused=True)
            yield from ((name, g) for name, g in zip(named, found, strict=True) if g is not None)


def dead_shares(
    model: Model, posterior: Posterior, rows: Rows, *, seed: int = 0
) -> dict[str, float]:
    """The share of units of each activation whose slope is below 0.005 for all rows."""
    inputs: dict[str, tuple[nn.Module, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            inputs.setdefault(f"{name}, {type(module).__name__}", (module, arguments[0].detach()))

        return hook

    parts = {"model.likelihood": model.likelihood, "posterior": posterior}
    handles = [
        module.register_forward_hook(keep(f"{part}.{name}"))
        for part, whole in parts.items()
        for name, module in whole.named_modules()
        if isinstance(module, ACTIVATIONS)
    ]
    try:
        _, z = codes_of(model, posterior, rows, seed=seed)
        with evaluating(model):
            model.likelihood(z)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _flat(*seen) for name, seen in inputs.items()}


def _flat(module: nn.Module, x: Tensor) -> float:
    """The share of units, the last axis or the channels of images, that are flat at all of x."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(module(x).sum(), [x])
    units = slope.movedim(1, -1) if slope.ndim == 4 else slope
    most = units.abs().flatten(0, -2).amax(0)
    return float((most < FLAT).double().mean())
