"""A `Source`: data as they lie in a file or a library, before any split or binarization."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from aevb.data.survey import extremes

Kind = Literal["real", "count", "binary", "category"]
Drawn = Literal["image", "signal", "table"]

UNLABELED = -1
"""The label of a row whose class is not known, as scikit-learn has it."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, what its numbers are, the texts that they stand for.

    `name` is empty where the table has no header. `kind` chooses the column's likelihood in a mixed
    table. `levels` are the texts of a column of text: code k stands for levels[k]; two levels make
    a binary column, more a category.
    Example:
        >>> color = Column("color", "category", ("blue", "green", "red"))
        >>> color.levels[2]  # what a cell of 2 says
        'red'
    """

    name: str
    kind: Kind
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Rows of data with what is known of them; `values` is never copied, cast or written to.

    Shapes: `values` (N, ...) numeric, possibly a memory map; `shape` is the event shape of a datum:
    (C, H, W) for images, (X,) for tables; `labels` (N,) or None, -1 for a row without one, k
    standing for `classes`[k] where these have names; `splits` maps "train",
    "validation", "test" to the row numbers of an official split, as far as there is one; `columns`
    has an entry for each of X columns where the table has a header or columns of several kinds,
    and is empty otherwise.
    Units: `scale` is what the values are multiplied by to become what the model sees (1/255 for
    bytes of a picture). `likelihood` names the likelihood that suits the data, `reason` says why,
    `binarize` is the usual treatment of the set. `fingerprint` tells one content from another.
    NaN marks a cell that was not observed; `missing` counts these. `kind` is how rows are drawn: as
    images, as lines over time, or as the columns of a table. `extremes` (3, *shape) bounds the
    values: the lowest observed of each column, the highest, and one that is not whole as the model
    sees it where there may be such a one, or else the lowest; None where nobody looked.
    Example:
        >>> from aevb.data import open_source
        >>> digits = open_source("digits")
        >>> digits.values.shape, digits.shape, digits.likelihood
        ((1797, 1, 8, 8), (1, 8, 8), 'gaussian')
    """

    name: str
    values: NDArray[np.generic]
    shape: tuple[int, ...]
    likelihood: str
    reason: str
    fingerprint: str
    scale: float = 1.0
    binarize: str = "none"
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    splits: Mapping[str, NDArray[np.int64]] | None = None
    columns: tuple[Column, ...] = ()
    missing: int = 0
    kind: Drawn = "table"
    extremes: NDArray[np.float32] | None = None

    def lies_within(self, low: float, high: float) -> bool:
        """Whether every observed value, in the units of the model, is known to lie in [low, high].

        False where it is not known: then one has to look.
        Example:
            >>> from aevb.data import open_source
            >>> open_source([[0.5, 2.0], [1.5, 3.0]]).lies_within(0, 3)
            True
        """
        if self.extremes is None:
            return False
        x = self.extremes[:2] * np.float32(self.scale)
        return bool(((x >= low) & (x <= high) | np.isnan(x)).all())

    def at_scale(self, scale: float, *, whole: bool = False) -> Self:
        """The same, read as new rows for a model whose own data had this scale.

        A few dark pictures do not show what unit they are in. Where `scale` is not 1, whole numbers
        by their type, and floats beyond 1, are in the units of those data; other floats are what
        the model sees. With `whole`, floats of which all are 0 or 1 are in those units too.
        Example:
            >>> from aevb.data import open_source
            >>> [open_source([[x, 0.5]]).at_scale(1 / 16).scale for x in (16.0, 1.0)]
            [0.0625, 1.0]
        """
        if scale == 1.0:
            return self
        _, high, odd = extremes(self.values) if self.extremes is None else self.extremes
        fitted = self.values.dtype.kind in "ui" or bool((high > 1).any())
        if whole and not fitted:
            fitted = bool((np.isnan(odd) | (odd == np.floor(odd))).all())
        return replace(self, scale=scale if fitted else 1.0)
