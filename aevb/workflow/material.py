"""What pictures and reports of a run are made from, opened once: model, rows, codes, units."""

import math
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb import codes
from aevb.data import Column, Dataset, Rows
from aevb.evaluation import Diagnosis, diagnose, posterior_for
from aevb.evaluation.case import Case
from aevb.evaluation.chunks import Progress
from aevb.families import Family
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.storage import RunFolder
from aevb.storage.snapshots import Trail
from aevb.workflow.checkup import case_of

Array = NDArray[np.float64]
MOST_ROWS = 1000
DRAWS_FOR_UNITS = 500


class Material:
    """A run, opened where a picture asks for it and kept for the next one.

    Shapes: `shape` is the event shape of a datum; `kind` says how a datum is drawn.
    Errors: ModelFileError and DataError of the folder, at the first use.
    """

    def __init__(self, folder: RunFolder, seed: int = 0, progress: Progress | None = None) -> None:
        self.folder, self.seed, self.progress = folder, seed, progress

    @cached_property
    def model(self) -> Model:
        return self.folder.load()[0]

    @cached_property
    def latent_dim(self) -> int:
        return int(self.model.prior().event_shape[0])

    @cached_property
    def data(self) -> Dataset:
        return self.folder.dataset()

    @cached_property
    def in_file(self) -> bool:
        """Whether the data of the run lie in a file or have a name."""
        return not self.folder.in_memory

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.folder.shape

    @property
    def kind(self) -> Literal["image", "signal", "table"]:
        if len(self.shape) == 3:
            return "image"
        return "signal" if self.folder.data_facts().get("kind") == "signal" else "table"

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        return self.folder.columns

    @cached_property
    def names(self) -> list[str] | None:
        """The names of a table's columns, empty where it has none; None for other kinds."""
        if self.kind != "table":
            return None
        return [column.name for column in self.columns] or [""] * math.prod(self.shape)

    @cached_property
    def test(self) -> Rows:
        """The first test rows, as many as pictures look at: row k of them is test row k."""
        test = self.data.test
        return test.pick(np.arange(min(len(test), MOST_ROWS)))

    @cached_property
    def posterior(self) -> Posterior:
        """The posterior of `test`."""
        return self.folder.load_for(self.test)[1]

    @cached_property
    def case(self) -> Case:
        """The run as the doctor sees it, by `test` and as many of the training rows."""
        if not self.in_file:
            return case_of(self.folder, *self.folder.load(), None, None)
        here = self.model, self.posterior, self.data, self.test
        return case_of(self.folder, *here, seed=self.seed, progress=self.progress)

    @cached_property
    def codes(self) -> Array:
        """The posterior means of `test`, (N, D)."""
        return codes.encode(self.model, self.posterior, self.test)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        return diagnose(self.model, self.posterior, self.test)

    @cached_property
    def ranked(self) -> list[int]:
        """The latent dimensions (from 0), those first that say most of the data."""
        if not self.in_file:
            return list(range(self.latent_dim))
        by_dimension = self.diagnosis.kl_by_dimension
        weight = self.codes.var(0) if by_dimension is None else by_dimension
        return [int(k) for k in np.argsort(-weight, kind="stable")]

    @cached_property
    def trail(self) -> Trail:
        return self.folder.snapshots()

    # -- rows as they are drawn -------------------------------------------------------------------

    def decode(self, z: Array) -> Array:
        """E[x given z], (N, X), in the units of the data."""
        return codes.decode(self.model, z)

    def rows(self, rows: Rows) -> Array:
        """Rows as numbers, (N, X); NaN where a cell was not observed."""
        return rows.all().double().flatten(1).numpy()

    def shown(self, array: Array) -> Array:
        """Rows (N, X) as they are drawn: images held to [0, 1], the columns of a table in units
        that they can share."""
        if self.kind == "image":
            return array.reshape(-1, *self.shape).clip(0, 1)
        return self.in_deviations(array) if self.kind == "table" else array

    def in_deviations(self, array: Array) -> Array:
        """Columns (..., X) from their mean, in their deviations."""
        mean, deviation = self._units
        return (array - mean) / deviation

    @cached_property
    def _units(self) -> tuple[Array, Array]:
        """Mean and deviation of each column: those it was learned in, or else of the model."""
        drawn = codes.sample(self.model, DRAWS_FOR_UNITS, draw=True)
        mean, deviation = drawn.mean(0), drawn.std(0)
        learned_mean, learned = _learned_units(self.model.family, torch.from_numpy(mean))
        mean = np.where(np.isnan(learned_mean), mean, learned_mean)
        deviation = np.where(np.isnan(learned), deviation, learned)
        return mean, np.where(deviation > 0, deviation, 1.0)


def with_holes(folder: RunFolder, rows: Rows) -> tuple[Model, Posterior, Rows]:
    """The model, a posterior, and the rows as they are seen, to be worked on as they are."""
    x = rows.all().numpy()
    holed = Rows(x, np.arange(len(x)), rows.shape)
    model, posterior = folder.load()
    return model, posterior_for(model, posterior, holed), holed


def _learned_units(family: Family | None, like: Tensor) -> tuple[Array, Array]:
    """Mean and deviation (X,) of the columns that were learned standardized, NaN of the others."""
    mean, deviation = torch.full_like(like, torch.nan), torch.full_like(like, torch.nan)
    for leaf in [] if family is None else family.leaves(torch.arange(len(like))):
        if leaf.unit is not None:
            mean[leaf.columns] = leaf.unit.mean.to(mean)
            deviation[leaf.columns] = leaf.unit.deviation.to(deviation)
    return mean.numpy(), deviation.numpy()
