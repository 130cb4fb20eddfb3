"""Rows as batches for a model, and modules as they are when they are judged."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aevb.data import Rows, require_rows
from aevb.devices import full_float32, tensor_of
from aevb.machine import kept_memory
from aevb.model import Model
from aevb.posterior import Batch
from aevb.priors import VampPrior

CELLS_AT_ONCE = {"cpu": 800_000, "cuda": 64_000_000}
"""Of logits, or what else the decoder gives: 3 MB of float32 stay in the cache; 256 fill a GPU."""


def batch_for(model: Model, x: Tensor, positions: NDArray[np.int64]) -> Batch:
    """Rows as a batch in the dtype, and on the device, of the model's parameters.

    Shapes: x (M, *X); positions (M,), which become the batch's `rows`.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> batch_for(model.double(), torch.zeros(3, 2), np.arange(3)).x.dtype
        torch.float64
    """
    x = x.to(tensor_of(model))
    return Batch(x, torch.from_numpy(positions).to(x.device))


def rows_at_once(model: Model, rows: Rows, draws: int) -> int:
    """How many rows, with so many draws of each, suit the memory of the model's device.

        max(1, C / (S X)) rounded down,   C = 800,000 cells on a processor, 64 million on a GPU

    Shapes: S `draws` of each row, X the cells of a row.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.zeros((3, 2)), np.arange(3), (2,))
        >>> rows_at_once(model, rows, 500)
        800
    """
    cells = CELLS_AT_ONCE[tensor_of(model).device.type]
    return max(1, cells // (draws * max(require_rows(rows).width, 1)))


@contextmanager
def in_evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """Layers such as dropout in evaluation mode, with gradients; left as they were found."""
    were = [(m, m.training) for module in modules for m in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for m, training in were:
            m.training = training


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """No gradients, and layers such as dropout in evaluation mode; left as they were found.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluating(layer):
        ...     layer.training, torch.is_grad_enabled()
        (False, False)
        >>> layer.training
        True
    """
    priors = [m for module in modules for m in module.modules() if isinstance(m, VampPrior)]
    with in_evaluation_mode(*modules), torch.no_grad(), ExitStack() as stack:
        for prior in priors:  # nothing is learned here: its encoder need not run again
            stack.enter_context(prior.held())
        yield


@contextmanager
def judging(*modules: nn.Module) -> Iterator[None]:
    """`evaluating` for a long estimate: memory is kept for it, products are in full float32.

    Example:
        >>> with judging(nn.Dropout()):
        ...     torch.is_grad_enabled()
        False
    """
    with evaluating(*modules), kept_memory(), full_float32():
        yield


def first_batch(model: Model, rows: Rows) -> Batch:
    """The first row as a batch: it tells the shapes of all.

    Shapes: x (1, *X), its number 0.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.zeros((3, 2)), np.arange(3), (2,))
        >>> first_batch(model, rows).x.shape
        torch.Size([1, 2])
    """
    return batch_for(model, require_rows(rows).take(np.arange(1)), np.zeros(1, np.int64))


def in_batches(model: Model, rows: Rows, size: int) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """All rows in order, at most `size` at once: their positions, and the batch of them.

    Shapes: positions (M,), x (M, *X); M is `size`, of the last what is left.
    Errors: UsageError for what is no `Rows`, and for none.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.zeros((3, 2)), np.arange(3), (2,))
        >>> [len(batch.x) for _, batch in in_batches(model, rows, 2)]
        [2, 1]
    """
    for positions, x in require_rows(rows).chunks(size):
        yield positions, batch_for(model, x, positions)
