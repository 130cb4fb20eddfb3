"""Where tensors live: on the processor, or on a GPU that is fed and not waited for.

A GPU runs behind the program that feeds it. What is sent to it lies in memory that does not move
(pinned), so that nobody waits; how long it took is written down by the GPU itself.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from aevb.errors import UsageError

SHARE_FOR_ROWS = 0.5
"""Of the free memory of a GPU, for the rows of a data set."""


def has_gpu() -> bool:
    """Whether torch finds a GPU that it can use.

    Example:
        >>> device_for("auto", large=True) == ("cuda" if has_gpu() else "cpu")
        True
    """
    return bool(torch.cuda.is_available())


def device_for(asked: str, large: bool) -> str:
    """The device asked for; for `auto` a GPU, where there is one and the work is large.

    Errors: UsageError where a GPU is asked for and there is none.
    Example:
        >>> device_for("auto", large=False)
        'cpu'
    """
    if asked == "cuda" and not has_gpu():
        raise UsageError(
            "device cuda needs a GPU that torch can use, and it finds none: choose cpu, or leave "
            "the device out"
        )
    if asked != "auto":
        return asked
    return "cuda" if large and has_gpu() else "cpu"


def tensor_of(*modules: Any) -> Tensor:
    """A floating-point parameter of modules of anyone's make, or else a buffer, or else a zero.

    Shapes: its own; () of the zero.
    Example:
        >>> from torch import nn
        >>> tensor_of(nn.Identity(), nn.Linear(2, 3).double()).dtype
        torch.float64
    """
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                return tensor.detach()  # type: ignore[no-any-return]
    return torch.zeros(())


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on another device; a GPU takes it while the program goes on.

    Shapes: those of the tensor.
    Example:
        >>> sent(torch.ones(2), torch.device("cpu"))
        tensor([1., 1.])
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def has_room(device: torch.device, size: int) -> bool:
    """Whether so many bytes of rows may stay on a GPU, beside what a model needs."""
    return size <= SHARE_FOR_ROWS * torch.cuda.mem_get_info(device)[0]


@contextmanager
def full_float32() -> Iterator[None]:
    """Within it float32 is that on a GPU too: torch's convolutions else keep 10 of its 23 bits.

    Example:
        >>> with full_float32():
        ...     torch.backends.cuda.matmul.fp32_precision
        'ieee'
    """
    cudnn: Any = torch.backends.cudnn
    kinds = [cudnn.conv, torch.backends.cuda.matmul]
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


class Stopwatch:
    """Adds up the time that a device spends in marked stretches; read once, at the end.

    Units: seconds. On a GPU the marks are events in its queue, and only `total` waits for it.
    Example:
        >>> watch = Stopwatch(torch.device("cpu"))
        >>> with watch.running():
        ...     product = torch.ones(8, 8) @ torch.ones(8, 8)
        >>> watch.total() > 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """A stretch that counts."""
        if self.device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            stop.record()
            self._events.append((start, stop))
        else:
            before = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - before

    def total(self) -> float:
        """The time so far, once the device is done."""
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(a.elapsed_time(b) for a, b in self._events) / 1e3
            self._events = []
        return self._seconds
