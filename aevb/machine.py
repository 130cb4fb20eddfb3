"""The machine that this process runs on: the cores that others leave idle, the memory it keeps.

Nothing here imports torch: the first look at the cores is taken when the process starts.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_STATISTICS = Path("/proc/stat")
_BUSY_FIELDS = (0, 1, 2, 5, 6)
"""user, nice, system, irq and softirq; what another virtual machine steals is no process here."""

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_LARGEST_KEPT = 32 << 20
"""The largest block that the C library keeps for the next call rather than give it back."""


def usable_cores() -> int:
    """How many cores this process may run on, idle or not."""
    return len(_cores())


def _cores() -> set[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _busy_seconds() -> float | None:
    """Seconds that these cores were busy since the machine started; None where it does not tell."""
    try:
        ticks = 0
        for line in _STATISTICS.read_text().splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in _cores():
                ticks += sum(int(fields[i]) for i in _BUSY_FIELDS)
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class Look:
    """Seconds that the cores were busy, and that this process was, up to now."""

    at: float = field(default_factory=time.monotonic)
    busy: float | None = field(default_factory=_busy_seconds)
    own: float = field(default_factory=lambda: sum(os.times()[:4]))

    def idle_cores_since(self) -> int | None:
        """How many cores other processes have left to this one since; None where nobody tells.

        cores - (busy seconds of all cores - this process's own) / seconds, rounded, at least 1
        """
        now = Look()
        if self.busy is None or now.busy is None or now.at <= self.at:
            return None
        others = (now.busy - self.busy) - (now.own - self.own)
        return max(1, round(usable_cores() - others / (now.at - self.at)))


def usable_threads(most: int, since: Look) -> int:
    """At most `most` threads, and no more than there are idle cores.

    A thread that waits for one whose core is taken by another process makes every product wait.
    """
    idle = since.idle_cores_since()
    return most if idle is None else min(most, idle)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within it, the C library keeps the memory that a step frees for the next step.

    Otherwise the system takes back large blocks and gives them anew, page by page, at every step,
    which costs up to half of its time. Does nothing where the C library is not GNU's.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)


PROCESS_START = Look()
"""A look taken when the process imported this module."""
