"""A function of tensors as a shared library, made once for all processes.

Torch's tracers and its compiler take seconds to import and to find what they made before; a library
of machine code is opened in a millisecond. It is found by the signature of all that decides it, or
else traced, which also finds it where the same graph was made under another signature.

    compiled/libraries/GRAPH/    code.so, manifest.json with its checksums
    compiled/signatures/         a file for each signature, with the name of its graph

Only a folder of the user's own, that nobody else may write to, is kept and read.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import fields, is_dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from aevb.files import cache_folder, replace_atomically
from aevb.signature import signature, surroundings

_MANIFEST = "manifest.json"
_CODE = ("code.so", "code.json")
"""Machine code, and the calls in it that torch makes by name."""
_NO_LIBRARY = (OSError, ValueError, LookupError, TypeError, RuntimeError)
_OPTIONS = {
    "cpp.vec_isa_ok": True,
    "aot_inductor.precompile_headers": False,
    "aot_inductor.enable_line_tables": False,
    "aot_inductor.enable_frame_pointer": False,
}
"""Half of the time to compile otherwise goes into trying out what the processor's flags tell, which
shows soon enough, and into headers for many more libraries than a user makes; and most of a library
would be for debuggers."""


class Library:
    """A function as it lies in a folder: called with the arguments that it was made for.

    Shapes, strides and dtypes must be those; what is in the tensors may differ.
    """

    def __init__(self, folder: Path, result: str) -> None:
        self._code = torch._C._aoti.AOTIModelContainerRunnerCpu(str(folder / "code.so"), 1)
        self._result = pytree.treespec_loads(result)

    def __call__(self, *arguments: Any) -> Any:
        return pytree.tree_unflatten(self._code.run(_tensors(arguments)), self._result)

    def try_out(self, given: list[Tensor]) -> None:
        """Run it on copies: what does not run is seen before anything is written to, or kept."""
        copies = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).copy_(t) for t in given]
        with torch.random.fork_rng(devices=[]):
            self._code.run(copies)


def kept_library(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Library | None:
    """The library that an earlier process made for the same function and arguments, if any."""
    name, folder = _suited(function, arguments), _folder()
    if name is None or folder is None:
        return None
    with suppress(*_NO_LIBRARY):
        return _opened(folder / "libraries" / (folder / "signatures" / name).read_text())
    return None


def make_library(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> Library | None:
    """Trace and compile the function, keep the library, and open it; None where it is not suited.

    Errors: those of torch's tracer and compiler.
    """
    name = _suited(function, arguments)
    if name is None:
        return None
    graph, result = _traced(function, arguments)
    which, folder = _hash_of(graph, arguments, options), _folder()
    if folder is not None:
        with suppress(*_NO_LIBRARY):
            found = _opened(folder / "libraries" / which)
            replace_atomically(folder / "signatures" / name, which.encode())
            return found
    with tempfile.TemporaryDirectory() as made:
        given = _tensors(arguments)
        _compile(graph, given, options, Path(made))
        _write_manifest(Path(made), result)
        library = _opened(Path(made))  # open files may be removed
        library.try_out(given)
        if folder is not None:
            with suppress(OSError):  # a full disk, say: it is made again
                _keep(Path(made), folder / "libraries" / which)
                replace_atomically(folder / "signatures" / name, which.encode())
    return library


def _suited(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str | None:
    """The signature, where no tensors share memory and no gradients are asked for."""
    given = _tensors(arguments)
    places = [t.untyped_storage().data_ptr() for t in given if t.numel()]
    if len(set(places)) < len(places) or any(t.device.type != "cpu" for t in given):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        return None
    return signature(function, arguments)


# -- tensors in arguments -------------------------------------------------------------------------


def _tensors(value: Any) -> list[Tensor]:
    """All tensors of the arguments, in an order that depends on their kinds alone."""
    found: list[Tensor] = []
    _gather(value, found)
    return found


def _gather(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, nn.Module):
        found += value.parameters()
        found += value.buffers()
    else:
        for part in _parts(value):
            _gather(part, found)


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (tuple, list)):
        return value
    return [getattr(value, f.name) for f in fields(value)] if is_dataclass(value) else []


def _put(value: Any, given: Iterator[Tensor], stack: ExitStack) -> Any:
    """The arguments with other tensors; modules have theirs until the stack is closed."""
    if isinstance(value, Tensor):
        return next(given)
    if isinstance(value, nn.Module):
        names = [n for n, _ in (*value.named_parameters(), *value.named_buffers())]
        new = {name: next(given) for name in names}
        stack.enter_context(nn.utils.stateless._reparametrize_module(value, new, tie_weights=True))
        return value
    parts = [_put(part, given, stack) for part in _parts(value)]
    if isinstance(value, dict):
        return dict(zip(value, parts, strict=True))
    if isinstance(value, tuple | list):
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if parts:
        return replace(value, **{f.name: p for f, p in zip(fields(value), parts, strict=True)})
    return value


# -- making ---------------------------------------------------------------------------------------


def _traced(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, str]:
    """The function as a graph of its tensors, and the kind of its result.

    A tensor that is not among the arguments, or a decision that hangs on what is in one, ends it.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    results: list[pytree.TreeSpec] = []

    def flat(*given: Tensor) -> list[Any]:
        with ExitStack() as stack:
            tensors = iter(given)
            result = function(*[_put(part, tensors, stack) for part in arguments])
        leaves, spec = pytree.tree_flatten(result)
        results.append(spec)
        return leaves

    with torch.compiler._compile_session_context():
        graph = make_fx(flat, tracing_mode="fake")(*_tensors(arguments))
    return graph, pytree.treespec_dumps(results[-1])


def _hash_of(graph: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    """Of the graph with the layouts of its inputs, and of all under which it is compiled."""
    digest = hashlib.sha256(surroundings().encode())
    for tensor in _tensors(arguments):
        digest.update(f"{tensor.shape} {tensor.stride()} {tensor.dtype};".encode())
    for name, part in graph.named_modules():
        digest.update(f"{name}: {getattr(part, 'code', '')}".encode())
    for name, tensor in (*graph.named_parameters(), *graph.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} {tensor.tolist()};".encode())
    known = {k: getattr(v, "uuid", lambda v=v: repr(v))() for k, v in options.items()}
    digest.update(repr(sorted(known.items())).encode())
    return digest.hexdigest()


def _compile(graph: Any, given: list[Tensor], options: dict[str, Any], folder: Path) -> None:
    from torch._inductor import aot_compile, list_options

    path, known = folder / "code.so", list_options()
    options = options | {k: v for k, v in _OPTIONS.items() if k in known}
    options["aot_inductor.output_path"] = str(path)
    log = logging.getLogger("torch._inductor.ir")  # it warns of calls that are made by name
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        aot_compile(graph, tuple(given), options=options)
    finally:
        log.setLevel(level)
    # Calls of torch's that have no place in its C interface are listed under another name.
    for calls in folder.glob("*.wrapper.json"):
        calls.rename(path.with_suffix(".json"))


# -- keeping --------------------------------------------------------------------------------------


def _folder() -> Path | None:
    """Where libraries are kept: by torch's compiler's own code; None where it may not be."""
    with suppress(OSError, RuntimeError):
        told = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        folder = (Path(told) if told else cache_folder() / "compiled") / "aevb"
        folder.parent.mkdir(parents=True, exist_ok=True)
        for path in (folder, folder / "libraries", folder / "signatures"):
            path.mkdir(mode=0o700, exist_ok=True)
        about = folder.stat()
        if os.name == "posix" and (about.st_uid == os.getuid() and not about.st_mode & 0o022):
            return folder
    return None


def _write_manifest(folder: Path, result: str) -> None:
    names = [name for name in _CODE if (folder / name).exists()]
    about = {"files": names, "result": result, "sha256": _checksum(folder, names, result)}
    (folder / _MANIFEST).write_text(json.dumps(about))


def _checksum(folder: Path, names: Sequence[str], result: str) -> str:
    digest = hashlib.sha256(f"{names} {result}".encode())
    for name in names:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _keep(made: Path, folder: Path) -> None:
    # What is left of it where the disk is full, or another process was faster, goes with it.
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as beside:
        for name in (_MANIFEST, *_CODE):
            if (made / name).exists():
                shutil.copy(made / name, beside)
        shutil.rmtree(folder, ignore_errors=True)  # there is one only where it was damaged
        os.rename(beside, folder)


def _opened(folder: Path) -> Library:
    """The library in a folder. Errors: `_NO_LIBRARY` where there is none, or a damaged one."""
    names, result, checksum = itemgetter("files", "result", "sha256")(
        json.loads((folder / _MANIFEST).read_text())
    )
    if not {"code.so"} <= set(names) <= set(_CODE) or checksum != _checksum(folder, names, result):
        raise ValueError(f"{folder} is damaged")
    return Library(folder, result)
