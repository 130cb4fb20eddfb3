"""The matrix products of one step of the model and nothing else, each by torch's best kernel.

Forward one for each layer, backward one for its weight and, but for the first, one for its input:
eleven for 784-500-20-500-784. Each is tried as `torch.mm` with its operands in both layouts and as
oneDNN's linear, operands laid out beforehand; "default" also tries bfloat16. The fastest is kept,
on one thread or on all. A unit is one step.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from common import Spec, serve
from torch import Tensor

TRIALS = 30
Product = Callable[[], Tensor]


def shapes(spec: Spec) -> list[tuple[int, int, int]]:
    """(rows, inner, columns) of every product of a step."""
    found = []
    for net in ("encoder", "decoder"):
        for k, (n_in, n_out) in enumerate(pairwise(spec.layers(net))):
            m = spec.batch * (spec.samples if net == "decoder" else 1)
            found += [(m, n_in, n_out), (n_in, m, n_out)]
            if net == "decoder" or k > 0:
                found.append((m, n_out, n_in))
    return found


def candidates(shape: tuple[int, int, int], dtype: torch.dtype) -> list[Product]:
    rows, inner, columns = shape
    a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    found: list[Product] = []
    for left in (a, a.t().contiguous().t()):
        for right in (b, b.t().contiguous().t()):
            found.append(partial(torch.mm, left, right))
    weight = b.t().contiguous()
    found.append(partial(torch.nn.functional.linear, a, weight))
    if torch.backends.mkldnn.is_available():
        linear = torch.ops.mkldnn._linear_pointwise
        found.append(partial(linear, a, weight, None, "none", [], ""))
    return found


def seconds(product: Product) -> float:
    """The median of several calls."""
    taken = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        product()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[TRIALS // 2]


def usable(product: Product) -> bool:
    try:
        product()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def best(shape: tuple[int, int, int], dtypes: list[torch.dtype]) -> tuple[float, Product]:
    every = [p for dtype in dtypes for p in candidates(shape, dtype) if usable(p)]
    timed = [(seconds(product), k) for k, product in enumerate(every)]
    fast, k = min(timed)
    return fast, every[k]


class Products:
    def __init__(self, spec: Spec) -> None:
        dtypes = [torch.float32]
        if spec.precision == "default":
            dtypes.append(torch.bfloat16)
        found = {}
        for threads in sorted({1, spec.threads}):
            torch.set_num_threads(threads)
            timed = [best(shape, dtypes) for shape in shapes(spec)]
            found[threads] = (sum(t for t, _ in timed), [p for _, p in timed])
        threads = min(found, key=lambda count: found[count][0])
        torch.set_num_threads(threads)
        self.products = found[threads][1]
        self.choice = f"{len(self.products)} products, {threads} thread{'s' * (threads > 1)}"

    def run(self, units: int) -> None:
        with torch.no_grad():
            for _ in range(units):
                for product in self.products:
                    product()


if __name__ == "__main__":
    serve({"products": Products})
