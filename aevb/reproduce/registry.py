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

_MODULES = (figure2, figure3, figure4, figure5, iwae_table, estimators, amortization)
_ALL: tuple[Reproduction, ...] = tuple(module.REPRODUCTION for module in _MODULES)
NAMES: tuple[str, ...] = tuple(found.name for found in _ALL)


def reproduction(name: str) -> Reproduction:
    """The reproduction of that name; UsageError where there is none.

    Example:
        >>> reproduction("figure2").source
        'Kingma & Welling 2013, figure 2'
    """
    for found in _ALL:
        if found.name == name:
            return found
    raise UsageError(f"there is no reproduction {name!r}: choose one of {', '.join(NAMES)}")
