"""Signs of codes that do not do their work: collapse, deaf decoders, holes, poor weights."""

import math

import numpy as np
import torch

from aevb.distributions import on_reals
from aevb.evaluation.case import Case
from aevb.evaluation.diagnosis import ACTIVE_VARIANCE
from aevb.evaluation.findings import Finding, Skipped
from aevb.posterior import Global

NOTHING = 0.1
"""Nats that count as none."""
UNUSED_DIVERGENCE = 0.05
SHARE_OF_VARIANCE = 0.25
MOST_IN_HOLES, MOST_APART = 0.3, 2.0
FEWEST_EFFECTIVE, LEAST_EFFECTIVE_SHARE = 2.5, 0.01
ERRORS = 3.0
"""Standard errors that something must stand out by."""


def collapsed(case: Case) -> Finding | None:
    """The codes say nothing: the least upper bound on I(x; z) is below 0.1 nats."""
    said, total = _said(case), case.latents.posterior_mean_variance.size
    if not said < NOTHING:
        return None
    return Finding(
        "posterior-collapse",
        f"The codes say nothing of the rows, {said:.3f} nats at most: "
        f"{unused(case)} of {total} latent dimensions are not used.",
        said,
        _to_say_more(case),
    )


def dead_dimensions(case: Case) -> Finding | None:
    """Most dimensions are dead, and more of them would have had something to say.

    Unused are more than half, and the others are fewer than the principal components that hold a
    quarter of the variance of the rows. Unused dimensions by themselves cost nothing.
    """
    total, dead = case.latents.posterior_mean_variance.size, unused(case)
    if _said(case) < NOTHING:
        return None
    if not on_reals(case.model.prior()) or dead <= total / 2 or total - dead >= directions(case):
        return None
    return Finding(
        "dead-dimensions",
        f"{dead} of {total} latent dimensions are not used, although a quarter of the variance of "
        f"the rows has {directions(case)} directions: mutual information of rows and codes is "
        f"{case.information}.",
        float(dead),
        _to_say_more(case),
    )


def unused(case: Case) -> int:
    """How many dimensions tell no rows apart, by the means of the posterior and its divergence."""
    found = case.latents
    dead = found.posterior_mean_variance <= ACTIVE_VARIANCE
    if found.kl_by_dimension is not None:
        dead &= found.kl_by_dimension < UNUSED_DIVERGENCE
    return int(dead.sum())


def directions(case: Case) -> int:
    """Principal components that hold a quarter of the variance, of those that noise has not.

    Of columns that are independent the correlations of N rows have no eigenvalue beyond
    (1 + sqrt(X / N))^2 (Marchenko & Pastur 1967).
    """
    x = case.x.double()
    x = (x - x.nanmean(0)).nan_to_num(nan=0.0)
    deviation = x.square().mean(0).sqrt()
    x = x[:, deviation > 1e-6] / deviation[deviation > 1e-6]
    n, width = x.shape
    if width == 0:
        return 0
    values = torch.linalg.svdvals(x).square() / n
    needed = int((values.cumsum(0) < SHARE_OF_VARIANCE * values.sum()).sum()) + 1
    return min(needed, int((values > (1 + math.sqrt(width / n)) ** 2).sum()))


def _said(case: Case) -> float:
    """The least upper bound on I(x; z), with its error on top."""
    _require_own(case)
    found = case.information
    return max(min(found.upper + ERRORS * found.upper_error, float(case.evidence.kl.mean())), 0.0)


def _require_own(case: Case) -> None:
    if isinstance(case.posterior, Global):
        raise Skipped("all rows share one posterior, as was asked for")


def _to_say_more(case: Case) -> str:
    settings = case.settings
    if settings.get("algorithm", "aevb") != "aevb":  # it has no divergence to weigh
        return f"Train with --epochs {2 * len(case.history) or 100}, or by --algorithm aevb."
    if settings.get("beta", 1.0) > 1:
        return f"Train with --beta 1: the divergence was weighted {settings['beta']:g}-fold."
    if not settings.get("free_bits") and settings.get("objective", "elbo-b") == "elbo-b":
        return "Train with --free-bits 0.5, so that what a dimension says costs nothing at first."
    steps = case.history[-1].get("t", 0) if case.history else 0
    return f"Train with --warmup-steps {steps // 3 or 1000}: the divergence then comes later."


def deaf_decoder(case: Case) -> Finding | None:
    """The posterior tells rows apart, and the decoder does not use it.

    E log p(x given z) with the code of its own row exceeds that with another's by less than 0.1
    nats, three standard errors included.
    """
    if _said(case) < NOTHING:
        return None
    gain, error = case.swapped
    if not gain + ERRORS * error < NOTHING:
        return None
    kl = float(case.evidence.kl.mean())
    lower = settings_rate(case)
    return Finding(
        "decoder-ignores-codes",
        f"The decoder ignores the codes: with a row's own code log p(x given z) is {gain:.3f} ± "
        f"{error:.3f} nats above that with the code of another row, while KL(q || p) is {kl:.2f}.",
        gain,
        f"Train with a smaller --lr, such as {lower:g}: a decoder goes deaf by too large steps.",
    )


def settings_rate(case: Case) -> float:
    """A third of the learning rate of the run, or of Adam's."""
    return float(f"{(case.settings.get('lr') or 1e-3) / 3:.1g}")


def fallen_into_holes(case: Case) -> Finding | None:
    """Samples of the prior are not where the codes are.

    More than 30 % of them fall where only 1 % of the codes of held-out rows lie, or KL(q(z) || p)
    of all codes together is more than 2 nats; three standard errors less.
    """
    _require_own(case)
    found = case.holes
    fallen = found.share - ERRORS * found.share_error > MOST_IN_HOLES
    if not fallen and not found.distance - ERRORS * found.distance_error > MOST_APART:
        return None
    sentence = (
        f"{100 * found.share:.0f} % of samples from the prior fall where only 1 % of the rows' "
        "codes lie: the decoder has never seen such codes, and samples of the model are spoiled."
        if fallen
        else f"The codes of all rows together are {found.distance:.1f} ± "
        f"{found.distance_error:.1f} nats or more from the prior: samples of the model begin where "
        "few rows' codes lie, and are spoiled."
    )
    return Finding(
        "holes-under-the-prior",
        sentence,
        found.share if fallen else found.distance,
        _to_fill_holes(case),
    )


def _to_fill_holes(case: Case) -> str:
    beta, prior = case.settings.get("beta", 1.0), case.settings.get("prior", "standard-normal")
    if beta < 1:
        return f"Train with --beta 1: the divergence was weighted by {beta:g}."
    if prior in ("standard-normal", "learned-normal") and _is_mean_field(case):
        return "Train with --prior vamp, a prior that is learned where the codes lie."
    return "Train with a smaller --latent-dim: in fewer dimensions the codes leave no room."


def _is_mean_field(case: Case) -> bool:
    """As --prior vamp needs."""
    posterior, layers = (case.settings.get(name) for name in ("posterior", "layers"))
    return posterior in (None, "mean-field") and layers in (None, 1)


def floored_deviation(case: Case) -> Finding | None:
    """Where the posterior tells rows apart its deviation must be below the prior's; no one is."""
    q, _ = case.coded
    try:
        with torch.no_grad():
            deviation, usual = q.stddev, case.model.prior().stddev
    except (NotImplementedError, AttributeError) as error:
        raise Skipped("no deviations are stated") from error
    variance = case.latents.posterior_mean_variance
    told = torch.from_numpy(variance > ACTIVE_VARIANCE).to(deviation.device)
    ratio = (deviation / usual)[:, told]
    if not told.any() or not bool((ratio >= 1 - 1e-4).all()):
        return None
    least = float(ratio.min())
    return Finding(
        "posterior-too-wide",
        f"The posterior's deviation is at least {least:.2f} times the prior's for every row and "
        f"dimension, although the means of {int(told.sum())} dimensions tell rows apart: it seems "
        "unable to fall below, as a softplus of a log-deviation is.",
        least,
        "Use --posterior mean-field, whose deviation is the exponential of what the network gives.",
    )


def poor_weights(case: Case) -> Finding | None:
    """The estimate of log p(x) rests on fewer than 2.5 samples in the mean, or 1 % of them."""
    effective, samples = _effective(case)
    if not effective < min(max(FEWEST_EFFECTIVE, LEAST_EFFECTIVE_SHARE * samples), samples / 2):
        return None
    return Finding(
        "few-effective-samples",
        f"The estimate of log p(x) rests on {effective:.1f} effective samples of {samples} on "
        "average, so that it may lie well below log p(x).",
        effective,
        f"Evaluate with --samples {10 * samples}.",
    )


def _effective(case: Case) -> tuple[float, int]:
    """Effective samples and samples of the kept evaluation, or else of the doctor's own."""
    kept = (case.evaluated or {}).get("importance") or {}
    known = kept.get("effective_sample_size")
    if isinstance(known, float) and np.isfinite(known):
        return known, int(kept["samples"])
    if case.evaluated is not None and case.rows is None:
        raise Skipped("no held-out rows are known")
    found = case.evidence.importance
    return found.effective_sample_size, found.samples
