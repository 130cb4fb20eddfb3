"""What each step of training is given, a batch of rows and its noise, made before it is needed.

    epoch e:  order = permutation(seed, e);   step t:  its next M rows, noise (seed, t)

On the processor rows in memory are gathered a few steps at once, rows in a file are read ahead by
a thread. A GPU keeps the rows as they are stored, where it has the room; the noise of many steps
is drawn by a thread and sent at once, so that no step waits for the program.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.data import Rows
from aevb.data.ahead import read_ahead
from aevb.data.dataset import row_numbers
from aevb.data.maps import is_mapped
from aevb.devices import has_room, sent
from aevb.distributions.reparameterization import Noise
from aevb.posterior import Batch
from aevb.randomness import Stream, generator, rewind

Portion = tuple[Batch, Tensor]
"""A batch and its noise."""
_Group = tuple[int, tuple[Tensor | None, ...]]
"""So many steps, with their rows, positions, keys and noise one after another."""

NUMBERS_AT_ONCE = 1 << 20
"""Of noise, drawn ahead of the steps that need it."""
MUCH_NOISE = 1 << 13
"""In a step; more is drawn in several threads for a GPU."""
STEPS_AT_ONCE = {"cpu": 8, "cuda": 64}
ROWS_SENT_AT_ONCE = 10_000


@dataclass
class Portions:
    """The portions of a run: M = `batch_size` rows and (`samples`, M, *shape) of noise.

    Shapes: a batch holds (M, X) rows as they are stored, to be treated inside the step; the last
    one of an epoch may be smaller. `like` is a parameter: its dtype is the noise's, its device that
    of all.
    """

    rows: Rows
    noise: Noise
    like: Tensor
    batch_size: int
    samples: int
    seed: int

    def __post_init__(self) -> None:
        self.per_epoch = math.ceil(len(self.rows) / self.batch_size)
        self._drawn = max(1, self.samples * self.batch_size * self.noise.shape.numel())
        self._own = threading.local()
        self._mapped = is_mapped(self.rows.values)

    @contextmanager
    def of_epoch(self, epoch: int, done: int) -> Iterator[Iterator[Portion]]:
        """Those of an epoch from its step `done` (from 0) on."""
        order = generator(self.seed, Stream.ORDER, epoch).permutation(row_numbers(len(self.rows)))
        steps = range(done, self.per_epoch)
        if self.like.device.type == "cuda":
            with (
                ThreadPoolExecutor(os.cpu_count()) as pool,
                closing(
                    read_ahead(self._loader(order, epoch, pool), self._groups(steps), 2)
                ) as groups,
            ):
                yield (portion for group in groups for portion in self._on_gpu(*group))
        elif self._mapped:
            with closing(read_ahead(lambda i: self._one(order, epoch, i), steps)) as ahead:
                yield ahead
        else:
            # A few at once: between two steps the processor has forgotten how to make them.
            groups_here = self._groups(steps)
            yield (p for few in groups_here for p in [self._one(order, epoch, i) for i in few])

    def _groups(self, steps: range) -> Iterator[range]:
        """The steps a few at a time; a smaller last one by itself, so that each group is even."""
        most = max(1, min(STEPS_AT_ONCE[self.like.device.type], NUMBERS_AT_ONCE // self._drawn))
        whole = len(self.rows) // self.batch_size
        start, few = steps.start, min(8, most)
        while start < steps.stop:
            stop = min(start + few, whole) if start < whole else steps.stop
            yield range(start, stop)
            start, few = stop, min(2 * few, most)  # the first one is waited for

    def _one(self, order: NDArray[Any], epoch: int, i: int) -> Portion:
        positions = self._positions(order, range(i, i + 1))
        t = epoch * self.per_epoch + i
        batch = Batch(self.rows.stored(positions), torch.from_numpy(positions), self.rows.key(t))
        return batch, self._noise(len(positions), t)

    # -- on a GPU ---------------------------------------------------------------------------------

    def _loader(self, order: NDArray[Any], epoch: int, pool: Executor) -> Callable[[range], _Group]:
        """What a thread makes of a group of steps, on the processor; much noise in more threads."""

        def load(steps: range) -> _Group:
            positions = self._positions(order, steps)
            m, first = len(positions) // len(steps), epoch * self.per_epoch
            each = pool.map if self._drawn > MUCH_NOISE else map
            noise = torch.stack(list(each(lambda i: self._noise(m, first + i), steps)))
            keys = [key for i in steps if (key := self.rows.key(first + i)) is not None]
            stored = None if self._resident is not None else self.rows.stored(positions)
            drawn = torch.stack(keys) if keys else None
            parts = (stored, torch.from_numpy(positions), drawn, noise)
            return len(steps), tuple(None if t is None else t.pin_memory() for t in parts)

        return load

    def _on_gpu(self, steps: int, parts: Sequence[Tensor | None]) -> Iterator[Portion]:
        """The portions of a group, sent in one go."""
        device = self.like.device
        there = [None if t is None else t.to(device, non_blocking=True) for t in parts]
        stored, positions, keys, noise = there
        assert positions is not None
        assert noise is not None
        if stored is None:
            assert self._resident is not None
            stored = self._resident[positions]
        rows, numbers = stored.chunk(steps), positions.chunk(steps)
        for k in range(steps):
            yield Batch(rows[k], numbers[k], None if keys is None else keys[k]), noise[k]

    @cached_property
    def _resident(self) -> Tensor | None:
        """The rows as they are stored, (N, ...), on the GPU; None where they stay outside."""
        if self._mapped or not len(self.rows):
            return None
        first, device = self.rows.stored(np.arange(1)), self.like.device
        if not has_room(device, first.nbytes * len(self.rows)):
            return None
        there = torch.empty((len(self.rows), *first.shape[1:]), dtype=first.dtype, device=device)
        for start in range(0, len(self.rows), ROWS_SENT_AT_ONCE):
            part = np.arange(start, min(start + ROWS_SENT_AT_ONCE, len(self.rows)))
            there[start : start + len(part)] = sent(self.rows.stored(part), device)
        return there

    # -- rows and noise ---------------------------------------------------------------------------

    def _positions(self, order: NDArray[Any], steps: range) -> NDArray[np.int64]:
        m = self.batch_size
        return order[steps.start * m : steps.stop * m].astype(np.int64)

    def _noise(self, m: int, t: int) -> Tensor:
        if not hasattr(self._own, "source"):  # a thread has its own
            self._own.source = generator(self.seed, Stream.NOISE)
        return self.noise.draw(rewind(self._own.source, t), (self.samples, m), self.like.dtype)
