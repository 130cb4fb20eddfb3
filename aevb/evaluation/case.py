"""A model, its posterior, rows and history as the doctor sees them: each figure is taken once."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from aevb.data import Rows
from aevb.distributions.combinators import Average
from aevb.distributions.reparameterization import base_of
from aevb.evaluation.batches import evaluating
from aevb.evaluation.chunks import Progress
from aevb.evaluation.diagnosis import Diagnosis, diagnose
from aevb.evaluation.estimates import Evidence, evidence
from aevb.evaluation.findings import Skipped
from aevb.evaluation.information import Holes, Information, codes_of, holes, information
from aevb.evaluation.layers import dead_shares, layer_gradients
from aevb.families import Family
from aevb.model import Model
from aevb.posterior import Posterior

SAMPLES = 200
SWAPS = 5
ROWS_FOR_MARGINALS = 10_000


class Part(NamedTuple):
    """Columns of one family: the law of each cell, the cells, and the unit of each column.

    Shapes: `law` with batch (N, C), x (N, C) with NaN where a cell was not observed, `unit` (C,).
    """

    family: Family
    law: Any
    x: Tensor
    unit: Tensor


@dataclass(frozen=True)
class Case:
    """What the doctor looks at; whatever is left out is not looked at.

    `posterior` is that of `rows`, which were held out; `learned` the posterior of some training
    rows, and these; `all_train` is every training row. `history` has the records of the epochs,
    `kept` the one whose model was kept, `settings` the run's under their names, `evaluated` the
    last evaluation that was kept, `counts` the rows of each part of the data.
    Shapes: N held-out rows, X numbers each, codes of D. Units: nats, where a figure is one.
    Errors: Skipped, by a figure of what was left out or is not there, and its message says what;
    DataError, by one of rows outside the likelihood's domain.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[1.0]], [0.0], 1e-4)  # x is z, but for a little noise
        >>> rows = Rows(np.linspace(-1, 1, 9, dtype=np.float32)[:, None], np.arange(9), (1,))
        >>> gain, error = Case(model, model.exact_encoder(), rows).swapped
        >>> gain > 3 * error
        True
    """

    model: Model
    posterior: Posterior
    rows: Rows | None = None
    learned: tuple[Posterior, Rows] | None = None
    all_train: Rows | None = None
    history: Sequence[Mapping[str, Any]] = ()
    kept: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluated: Mapping[str, Any] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    progress: Progress | None = None

    # -- what is there ----------------------------------------------------------------------------

    @property
    def held_out(self) -> Rows:
        """The rows; Skipped where there are fewer than 2."""
        return self._rows(2)

    def _rows(self, least: int = 1) -> Rows:
        if self.rows is None or len(self.rows) < least:
            raise Skipped(f"fewer than {least} held-out rows are known")
        return self.rows

    @property
    def train(self) -> tuple[Posterior, Rows]:
        """Some of the training rows, and their posterior; Skipped where there are none."""
        if self.learned is None:
            raise Skipped("no training rows are known")
        return self.learned

    @property
    def family(self) -> Family:
        """The likelihood's; Skipped for one that is none of this project's."""
        if self.model.family is None:
            raise Skipped("the likelihood is none of this project's")
        return self.model.family

    @cached_property
    def x(self) -> Tensor:
        """The held-out rows as the model sees them, (N, X)."""
        return self.held_out.all().flatten(1)

    @cached_property
    def train_x(self) -> Tensor:
        return self.train[1].all().flatten(1)

    # -- figures ----------------------------------------------------------------------------------

    @cached_property
    def evidence(self) -> Evidence:
        """Bound and estimate on the held-out rows."""
        return self._evidence(self.posterior, self._rows(), 0)

    @cached_property
    def evidence_on_train(self) -> Evidence:
        """The same on training rows."""
        return self._evidence(*self.train, len(self._rows()))

    def _evidence(self, posterior: Posterior, rows: Rows, before: int) -> Evidence:
        total = len(self._rows()) + (0 if self.learned is None else len(self.learned[1]))

        def progress(done: int, of: int) -> None:
            if self.progress is not None:
                self.progress(before + done, total)

        return evidence(
            self.model,
            posterior,
            rows,
            SAMPLES,
            seed=self.seed,
            progress=progress,
            compiled=False,
        )

    @cached_property
    def latents(self) -> Diagnosis:
        """What each latent dimension does for the held-out rows."""
        return diagnose(self.model, self.posterior, self.held_out)

    @cached_property
    def information(self) -> Information:
        """What the codes of the held-out rows say of them, in nats."""
        return information(self.model, self.posterior, self.held_out, seed=self.seed)

    @cached_property
    def holes(self) -> Holes:
        """How far draws of the prior fall where no code lies."""
        here = self.posterior, self.held_out
        return holes(self.model, self.train, here, seed=self.seed)

    @cached_property
    def coded(self) -> tuple[Distribution, Tensor]:
        """The posterior of all held-out rows, and a code of each, (N, D)."""
        return codes_of(self.model, self.posterior, self.held_out, seed=self.seed)

    @cached_property
    def swapped(self) -> tuple[float, float]:
        """What log p(x given z) gains by a code of its own row over that of another; its error.

        mean_n log p(x_n given z_n) - log p(x_n given z_m), with m the rows further on
        """
        _, z = self.coded
        x, n = self.x.to(z), len(self.x)
        with evaluating(self.model):
            own = self.model.log_likelihood(x, z)
            shifts = range(1, min(SWAPS, n - 1) + 1)
            others = [
                self.model.log_likelihood(x, z.roll(n * k // (SWAPS + 1) or k, 0)) for k in shifts
            ]
        gain = (own - torch.stack(others).mean(0)).double()
        return float(gain.mean()), float(gain.std()) / math.sqrt(n)

    @cached_property
    def layer_gradients(self) -> dict[str, float]:
        """How large the gradient of the bound is in each weight matrix."""
        return layer_gradients(self.model, self.posterior, self.held_out, seed=self.seed)

    @cached_property
    def dead_shares(self) -> dict[str, float]:
        """The share of the units of each activation that pass no gradient back."""
        return dead_shares(self.model, self.posterior, self.held_out, seed=self.seed)

    @cached_property
    def parts(self) -> list[Part]:
        """The law of every cell of the held-out rows, given a code of their own.

        Skipped for a likelihood that is none of this project's, or has no law for each cell.
        """
        family, (_, z) = self.family, self.coded
        with evaluating(self.model):
            law: Any = self.model.likelihood(z)
        if isinstance(law, Average):
            raise Skipped("the likelihood has no law for each cell")
        x = self.x.to(z)
        leaves = family.leaves(torch.arange(x.shape[1]), base_of(law))
        ones = torch.ones(x.shape[1])
        return [
            Part(f, own, x[:, at], (unit.deviation if unit else ones[at]).to(z))
            for f, at, unit, own in leaves
        ]

    @cached_property
    def independent(self) -> float:
        """The mean log-density of the held-out rows under independent columns, in nats: what a
        model without codes has learned from the training rows. DataError for other values."""
        self.family.check(self.x)
        family = copy.deepcopy(self.family)  # some keep what they take from the data
        x = self.train[1].take(np.arange(min(len(self.train[1]), ROWS_FOR_MARGINALS))).flatten(1)
        with torch.no_grad():
            raw = family.encode_marginals(x)
            return float(family(raw[None], 1).log_prob(self.x).mean())
