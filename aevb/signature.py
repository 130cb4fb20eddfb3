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
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from inspect import unwrap
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import kl

_ROOMS = (
    *("algorithms", "compilation", "conditional", "data.dataset", "distributions", "evaluation"),
    *("library", "model", "networks", "objectives", "optimizers", "posterior", "products"),
    *("randomness", "signature"),
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
    digest = hashlib.sha256()
    try:
        for token in (*_tokens(things, {}), *_code(), *_process()):
            digest.update(f"{len(token)}:{token};".encode())
    except _UnknownError:
        return None
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
        yield from _each([getattr(value, field.name) for field in fields(value)], seen)
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
        yield from _function(value, seen)
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


def _ours(module: str) -> bool:
    return any(module == f"aevb.{room}" or module.startswith(f"aevb.{room}.") for room in _ROOMS)


def _known(module: str) -> bool:
    return module.partition(".")[0] in ("torch", "builtins", "math")


def _code() -> Iterator[str]:
    """Every function and constant of our rooms as they stand in the process, not in the files."""
    for name in sorted(filter(_ours, sys.modules)):
        yield name
        yield from _members(vars(sys.modules[name]))


def _members(members: Any) -> Iterator[str]:
    for name, value in sorted(members.items()):
        if name.startswith("__") and not callable(value):
            continue
        yield name
        yield from _member(value)


def _member(value: Any) -> Iterator[str]:
    if isinstance(value, property):
        value = value.fget
    value = unwrap(getattr(value, "func", getattr(value, "__func__", value)))
    if isinstance(value, FunctionType):
        yield from _function(value, {})
    elif isinstance(value, type) and _ours(value.__module__):
        yield from _members(vars(value))
    elif isinstance(value, type | ModuleType | BuiltinFunctionType):
        yield f"{getattr(value, '__module__', '')}.{value.__name__}"
    elif type(value) in (tuple, list, dict):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from _member(key)
            yield from _member(part)
    else:
        yield f"{type(value)} {value!r}" if type(value) in _PLAIN else f"{type(value)}"


def _function(function: FunctionType, seen: dict[int, int]) -> Iterator[str]:
    """Code, defaults, and what it took from around it."""
    yield from _instructions(function.__code__)
    yield f"{function.__defaults__} {function.__kwdefaults__}" if _plain(function) else "defaults"
    for cell in function.__closure__ or ():
        content = cell.cell_contents
        if isinstance(content, FunctionType):
            yield from _function(content, seen)
        elif seen or type(content) in _PLAIN:
            yield from _tokens(content, seen)


def _plain(function: FunctionType) -> bool:
    given = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return all(type(value) in _PLAIN for value in given)


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
    tell = getattr(torch.cpu, "get_capabilities", dict)
    yield f"{sorted(tell().items())} {torch.backends.mkldnn.is_available()}"
    yield f"{torch.get_num_threads()} {torch.is_grad_enabled()} {torch.get_default_dtype()}"
    yield f"{torch.are_deterministic_algorithms_enabled()} {torch.get_float32_matmul_precision()}"
    yield f"{torch.is_autocast_enabled('cpu')} {torch.get_autocast_dtype('cpu')}"
    names = [
        n for n in os.environ if n.startswith(("TORCH", "CXX", "ATEN", "MKL", "DNNL", "ONEDNN"))
    ]
    yield from (f"{n}={os.environ[n]}" for n in sorted(names) if n != "TORCHINDUCTOR_CACHE_DIR")
