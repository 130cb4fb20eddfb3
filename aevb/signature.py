"""All that decides what a function computes, as one hash: its code, its objects, the process.

Two calls with one signature may share a compiled graph without its being traced. So nothing is
left out that is not known to be without effect, and where something cannot be looked through, say
a module or a function that is not of this library or of torch, there is no signature.
"""

import hashlib
import os
import platform
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cached_property, partial
from inspect import unwrap
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import kl

from aevb.products import processor

_ROOMS = (
    *("algorithms", "compilation", "conditional", "data.dataset", "devices", "distributions"),
    *("enumeration", "evaluation", "families", "flows", "gaussian_mixture", "library", "mcmc"),
    *("model", "networks", "objectives", "optimizers", "posterior", "priors", "products"),
    *("randomness", "refinement", "signature"),
)
"""The modules of this library whose functions a graph is traced through, or made by."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_HOOKS = [name for name in vars(nn.modules.module) if name.startswith("_global_")]


class _UnknownError(Exception):
    """Something that cannot be looked through."""


def signature(*things: Any) -> str | None:
    """The hash of functions, modules and arguments, and of all else that decides; None if unknown.

    Of tensors that are parameters, buffers or arguments it is the layout, and which are the same;
    their values are not looked at. Numbers, words and switches count as they are.
    Example:
        >>> from aevb.networks import MLP
        >>> signature(MLP(2, [3], 4)) == signature(MLP(2, [3], 4)) != signature(MLP(2, [3, 3], 4))
        True
        >>> signature(lambda x: x) is None
        True
    """
    try:
        return _hashed((*_tokens(things, {}), *_code(_ROOMS), *_process()))
    except (_UnknownError, ValueError, RecursionError):
        return None


def surroundings() -> str:
    """The hash of what a graph is compiled by and under: our part in it, torch, the process."""
    return _hashed((*_code(("library", "products")), *_process()))


def _hashed(tokens: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for token in tokens:
        digest.update(f"{len(token)}:{token};".encode())
    return digest.hexdigest()


def _tokens(value: Any, seen: dict[int, int]) -> Iterator[str]:
    kind = type(value)
    if isinstance(value, Tensor | nn.Module):
        again = id(value) in seen
        yield f"{kind.__name__} {seen.setdefault(id(value), len(seen))}"
        if not again:
            yield from _layout(value) if isinstance(value, Tensor) else _module(value, seen)
    elif kind in _PLAIN or kind in _NAMED:
        yield f"{kind.__name__} {value!r}"
    elif isinstance(value, Enum):
        yield f"{_name(kind)} {value.name}"
    elif isinstance(value, type | FunctionType | BuiltinFunctionType):
        yield from _called(value, seen)
    elif kind is MethodType:
        yield from _tokens((value.__func__, value.__self__), seen)
    elif kind is partial:
        yield from _tokens((value.func, value.args, value.keywords), seen)
    elif kind in (dict, OrderedDict):
        yield f"dict {len(value)}"
        yield from _each([part for pair in value.items() for part in pair], seen)
    elif kind in (set, frozenset):
        yield from _tokens(sorted(map(str, value)), seen)
    elif kind in (tuple, list, torch.Size) or (isinstance(value, tuple) and _name(kind)):
        yield f"{kind.__name__} {len(value)}"
        yield from _each(value, seen)
    elif is_dataclass(value):
        yield f"{_name(kind)}"
        yield from _each([getattr(value, f.name) for f in fields(value) if f.compare], seen)
    else:
        raise _UnknownError


def _each(values: Iterable[Any], seen: dict[int, int]) -> Iterator[str]:
    for value in values:
        yield from _tokens(value, seen)


def _layout(tensor: Tensor) -> Iterator[str]:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
        raise _UnknownError
    yield f"{tensor.shape} {tensor.stride()} {tensor.dtype} {tensor.device} {tensor.requires_grad}"


def _module(module: nn.Module, seen: dict[int, int]) -> Iterator[str]:
    """Class and attributes: what is not a parameter, a buffer or a module must be no tensor."""
    yield _name(type(module))
    for name, value in sorted(vars(module).items()):
        if isinstance(value, Tensor):
            raise _UnknownError  # a constant of which a graph would keep the value
        yield name
        yield from _tokens(value, seen)


def _called(value: Any, seen: dict[int, int]) -> Iterator[str]:
    """A class or function: by its name, or of ours that stands inside another, by its code."""
    if isinstance(value, FunctionType) and "<locals>" in value.__qualname__:
        if not _ours(value.__module__):
            raise _UnknownError
        yield from _function(value, lambda part: _tokens(part, seen))
    else:
        yield _name(value)


def _name(value: Any) -> str:
    """The name under which a class or function of torch's or ours is found, where it is it."""
    found: Any = sys.modules.get(value.__module__ or "")
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not value or not (_ours(value.__module__) or _known(value.__module__)):
        raise _UnknownError
    return f"{value.__module__}.{value.__qualname__}"


def _ours(module: str, rooms: Iterable[str] = _ROOMS) -> bool:
    return any(module == f"aevb.{room}" or module.startswith(f"aevb.{room}.") for room in rooms)


def _known(module: str) -> bool:
    return module.partition(".")[0] in ("torch", "builtins", "math")


def _code(rooms: Iterable[str]) -> Iterator[str]:
    """Every function and constant of our rooms as they stand in the process, not in the files."""
    for name in sorted(name for name in sys.modules if _ours(name, rooms)):
        yield name
        yield from _members(vars(sys.modules[name]))


def _members(members: Mapping[str, Any]) -> Iterator[str]:
    for name, value in sorted(members.items()):
        if callable(value) or not name.startswith("__"):
            yield name
            yield from _member(value)


def _member(value: Any) -> Iterator[str]:
    """What stands in a module or a class of ours: here no object ends it, for most decide nothing.

    Those that a step is traced through are among its arguments, or behind its method.
    """
    if isinstance(value, property | classmethod | staticmethod | cached_property):
        value = next(getattr(value, n) for n in ("fget", "func", "__func__") if hasattr(value, n))
    value = unwrap(value) if callable(value) else value
    if isinstance(value, FunctionType):
        yield from _function(value, _captured)
    elif isinstance(value, type) and _ours(value.__module__):
        yield from _members(vars(value))
    elif isinstance(value, type | ModuleType | BuiltinFunctionType):
        yield f"{getattr(value, '__module__', '')}.{value.__name__}"
    elif isinstance(value, dict):
        yield from _member([part for pair in value.items() for part in pair])
    elif isinstance(value, tuple | list):
        yield f"{len(value)}"
        for part in value:
            yield from _member(part)
    elif is_dataclass(value) or type(value) is partial:
        names = [f.name for f in fields(value)] if is_dataclass(value) else ["func", "args"]
        yield from _member([type(value), *(getattr(value, name) for name in names)])
    else:
        yield f"{type(value)} {value!r}" if type(value) in _PLAIN else f"{type(value)}"


def _captured(value: Any) -> Iterator[str]:
    """What a function took from around it; of a class, which may be its own, the name."""
    yield from _member(value.__qualname__ if isinstance(value, type) else value)


def _function(function: FunctionType, part: Callable[[Any], Iterator[str]]) -> Iterator[str]:
    """Code, defaults, and what it took from around it."""
    yield from _instructions(function.__code__)
    yield from part((function.__defaults__, function.__kwdefaults__))
    for cell in function.__closure__ or ():
        yield from part(cell.cell_contents)


def _instructions(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        else:
            yield repr(sorted(map(repr, constant)) if type(constant) is frozenset else constant)


def _process() -> Iterator[str]:
    """Torch, the machine, and the settings of the process that a graph is made under."""
    if any(getattr(nn.modules.module, name) for name in _HOOKS if name.endswith("hooks")):
        raise _UnknownError
    formulas = [(p, q, f) for (p, q), f in kl._KL_REGISTRY.items()]
    if not all(_ours(f.__module__) or _known(f.__module__) for _, _, f in formulas):
        raise _UnknownError
    yield f"{torch.__version__} {torch.version.git_version} {sys.version} {platform.platform()}"
    yield f"{sorted(processor().items())} {torch.backends.mkldnn.is_available()}"
    yield f"{torch.get_num_threads()} {torch.is_grad_enabled()} {torch.get_default_dtype()}"
    yield f"{torch.are_deterministic_algorithms_enabled()} {torch.get_float32_matmul_precision()}"
    yield f"{torch.is_autocast_enabled('cpu')} {torch.get_autocast_dtype('cpu')}"
    names = [
        n for n in os.environ if n.startswith(("TORCH", "CXX", "ATEN", "MKL", "DNNL", "ONEDNN"))
    ]
    yield from (f"{n}={os.environ[n]}" for n in sorted(names) if n != "TORCHINDUCTOR_CACHE_DIR")
