"""A function of tensors as one compiled graph, or as it stands where no compiler is found.

Tracing is done by torch's compiler, once for each shape of the arguments; what it makes is kept on
disk and found again by the next process. A step that runs in a millisecond is called again without
the checks, a tenth of that, which would find that a module was changed in between. On a GPU, where
a step is a tenth of a millisecond, its launches are recorded and from then on replayed as one.
"""

import logging
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from aevb.library import kept_library, make_library
from aevb.products import fast_products

logger = logging.getLogger("aevb")


class Compiled:
    """`function`, compiled at its first call for each `key`.

    Shapes: whatever the function takes; a key must tell apart any two calls that need another
    graph: layouts of the tensors (see `layouts`), and the mode of the modules. Modules among the
    arguments may be changed between calls only where it is `guarded`, and so looks. On a GPU what
    is not guarded is recorded: its results lie where the next call puts its own. What lies in the
    memory of the processor is sent.
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
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, key: Hashable, *arguments: Any) -> Any:
        key = key, *self._settings()
        graph = self._graphs.get(key)
        if graph is None:
            return self._first(key, arguments) if self.note is None else self.function(*arguments)
        if self.guarded:
            with _compiling():  # which it does again where a module was changed
                return graph(*arguments)
        if self.device == "cuda":
            return self._replay(key, graph, arguments)
        return graph(*arguments)

    def _settings(self) -> tuple[object, ...]:
        """What may be set for the whole process between two calls, and needs another graph."""
        return (
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_autocast_enabled(self.device),
        )

    def _first(self, key: Hashable, arguments: tuple[Any, ...]) -> Any:
        library = self._library(arguments)
        if library is not None:
            self._graphs[key] = library
            return library(*arguments)
        try:
            with _compiling() as products:
                options = products
                if self.device == "cpu":
                    options["cpp_wrapper"] = True  # the calls between kernels in C++ too
                if not self.guarded:
                    options["guard_filter_fn"] = _no_guards
                graph = self._compile(options)
                sent = _on_gpu(arguments) if self.device == "cuda" else arguments
                result = graph(*sent)
        except Exception as error:  # whatever it is: the function itself says what is wrong
            self.note = (
                "the step runs uncompiled, at a lower speed and with the same numbers, "
                f"because compiling it failed: {_reason(error)}"
            )
            return self.function(*arguments)
        self._graphs[key] = graph
        return result

    def _replay(self, key: Hashable, graph: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """The recording of a graph with these objects beside its tensors, made at its second call.

        The first one has run the kernels, which chooses the best of some, and cannot be recorded.
        """
        key = key, *(id(part) for part in arguments if not isinstance(part, Tensor | tuple))
        if key not in self._recordings:
            self._recordings[key] = _Recording(graph, arguments)
        return self._recordings[key](*arguments)

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
        own.__kwdefaults__ = plain.__kwdefaults__
        if plain is not function:
            own = MethodType(own, function.__self__)
        return torch.compile(own, fullgraph=True, dynamic=False, options=options)


class _Recording:
    """The launches of one call, to be repeated on what is copied to where its tensors were.

    Objects that are no tensors, nor tuples of them, are held as they were at the recording.
    """

    def __init__(self, graph: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._arguments = _on_gpu(arguments)
        self._places = _given(self._arguments)
        self._launches = torch.cuda.CUDAGraph()
        # Another thread may send what the next steps need meanwhile.
        with torch.cuda.graph(self._launches, capture_error_mode="thread_local"):
            self._result = graph(*self._arguments)

    def __call__(self, *arguments: Any) -> Any:
        torch._foreach_copy_(self._places, _given(arguments), non_blocking=True)
        self._launches.replay()
        return self._result


def _given(arguments: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among the arguments, and in tuples among them."""
    parts = (x for part in arguments for x in (part if isinstance(part, tuple) else (part,)))
    return [x for x in parts if isinstance(x, Tensor)]


def _on_gpu(part: Any) -> Any:
    """Copies of tensors, and of tuples of them, on the GPU; anything else as it is."""
    if isinstance(part, tuple):
        parts = [_on_gpu(x) for x in part]
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
    return part.cuda().clone() if isinstance(part, Tensor) else part


@contextmanager
def _compiling() -> Iterator[dict[str, Any]]:
    """Where the compiler may run: its options for products, and no warnings of its own modules.

    It cannot follow how a distribution of torch looks at its arguments: one that is made inside of
    another does so whatever was asked for. Torch turns that off for the whole process, at its first
    compilation and for good; here it is off as long as the compiler runs.
    """
    looks = Distribution._validate_args
    with warnings.catch_warnings(), fast_products() as products:
        warnings.simplefilter("ignore")
        Distribution.set_default_validate_args(False)
        try:
            yield products
        finally:
            Distribution.set_default_validate_args(looks)


def _no_guards(guards: Sequence[object]) -> list[bool]:
    """None of the checks that a graph is still right: the key tells, at a tenth of the time."""
    return [False] * len(guards)


def layouts(tensors: Iterable[Tensor | None]) -> tuple[object, ...]:
    """What the code of a graph is made for: shape, strides and dtype of each tensor.

    Shapes: tensors of any, or None.
    Example:
        >>> layouts([torch.zeros(3, 2), None])
        ((torch.Size([3, 2]), (2, 1), torch.float32), None)
    """
    return tuple(None if t is None else (t.shape, t.stride(), t.dtype) for t in tensors)


def _reason(error: Exception) -> str:
    """The two lines of torch's report that say what happened, as one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or repr(error)
