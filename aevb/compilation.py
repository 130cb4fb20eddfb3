"""A function of tensors as one compiled graph, or as it stands where no compiler is found.

Tracing is done by torch's compiler, once for each shape of the arguments; what it makes is kept on
disk and found again by the next process. A step that runs in a millisecond is called again without
the checks, a tenth of that, which would find that a module was changed in between; nor is torch
asked, where it can be helped, to find what it made.
"""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from aevb.products import fast_products

OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"cpp_wrapper": True},  # the calls between kernels in C++ too
    "cuda": {"triton.cudagraphs": True},  # one launch for all kernels
}
"""Of torch's compiler, for each kind of device."""


class Compiled:
    """`function`, compiled at its first call for each `key`.

    Shapes: whatever the function takes; a key must tell apart any two calls that need another
    graph: layouts of the tensors (see `layouts`), and the mode of the modules. Modules among the
    arguments may be changed between calls only where it is `guarded`, and so looks.
    Errors: none of the compiler's own. Where compiling fails the function itself runs, now and from
    then on, and `note` says why in one sentence.
    Example:
        >>> double = Compiled(lambda x: 2 * x)
        >>> double("scalar", torch.tensor(3.0))
        tensor(6.)
    """

    def __init__(
        self, function: Callable[..., Any], guarded: bool = False, device: str = "cpu"
    ) -> None:
        self.function = function
        self.device = device
        self.guarded = guarded
        self.note: str | None = None
        self._graphs: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, key: Hashable, *arguments: Any) -> Any:
        key = key, *self._settings()
        graph = self._graphs.get(key)
        if graph is not None and self.guarded:
            with _compiling():  # which it does again where a module was changed
                return graph(*arguments)
        if graph is not None:
            return graph(*arguments)
        if self.note is not None:
            return self.function(*arguments)
        return self._first(key, arguments)

    def _settings(self) -> tuple[object, ...]:
        """What may be set for the whole process between two calls, and needs another graph."""
        return (
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_autocast_enabled(self.device),
        )

    def _first(self, key: Hashable, arguments: tuple[Any, ...]) -> Any:
        # Torch keeps compiled graphs with the code object and refuses a ninth; a copy of the code
        # gives each graph a place of its own, where no other needs to be told from it.
        own = _with_code(self.function, _plain(self.function).__code__.replace())
        try:
            with _compiling() as products:
                options = OPTIONS.get(self.device, {}) | products
                if not self.guarded:
                    options["guard_filter_fn"] = _no_guards
                graph = torch.compile(own, fullgraph=True, dynamic=False, options=options)
                result = graph(*arguments)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError, OSError) as error:
            self.note = (
                "the step runs uncompiled, at a lower speed and with the same numbers, "
                f"because compiling it failed: {_reason(error)}"
            )
            return self.function(*arguments)
        # On a GPU torch's own call is needed: there it tells one replayed step from the next.
        direct = _made_of(own) if self.device == "cpu" and not self.guarded else None
        self._graphs[key] = direct or graph
        return result


@contextmanager
def _compiling() -> Iterator[dict[str, Any]]:
    """Where the compiler may run: its options for products, and no warnings of its own modules."""
    with warnings.catch_warnings(), fast_products() as products:
        warnings.simplefilter("ignore")
        yield products


def _plain(function: Any) -> Any:
    """The function itself, also of a method."""
    return getattr(function, "__func__", function)


def _with_code(function: Any, code: CodeType) -> Callable[..., Any]:
    """The function or method with other code in place of its own."""
    plain = _plain(function)
    new = FunctionType(
        code, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__
    )
    return new if plain is function else MethodType(new, function.__self__)


def _made_of(own: Callable[..., Any]) -> Callable[..., Any] | None:
    """What torch runs in place of a function it compiled; None where it does not give it away.

    Called by itself it does the same, without what torch does to find it at every call: a tenth of
    a millisecond beside a large step, whose data have driven all that out of the caches.
    """
    find: Any = getattr(torch._dynamo.eval_frame, "_debug_get_cache_entry_list", None)
    made = [] if find is None else find(_plain(own).__code__)
    return _with_code(own, made[0].code) if len(made) == 1 else None


def _no_guards(guards: Sequence[object]) -> list[bool]:
    """None of the checks that a graph is still right: the key tells, at a tenth of the time."""
    return [False] * len(guards)


def layouts(tensors: Iterable[Tensor | None]) -> tuple[object, ...]:
    """What the code of a graph is made for: shape, strides and dtype of each tensor."""
    return tuple(None if t is None else (t.shape, t.stride(), t.dtype) for t in tensors)


def _reason(error: Exception) -> str:
    """The two lines of torch's report that say what happened, as one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or repr(error)
