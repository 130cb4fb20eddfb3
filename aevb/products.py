"""Matrix products: in which precision, and by which kernel of the machine.

    C = h(A B + b)

They are nearly all of the arithmetic of a step. In bfloat16 a processor made for it multiplies two
to four times as fast; networks then run under `torch.autocast`, and what leaves them is float32
again, so that densities, sums and the optimizer's memory are float32. In float32 torch calls MKL,
which on processors of AMD takes a path half as wide as the machine: there a compiled graph is
rewritten to call oneDNN, forward and backward, which reads either layout and transposes nothing.
In both precisions oneDNN adds the bias and takes the hyperbolic tangent as it writes the product;
its tanh is as exact as torch's, and ten times as fast.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, Node

from aevb.errors import UsageError

PRECISIONS = ("float32", "bfloat16")
"""What the products of a training step may be computed in."""


@cache
def processor() -> dict[str, Any]:
    """What torch knows of the processor; nothing, where it does not tell."""
    tell: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return tell()


def has_bfloat16(device: str = "cpu") -> bool:
    """Whether the device multiplies matrices in bfloat16 faster than in float32.

    Of processors those with AMX, and those of AMD with AVX512-BF16: of Intel's, AVX512-BF16 alone
    adds up no more products in a cycle than float32 does, and the conversions come on top. Of GPUs
    those that torch says support it.
    Example:
        >>> with products_in("bfloat16" if has_bfloat16() else "float32"):
        ...     torch.nn.Linear(2, 3)(torch.ones(1, 2)).shape
        torch.Size([1, 3])
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = processor()
    fast = known.get("amx_bf16", False) or (_is_amd() and known.get("avx512_bf16", False))
    return device == "cpu" and bool(fast)


def products_in(precision: str, device: str = "cpu") -> AbstractContextManager[None]:
    """Within it, the matrix products and convolutions of float32 networks are in `precision`.

    Errors: UsageError for a precision that is not one of `PRECISIONS`.
    Example:
        >>> with products_in("bfloat16"):
        ...     torch.nn.Linear(2, 3)(torch.ones(1, 2)).dtype
        torch.bfloat16
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, found {precision!r}")
    if precision == "float32":
        return nullcontext()
    # Without the cache of casts: a traced step casts each weight once anyway.
    return torch.autocast(device, torch.bfloat16, cache_enabled=False)


@contextmanager
def fast_products() -> Iterator[dict[str, Any]]:
    """Within it, compile with the options it gives to get the machine's fastest products.

    There are no options where this torch has no oneDNN, or no place for another kernel.
    """
    from torch._inductor import lowering

    claimed: dict[Any, Any] | None = getattr(lowering, "user_lowerings", None)
    if claimed is None or not torch.backends.mkldnn.is_available():
        yield {}
        return
    product = torch.ops.mkldnn._linear_pointwise.default
    claimed[product] = _lowered
    try:
        yield {"post_grad_custom_post_pass": _pass(_is_amd())}
    finally:
        del claimed[product]


def _lowered(*arguments: Any) -> Any:
    """oneDNN's product in compiled code: called without torch's dispatcher, as it stands in C.

    By itself the compiler makes both arguments contiguous first, that is, it transposes.
    """
    from torch._inductor import ir, mkldnn_ir

    class Product(mkldnn_ir.LinearUnary):
        @classmethod
        def require_contiguous(cls, x: Any) -> Any:
            return x if len(x.get_size()) == 2 else super().require_contiguous(x)

    create: Any = Product.create
    return ir.TensorBox.create(create(*arguments))


def _is_amd() -> bool:
    return "AMD" in str(processor().get("cpu_name", ""))


@cache
def _pass(float32: bool) -> Any:
    """The rewriting as the compiler wants it: an object that names its version for the cache."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class Rewriting(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            _use_onednn(graph, float32)

        def uuid(self) -> Any:
            return get_hash_for_files((str(Path(__file__)),), f"float32={float32}")

    return Rewriting()


def _use_onednn(graph: Graph, float32: bool) -> None:
    """Replace products A B (+ b), and tanh after them, by oneDNN's h(A (B^T)^T + b).

    In bfloat16 torch calls oneDNN itself where there is no b; in float32 it does not.
    """
    aten, product = torch.ops.aten, torch.ops.mkldnn._linear_pointwise.default
    for node in list(graph.nodes):
        _cast_before_transposing(node)
        _sum_for_the_bias(node)
    for node in list(graph.nodes):
        found = _factors(node)
        if found is None:
            continue
        a, b, bias = found
        dtype = node.meta["val"].dtype
        if not (float32 if dtype == torch.float32 else dtype == torch.bfloat16 and bias):
            continue
        users = list(node.users)
        tanh = len(users) == 1 and users[0].target is aten.tanh.default
        last = users[0] if tanh else node
        with graph.inserting_before(node):
            transposed = graph.call_function(aten.permute.default, (b, [1, 0]))
            transposed.meta["val"] = b.meta["val"].permute(1, 0)
            kind = "tanh" if tanh else "none"
            new = graph.call_function(product, (a, transposed, bias, kind, [], ""))
            new.meta.update(last.meta)
        last.replace_all_uses_with(new)
        for replaced in [last, node] if tanh else [node]:
            graph.erase_node(replaced)


def _cast_before_transposing(node: Node) -> None:
    """Let a cast of A^T be the transpose of a cast of A: the cast of a weight keeps its layout.

    As a copy in another order it would take three times as long, and no product is faster by it.
    """
    aten, cast = torch.ops.aten, torch.ops.prims.convert_element_type.default
    arguments: list[Any] = list(node.args)
    if node.target is not cast or arguments[0].target is not aten.permute.default:
        return
    (view, dtype), graph = arguments, node.graph
    a, order = view.args
    with graph.inserting_before(node):
        copy = graph.call_function(cast, (a, dtype))
        copy.meta["val"] = a.meta["val"].to(dtype)
        new = graph.call_function(aten.permute.default, (copy, order))
        new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _sum_for_the_bias(node: Node) -> None:
    """Let the gradient of a convolution's bias be a sum of its own.

    oneDNN's takes up to ten times as long; as a sum it joins what else is computed beside it.
    """
    aten, graph = torch.ops.aten, node.graph
    if node.target is not aten.convolution_backward.default:
        return
    arguments: list[Any] = list(node.args)
    gradient, (*others, of_bias) = arguments[0], arguments[-1]
    if not of_bias or gradient.meta["val"].device.type != "cpu":
        return
    axes = [0, *range(2, gradient.meta["val"].ndim)]
    with graph.inserting_before(node):
        total = graph.call_function(aten.sum.dim_IntList, (gradient, axes))
    for user in [user for user in node.users if user.args[1] == 2]:
        total.meta.update(user.meta)
        user.replace_all_uses_with(total)
        graph.erase_node(user)
    node.args = (*arguments[:-1], [*others, False])


def _factors(node: Node) -> tuple[Node, Node, Node | None] | None:
    """A, B and b of a product A B + b on the processor, b a vector; None for any other node."""
    aten = torch.ops.aten
    if node.op != "call_function" or node.kwargs:
        return None
    parts: list[Any] = list(node.args)
    if node.target is aten.mm.default and len(parts) == 2:
        a, b, bias = *parts, None
    elif node.target is aten.addmm.default and len(parts) == 3:
        bias, a, b = parts
    else:
        return None
    if node.meta["val"].device.type != "cpu":
        return None
    return (a, b, bias) if bias is None or bias.meta["val"].ndim == 1 else None
