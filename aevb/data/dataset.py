"""Rows ready for training: a split, a binarization, and batches as tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.data.maps import is_mapped, rows_of
from aevb.data.source import Source
from aevb.errors import DataError, UsageError, at_least, shortly
from aevb.randomness import Stream, generator, rewind, uniform_in_step

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.1


class Binarization(Enum):
    """What is done to grey levels x in [0, 1] before a Bernoulli likelihood sees them.

        NONE       x as it is
        THRESHOLD  1 where x > 1/2, else 0
        ONCE       a draw of Bernoulli(x) for each cell, the same ever after
        EPOCH      such a draw, anew at each presentation in training, as ONCE elsewhere

    Errors: UsageError for a name that is none of these.
    Example:
        >>> grey = np.array([[0.2, 0.9]])
        >>> Rows(grey, np.arange(1), (2,), binarize=Binarization("threshold")).all()
        tensor([[0., 1.]])
    """

    NONE = "none"
    THRESHOLD = "threshold"
    ONCE = "once"
    EPOCH = "epoch"

    @classmethod
    def _missing_(cls, value: object) -> None:
        names = ", ".join(known.value for known in cls)
        raise UsageError(f"binarize must be one of {names}, found {shortly(value)}")


@dataclass(frozen=True)
class Treatment:
    """What makes float32 cells of stored rows, as tensor arithmetic: it goes into a compiled step.

        x = stored * scale,   then 1 where x > 1/2 (THRESHOLD), or where u < x (EPOCH with a key)

    Shapes: stored (M, X), or (M, X/8) bytes whose bits are the cells, to (M, X) float32; the key
    () names the uniform numbers u.
    Units: `scale` is what stored values are multiplied by to become what the model sees.
    Example:
        >>> pixels = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
        >>> Treatment(3, scale=1 / 255)(pixels)
        tensor([[0.0000, 0.2000, 1.0000]])
    """

    width: int
    scale: float = 1.0
    binarize: Binarization = Binarization.NONE
    packed: bool = False

    def __call__(self, stored: Tensor, key: Tensor | None = None) -> Tensor:
        """The cells of stored rows as the model sees them, (M, X) float32."""
        if self.packed:
            bits = (stored.unsqueeze(-1) >> torch.arange(7, -1, -1, device=stored.device)) & 1
            return bits.flatten(1)[:, : self.width].to(torch.float32)
        x = stored.to(torch.float32)
        x = x if self.scale == 1.0 else x * self.scale
        if self.binarize is Binarization.EPOCH and key is not None:
            return (uniform_in_step(key, x.shape) < x).to(x.dtype)
        return (x > 0.5).to(x.dtype) if self.binarize is Binarization.THRESHOLD else x


@dataclass(frozen=True)
class Rows:
    """Some rows of a source, given out as float32 batches; the source is never changed.

    Shapes: `values` (all rows, ...), `index` (N,) which of them belong here; a batch is (M, X).
    Units: values times `scale`, binarized as `Binarization` says by (seed, row), in training with
    EPOCH by (seed, step); a missing cell stays NaN.
    Errors: UsageError, of `limit`, for fewer than 1 row.
    Example:
        >>> pixels = np.array([[0, 255], [51, 0], [0, 0]], np.uint8)
        >>> rows = Rows(pixels, np.array([1, 0]), (2,), scale=1 / 255)
        >>> rows.take(np.array([0]))
        tensor([[0.2000, 0.0000]])
    """

    values: NDArray[np.generic]
    index: NDArray[np.int64]
    shape: tuple[int, ...]
    scale: float = 1.0
    binarize: Binarization = Binarization.NONE
    seed: int = 0
    all_labels: NDArray[np.int64] | None = None
    name: str = "data"
    """What they are called beside a number."""
    kept: NDArray[np.uint8] | None = field(default=None, init=False)
    """The binarized cells of these rows, 8 to a byte, (N, X / 8), where they are kept."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The class of each row, (N,), or None."""
        return None if self.all_labels is None else self.all_labels[self.index]

    @property
    def width(self) -> int:
        """X, the number of elements of a datum."""
        return int(np.prod(self.shape))

    @property
    def stated(self) -> str:
        """How they are binarized, as it stands beside a number."""
        mode = self.binarize.value
        return f"{mode} (one draw, seed {self.seed})" if mode in ("once", "epoch") else mode

    @property
    def treatment(self) -> Treatment:
        """What makes a batch of training from `stored`."""
        if self.kept is not None:
            return Treatment(self.width, packed=True)
        if self.binarize is Binarization.ONCE:
            return Treatment(self.width)
        return Treatment(self.width, self.scale, self.binarize)

    def stored(self, positions: NDArray[np.int64]) -> Tensor:
        """The rows at these positions as they lie in memory, to be treated: bytes stay bytes."""
        if self.kept is not None:
            return torch.from_numpy(self.kept[positions])
        if self.binarize is Binarization.ONCE:
            return self.take(positions)
        return self._cells(positions)

    def key(self, step: int) -> Tensor | None:
        """The key of the treatment in step `step` of training, where it draws at all."""
        if self.binarize is not Binarization.EPOCH or self.kept is not None:
            return None
        return torch.tensor(int(generator(self.seed, Stream.BINARIZATION, 0, step).integers(2**63)))

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """The rows at these positions as the model sees them outside training, (M, X)."""
        if self.kept is not None:
            return self.treatment(self.stored(positions))
        x = Treatment(self.width, self.scale)(self._cells(positions))
        if self.binarize is Binarization.NONE:
            return x
        level = 0.5 if self.binarize is Binarization.THRESHOLD else self._fixed_draw(positions)
        return torch.where(x.isnan(), x, (x > level).to(x.dtype))

    def chunks(self, size: int) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """All rows in order, as (positions, x) of at most `size` rows."""
        for start in range(0, len(self), size):
            positions = np.arange(start, min(start + size, len(self)))
            yield positions, self.take(positions)

    def all(self) -> Tensor:
        """Every row at once, (N, X)."""
        return self.take(np.arange(len(self)))

    def keep_bits(self) -> "Rows":
        """The same rows with what `take` gives, zeros and ones, kept in an eighth of the memory.

        Rows at random come sooner from it, and a draw for each row is not made again.
        """
        parts = [np.packbits(x.numpy().astype(np.uint8), axis=1) for _, x in self.chunks(10_000)]
        return _keeping(replace(self), np.concatenate(parts))

    def pick(self, positions: NDArray[np.int64]) -> "Rows":
        """The rows at these positions, as rows of their own."""
        picked = replace(self, index=self.index[positions])
        return picked if self.kept is None else _keeping(picked, self.kept[positions])

    def limit(self, n: int | None) -> "Rows":
        """A random subset of n rows, always the same for a seed; all of them for None."""
        if n is None or n >= len(self):
            return self
        at_least(1, n, "the number of rows")
        chosen = generator(self.seed, Stream.SUBSET).permutation(len(self))[:n]
        return self.pick(np.sort(chosen))

    def _cells(self, positions: NDArray[np.int64]) -> Tensor:
        """The cells of the rows as they are in the source, (M, X), in 8 bits or float32."""
        rows = rows_of(self.values, self.index[positions]).reshape(len(positions), -1)
        kind = np.uint8 if rows.dtype in (np.uint8, np.bool_) else np.float32
        return torch.from_numpy(np.ascontiguousarray(rows, dtype=kind))

    def _fixed_draw(self, positions: NDArray[np.int64]) -> Tensor:
        draws = np.empty((len(positions), self.width), dtype=np.float32)
        source = generator(self.seed, Stream.BINARIZATION)
        for draw, row in zip(draws, self.index[positions], strict=True):
            rewind(source, 1, int(row)).random(dtype=np.float32, out=draw)
        return torch.from_numpy(draws)


def require_rows(rows: Rows) -> Rows:
    """The rows, where they are some.

    Errors: UsageError for what is no `Rows`, and for none.
    Example:
        >>> require_rows(np.zeros((3, 2)))
        Traceback (most recent call last):
        aevb.errors.UsageError: expected Rows, as load(...).test or all_rows(open_source(...)) ...
    """
    if not isinstance(rows, Rows):
        raise UsageError(
            "expected Rows, as load(...).test or all_rows(open_source(...)) of aevb.data give them "
            f"for a file or an array, found {type(rows).__name__}"
        )
    if not len(rows):
        raise UsageError("expected at least 1 row, found none")
    return rows


def _keeping(rows: Rows, kept: NDArray[np.uint8]) -> Rows:
    """New rows whose bits are known; `replace`, which may ask for other cells, forgets them."""
    object.__setattr__(rows, "kept", kept)
    return rows


def all_rows(source: Source, binarize: Binarization = Binarization.NONE, seed: int = 0) -> Rows:
    """Every row of a source, in its order, where nothing is held out: new data to be scored, say.

    Shapes: N rows of X cells, as `Rows` gives them out.
    Errors: DataError where grey levels to be binarized lie outside [0, 1].
    Example:
        >>> from aevb.data import open_source
        >>> all_rows(open_source("digits")).all().shape
        torch.Size([1797, 64])
    """
    index = row_numbers(len(source.values))
    rows = Rows(source.values, index, source.shape, source.scale, binarize, seed, source.labels)
    if binarize is not Binarization.NONE and not source.lies_within(0, 1):
        _check_grey(rows, source.name)
    return rows


@dataclass(frozen=True)
class Dataset:
    """A source split into training, validation and test rows, with what is known of it.

    Shapes: `shape` (C, H, W) of images or (X,) of tables, which the rows of all parts have.
    Example:
        >>> from aevb.data import load
        >>> digits = load("digits")
        >>> digits.shape, digits.is_image, digits.train.all().shape
        ((1, 8, 8), True, torch.Size([1437, 64]))
    """

    source: Source
    train: Rows
    validation: Rows
    test: Rows

    @property
    def name(self) -> str:
        """What the data are called: the name of the set, of the file, or array or frame."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape of a datum: (C, H, W) for images, (X,) for tables."""
        return self.source.shape

    @property
    def is_image(self) -> bool:
        """Whether a datum is a picture, of shape (C, H, W), and no row of a table."""
        return len(self.shape) == 3

    @cached_property
    def in_unit_interval(self) -> bool:
        """Whether what is observed of the training rows lies in [0, 1]; looked at once."""
        if self.train.binarize is not Binarization.NONE or self.source.lies_within(0, 1):
            return True
        outside = (
            (x < 0) | (x > 1) for _, x in self.train.chunks(10_000)
        )  # of a NaN neither is so
        return not any(bool(mask.any()) for mask in outside)


def split(
    source: Source, binarize: Binarization | None = None, *, seed: int = 0, limit: int | None = None
) -> Dataset:
    """Split a source by its official splits where it has them, else at random by the seed.

    `binarize` None takes the usual treatment of the set; `limit` keeps a seeded random subset of
    the training rows.
    Shapes: without an official split a tenth of the rows each for validation and test; an official
    training set without a validation set gives up a tenth of itself.
    Errors: DataError for fewer than 10 rows, or where grey levels to be binarized lie outside
    [0, 1] or are missing; UsageError for a limit below 1.
    Example:
        >>> from aevb.data import open_source
        >>> digits = split(open_source("digits"), limit=1000)
        >>> len(digits.train), len(digits.validation), len(digits.test)
        (1000, 180, 180)
    """
    treatment = Binarization(source.binarize) if binarize is None else binarize
    everything = all_rows(source, treatment, seed)
    rows = {
        part: replace(everything, index=index, name=f"{source.name} {part}")
        for part, index in _parts(source, seed).items()
    }
    if treatment is not Binarization.NONE and source.missing:
        raise DataError(
            f"{source.name}: binarization needs every cell, and {source.missing:,} are missing: "
            "fill them, or leave the binarization out"
        )
    rows["train"] = rows["train"].limit(limit)
    if not is_mapped(source.values) and (treatment is not Binarization.NONE or _is_bits(source)):
        fresh = treatment is Binarization.EPOCH
        rows = {
            name: part if fresh and name == "train" else part.keep_bits()
            for name, part in rows.items()
        }
    return Dataset(source, rows["train"], rows["validation"], rows["test"])


def _is_bits(source: Source) -> bool:
    """Whether every cell is 0 or 1, of bytes; looked at here where nobody did before."""
    if source.values.dtype == np.bool_:
        return True
    if source.values.dtype != np.uint8 or source.scale != 1.0 or not source.values.size:
        return False
    return source.lies_within(0, 1) or int(source.values.max()) <= 1


def row_numbers(rows: int) -> NDArray[Any]:
    """0, 1, ..., in 32 bits where they suffice: the numbers of many rows are large themselves."""
    return np.arange(rows, dtype=np.int32 if rows < 2**31 else np.int64)


def _parts(source: Source, seed: int) -> dict[str, NDArray[np.int64]]:
    official = dict(source.splits or {})
    pool = _to_split(official, len(source.values))
    if len(pool) < 10:
        raise DataError(f"{source.name} has fewer than the 10 rows that a split needs: {len(pool)}")
    generator(seed, Stream.SPLIT).shuffle(pool)
    held_out: dict[str, NDArray[np.int64]] = {}
    start = 0
    for name, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        if name in official:
            held_out[name] = official[name]
        else:
            stop = start + max(1, round(share * len(pool)))
            held_out[name] = np.sort(pool[start:stop])
            start = stop
    # A shuffle done once says which rows are held out; order within a part is the source's.
    return {"train": np.sort(pool[start:]), **held_out}


def _to_split(official: Mapping[str, NDArray[np.int64]], rows: int) -> NDArray[Any]:
    """The rows that are to be split, one's own to shuffle: few copies, as there may be many."""
    if "train" in official:
        return np.array(official["train"])
    free = np.ones(rows, np.bool_)
    for index in official.values():
        free[index] = False
    return row_numbers(rows)[free]


def _check_grey(rows: Rows, name: str) -> None:
    for positions, grey in replace(rows, binarize=Binarization.NONE).chunks(10_000):
        if ((grey < 0) | (grey > 1)).any():  # of a missing cell neither is so
            low, high = float(np.nanmin(grey)), float(np.nanmax(grey))
            raise DataError(
                f"{name}: binarization needs grey levels between 0 and 1, found values from "
                f"{low:g} to {high:g} in rows {positions[0] + 1} to {positions[-1] + 1}: scale the "
                "data, or leave the binarization out"
            )
