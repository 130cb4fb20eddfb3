"""Signs of networks that cannot learn: numbers that are none, gradients and units that are gone."""

import torch

from aevb.evaluation.case import Case
from aevb.evaluation.findings import Finding
from aevb.evaluation.signs.latents import settings_rate

MOST_DEAD = 0.5
VANISHED = 1e-6


def not_finite(case: Case) -> Finding | None:
    """Parameters that are infinite or no numbers."""
    count = all_of_them = 0
    for module in (case.model, case.posterior):
        for p in module.parameters():
            count += int((~torch.isfinite(p)).sum())
            all_of_them += p.numel()
    if not count:
        return None
    return Finding(
        "parameters-not-finite",
        f"{count} of {all_of_them} parameters are infinite or no numbers: nothing that the model "
        "says means anything.",
        float(count),
        "Train anew with --clip 1, which bounds the gradient's norm.",
    )


def vanished_gradients(case: Case) -> Finding | None:
    """A layer whose gradient of the bound is a millionth, or less, of the largest one's."""
    found = case.layer_gradients
    largest = max(found.values(), default=0.0)
    least = min(found, key=lambda name: found[name], default="")
    if not largest or not found[least] < VANISHED * largest:
        return None
    bounded = case.settings.get("activation") not in ("relu", "leaky-relu", "elu", "gelu", "silu")
    return Finding(
        "vanishing-gradients",
        f"The gradient of the bound vanishes in {least}: it is {found[least] / largest:.0e} times "
        "that of the layer with the largest.",
        found[least] / largest,
        "Train with --activation relu."
        if bounded
        else "Train with fewer layers, such as --hidden 200.",
    )


def dead_units(case: Case) -> Finding | None:
    """A layer most of whose units pass no gradient back, whatever the row: a relu that is never on,
    a tanh that is always 1."""
    found = case.dead_shares
    worst = max(found, key=lambda name: found[name], default="")
    if not worst or found[worst] <= MOST_DEAD:
        return None
    relu = worst.endswith("ReLU")
    return Finding(
        "dead-units",
        f"{100 * found[worst]:.0f} % of the units of {worst} pass no gradient back for any row: "
        f"they are {'never on' if relu else 'saturated'}.",
        found[worst],
        "Train with --activation leaky-relu."
        if relu
        else f"Train with a smaller --lr, such as {settings_rate(case):g}.",
    )
