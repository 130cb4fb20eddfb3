"""A function of tensors as one compiled graph, or as it stands where no compiler is found.

Tracing is done by torch's compiler, once for each shape of the arguments; what it makes is kept on
disk and found again by the next process. A step that runs in a millisecond is called again without
the checks, a tenth of that, which would find that a module was changed in between.
"""

import logging
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from aevb.library import Library, kept_library, make_library
from aevb.products import fast_products

logger = logging.getLogger("aevb")

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
        strict = torch.are_deterministic_algorithms_enabled()
        key = key, torch.get_num_threads(), torch.is_grad_enabled(), strict
        graph = self._graphs.get(key)
        if isinstance(graph, Library):
            return graph(*arguments)
        if graph is not None and self.guarded:
            with _compiling():  # which it does again where a module was changed
                return graph(*arguments)
        if graph is not None:
            try:
                with torch.compiler.set_stance("default", skip_guard_eval_unsafe=True):
                    return graph(*arguments)
            except RuntimeError as error:
                # A setting of the whole process, such as deterministic algorithms, was changed.
                if "Recompilation triggered" not in str(error):
                    raise
        if self.note is not None:
            return self.function(*arguments)
        return self._first(key, arguments)

    def _first(self, key: Hashable, arguments: tuple[Any, ...]) -> Any:
        library = self._library(arguments)
        if library is not None:
            self._graphs[key] = library
            return library(*arguments)
        try:
            with _compiling() as products:
                graph = self._compile(OPTIONS.get(self.device, {}) | products)
                result = graph(*arguments)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError, OSError) as error:
            self.note = (
                "the step runs uncompiled, at a lower speed and with the same numbers, "
                f"because compiling it failed: {_reason(error)}"
            )
            return self.function(*arguments)
        self._graphs[key] = graph
        return result

    def _library(self, arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
        """The function of ours as a library, which is found without tracing; None for others."""
        if self.guarded or self.device != "cpu":
            return None
        found = kept_library(self.function, arguments)
        if found is None:
            try:
                with _compiling() as products:
                    found = make_library(self.function, arguments, products)
            except Exception as error:  # of many kinds: the other way may do, or says why not
                logger.debug(f"no library was made: {_reason(error)}")
        return found

    def _compile(self, options: dict[str, Any]) -> Callable[..., Any]:
        # Torch keeps compiled graphs with the code object and refuses a ninth; a copy of the code
        # gives each graph a place of its own, where no other needs to be told from it.
        function: Any = self.function
        plain = getattr(function, "__func__", function)
        own: Any = FunctionType(
            plain.__code__.replace(),
            plain.__globals__,
            plain.__name__,
            plain.__defaults__,
            plain.__closure__,
        )
        if plain is not function:
            own = MethodType(own, function.__self__)
        return torch.compile(own, fullgraph=True, dynamic=False, options=options)


@contextmanager
def _compiling() -> Iterator[dict[str, Any]]:
    """Where the compiler may run: its options for products, and no warnings of its own modules."""
    with warnings.catch_warnings(), fast_products() as products:
        warnings.simplefilter("ignore")
        yield products


def layouts(tensors: Iterable[Tensor | None]) -> tuple[object, ...]:
    """What the code of a graph is made for: shape, strides and dtype of each tensor."""
    return tuple(None if t is None else (t.shape, t.stride(), t.dtype) for t in tensors)


def _reason(error: Exception) -> str:
    """The two lines of torch's report that say what happened, as one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or repr(error)
