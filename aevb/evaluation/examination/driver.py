"""The checks in one tuple, and the function that walks it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from aevb.distributions.combinators import parts
from aevb.errors import AevbError
from aevb.evaluation.calibration import Calibration, calibrate
from aevb.evaluation.examination.domain import (
    examine_far,
    examine_precision,
    examine_support,
)
from aevb.evaluation.examination.elements import elements, examine_elements
from aevb.evaluation.examination.estimators import (
    examine_divergence,
    examine_joint,
    examine_moments,
)
from aevb.evaluation.examination.gradients import (
    examine_deviations,
    examine_gradients,
    examine_paths,
)
from aevb.evaluation.examination.objective import examine_objective
from aevb.evaluation.examination.shapes import examine_repeats, examine_rows, examine_shapes
from aevb.evaluation.examination.subject import Objective, Subject, subject_of
from aevb.evaluation.examination.vectors import examine_maps, examine_route, examine_vectors
from aevb.evaluation.findings import Examination, Finding, Skipped, failed, first_line, walk
from aevb.randomness import Stream, generator, seed_torch, torch_seeded

SIMULATIONS, DRAWS = 200, 49
CPU = torch.device("cpu")
Check = Callable[[Subject], Iterator[Finding]]


def examine_density(subject: Subject, name: str) -> Iterator[Finding]:
    """Whether a law's density integrates to one and its draws follow it, part by part."""
    law = subject.law(name)
    of_parts = [law._replace(distribution=d) for d in parts(law.distribution)]
    skipped: list[Skipped] = []
    for part in of_parts:
        inner = elements(part.distribution)
        try:
            if inner is None:
                yield from examine_vectors(subject, part)
            else:
                yield from examine_elements(subject, part, inner)
        except Skipped as reason:
            skipped.append(reason)
    if len(skipped) == len(of_parts):
        raise skipped[0]


def _moments(subject: Subject, name: str) -> Iterator[Finding]:
    yield from examine_moments(subject, subject.law(name))


LAWS = ("prior", "posterior", "likelihood")
CHECKS: tuple[tuple[str, Check], ...] = (
    ("precision", examine_precision),
    ("support", examine_support),
    ("shapes", examine_shapes),
    ("repeats", examine_repeats),
    ("rows", examine_rows),
    *((f"{name} density", partial(examine_density, name=name)) for name in LAWS),
    *((f"{name} mean", partial(_moments, name=name)) for name in LAWS),
    ("noise map", examine_route),
    ("flow maps", examine_maps),
    ("log-joint", examine_joint),
    ("estimators", examine_divergence),
    ("gradients", examine_gradients),
    ("draws", examine_paths),
    ("deviations", examine_deviations),
    ("far codes", examine_far),
    ("objective", examine_objective),
)


def check(
    model: Any, posterior: Any, data: Any, *, objective: Objective | None = None, seed: int = 0
) -> Examination:
    """Examine a model and a posterior of the user's own for what is often wrong with them.

    densities that integrate to one, draws that follow them, log-determinants by autograd, shapes,
    estimators that agree, gradients that arrive, noise that is used, layers that are random

    Shapes: `data` are rows (N, *X), a `Rows`, an array or a tensor; a few are looked at. `model`
    has `prior()` and `likelihood(z)`, `posterior` takes a `Batch` or x, and all give torch
    distributions. `objective` (model, posterior, batch, noise) to (N,) nats is compared with the
    bounds at the same noise.
    Units: nats. Statistical checks raise a false alarm once in 10,000 runs each.
    Errors: never of the model's, which become findings; UsageError for data that are no rows.
    Neither parameters, gradients nor modes of what is examined change, nor torch's generators.
    Source: Cook, Gelman & Rubin (2006) and Talts et al. (2018) for the calibration beside it.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [8], 5)))
        >>> posterior = aevb.mean_field(aevb.MLP(5, [8], 4))
        >>> check(model, posterior, torch.ones(20, 5)).healthy
        True
    """
    with torch_seeded(generator(seed, Stream.CHECK), CPU):
        try:
            subject = subject_of(model, posterior, data, objective, seed)
        except AevbError:
            raise
        except Exception as error:
            return Examination((failed("start", error),), (), {})
        with torch.no_grad():
            return _examined(subject)


def _seeded(examine: Check, subject: Subject) -> Iterator[Finding]:
    """A check whose draws do not depend on those before it."""
    seed_torch(int(subject.source(0).integers(2**63)), CPU)
    yield from examine(subject)


def _examined(subject: Subject) -> Examination:
    found = walk({name: partial(_seeded, examine) for name, examine in CHECKS}, subject)
    try:
        return replace(found, calibration=_calibrated(subject))
    except Exception as error:
        return replace(found, skipped={**found.skipped, "calibration": first_line(error)})


def _calibrated(subject: Subject) -> Calibration:
    return calibrate(
        subject.model,
        subject.posterior,
        SIMULATIONS,
        DRAWS,
        like=subject.batch.x,
        seed=subject.seed,
    )
