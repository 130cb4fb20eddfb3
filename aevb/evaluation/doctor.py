"""The doctor: looks at a trained model for one sickness after another, and says what it found.

Every sign is a function of a `Case` to a `Finding` or nothing. Its criterion, which stands in its
docstring, holds against the noise of the rows; its finding names the one option to change.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from aevb.errors import DataError
from aevb.evaluation.case import Case
from aevb.evaluation.certificate import finite
from aevb.evaluation.findings import Examination, Finding, Skipped, walk
from aevb.evaluation.signs import latents, learning, likelihoods, networks, treatment

Sign = Callable[[Case], Finding | None]

FIRST: tuple[Sign, ...] = (networks.not_finite, likelihoods.outside_domain)
"""Where one of these has a finding, no figure of the model means anything."""
SIGNS: tuple[Sign, ...] = (
    latents.collapsed,
    latents.dead_dimensions,
    latents.deaf_decoder,
    latents.floored_deviation,
    latents.fallen_into_holes,
    likelihoods.noise_at_floor,
    likelihoods.certain_and_wrong,
    networks.vanished_gradients,
    networks.dead_units,
    learning.overfitted,
    latents.poor_weights,
)
ALWAYS: tuple[Sign, ...] = (
    likelihoods.density_on_steps,
    learning.warming,
    learning.unfinished,
    treatment.other_treatment,
    treatment.unlike_training,
    treatment.copies,
)
"""These need no figure of the model."""


def examine(case: Case) -> Examination:
    """Look for every sign.

    Units: nats, where a figure is one. Errors: none; what a sign raises is a finding.
    Example:
        >>> import aevb
        >>> rows = aevb.data.load("digits").test
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.gaussian(aevb.MLP(2, [8], 128)))
        >>> found = examine(Case(model, aevb.mean_field(aevb.MLP(64, [8], 4)), rows))
        >>> found.skipped["unfinished"]
        'fewer than 3 epochs with a bound are known'
    """
    first = _walked(FIRST, case)
    return _walked(FIRST + (SIGNS if first.healthy else ()) + ALWAYS, case)


def _walked(signs: tuple[Sign, ...], case: Case) -> Examination:
    return walk({sign.__name__: sign for sign in signs}, case)


def measured(case: Case) -> dict[str, Any]:
    """The figures that the signs went by, ready for JSON; those that could be taken.

    Units: nats, where a figure is a bound, a divergence or a log-density.
    Errors: what a figure raises, but for Skipped and DataError, which leave it out.
    Example:
        >>> import aevb
        >>> rows = aevb.data.load("digits").test.limit(9)
        >>> model = aevb.Model(
        ...     aevb.standard_normal(2), aevb.continuous_bernoulli(aevb.MLP(2, [8], 64)))
        >>> found = measured(Case(model, aevb.mean_field(aevb.MLP(64, [8], 4)), rows))
        >>> found["latent_dim"], "elbo" in found, "elbo_on_training_rows" in found
        (2, True, False)
    """
    figures: dict[str, Callable[[], Any]] = {
        "held_out": lambda: len(case.held_out),
        "elbo": lambda: case.evidence.elbo.as_dict(),
        "elbo_on_training_rows": lambda: case.evidence_on_train.elbo.as_dict(),
        "importance": lambda: case.evidence.importance.as_dict(),
        "independent_columns": lambda: case.independent,
        "kl": lambda: float(case.evidence.kl.mean()),
        "active_units": lambda: case.latents.active_units,
        "latent_dim": lambda: len(case.latents.posterior_mean_variance),
        "kl_per_dimension": lambda: case.latents.as_dict()["kl_per_dimension"],
        "mutual_information": lambda: case.information.as_dict(),
        "gain_of_own_code": lambda: {"mean": case.swapped[0], "standard_error": case.swapped[1]},
        "samples_in_holes": lambda: {
            "share": case.holes.share,
            "standard_error": case.holes.share_error,
            "distance": case.holes.distance,
            "distance_error": case.holes.distance_error,
        },
        "dead_units": lambda: case.dead_shares,
        "gradients": lambda: case.layer_gradients,
    }
    found = {}
    for name, figure in figures.items():
        try:
            value = figure()
        except (Skipped, DataError):
            continue
        if not isinstance(value, float) or np.isfinite(value):
            found[name] = finite(value)
    return found
