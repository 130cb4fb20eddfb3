"""The reproductions by name."""

from aevb.errors import UsageError
from aevb.reproduce import (
    amortization,
    estimators,
    figure2,
    figure3,
    figure4,
    figure5,
    iwae_table,
)
from aevb.reproduce.performing import Reproduction

REPRODUCTIONS: dict[str, Reproduction] = {
    module.NAME: module
    for module in (figure2, figure3, figure4, figure5, iwae_table, estimators, amortization)
}
NAMES: tuple[str, ...] = tuple(REPRODUCTIONS)


def reproduction(name: str) -> Reproduction:
    """The reproduction of that name; UsageError where there is none.

    Example:
        >>> reproduction("figure2").SOURCE
        'Kingma & Welling 2013, figure 2'
    """
    if name not in REPRODUCTIONS:
        raise UsageError(f"there is no reproduction {name!r}: choose one of {', '.join(NAMES)}")
    return REPRODUCTIONS[name]
