"""How much an estimate has to compute, and whether compiling it pays."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from aevb.data import Rows
from aevb.evaluation.batches import evaluating, first_batch
from aevb.model import Model
from aevb.posterior import Posterior

OPERATIONS_WORTH_COMPILING = 2e12
"""From here, some ten seconds, an estimate earns back its compilation."""


def operations(model: Model, posterior: Posterior, rows: Rows) -> tuple[int, int]:
    """Floating-point operations of the products for one datum: to encode, and to decode one z.

    Units: operations; a multiplication and an addition are two. Those of matrix products,
    convolutions and attention are counted; others are few beside them.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [8], 64)))
        >>> encoder, digits = aevb.mean_field(aevb.MLP(64, [8], 4)), aevb.data.load("digits")
        >>> operations(model, encoder, digits.test)  # 2 (64 * 8 + 8 * 4), 2 (2 * 8 + 8 * 64)
        (1088, 1056)
    """
    batch = first_batch(model, rows)
    with evaluating(model, posterior):
        with _Counting() as encoding:
            q = posterior(batch)
        with _Counting() as decoding:
            model.likelihood(torch.zeros(1, *q.event_shape).to(batch.x))
    return encoding.operations, decoding.operations


class _Counting(TorchDispatchMode):
    """Adds up the operations of products and convolutions, as torch's `FlopCounterMode` does.

    That one imports torch's compiler, which takes a second and may not be needed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.operations += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def worth_compiling(model: Model, posterior: Posterior, rows: Rows, samples: int) -> bool:
    """Whether an estimate is long enough to earn back its compilation; of sizes alone.

        N (encode + K decode) > 2e12

    Shapes: N rows, K = `samples` of each. Units: see `operations`.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [8], 64)))
        >>> pair = model, aevb.mean_field(aevb.MLP(64, [8], 4))
        >>> rows = aevb.data.load("digits").test
        >>> worth_compiling(*pair, rows, 10), worth_compiling(*pair, rows, 100_000_000)
        (False, True)
    """
    encode, decode = operations(model, posterior, rows)
    return len(rows) * (encode + samples * decode) > OPERATIONS_WORTH_COMPILING
