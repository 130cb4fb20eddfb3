"""The parameters of the estimators: their names beside those of a run's settings, their values."""

import operator
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from aevb.errors import UsageError

Randomness = int | np.random.RandomState | None
SETTINGS = {
    "latent_dim": "latent_dim",
    "hidden": "hidden",
    "activation": "activation",
    "posterior": "posterior",
    "prior": "prior",
    "latent_classes": "latent_classes",
    "layers": "layers",
    "objective": "objective",
    "gradient": "gradient",
    "samples": "samples",
    "beta": "beta",
    "algorithm": "algorithm",
    "components": "components",
    "covariance": "covariance",
    "lr": "learning_rate",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "patience": "patience",
    "allow_nan": "allow_nan",
    "device": "device",
}
"""The settings of a run and the parameters of the estimator that say the same."""


def seed_of(random_state: Randomness) -> int:
    """None is 0; a whole number is itself; a RandomState gives its next one."""
    if random_state is None:
        return 0
    if isinstance(random_state, np.random.RandomState):
        return int(check_random_state(random_state).randint(2**31 - 1))
    try:
        seed = operator.index(random_state)
    except TypeError:
        seed = -1
    if not 0 <= seed < 2**64:
        raise UsageError(
            f"random_state must be None, a whole number from 0 or a RandomState, found "
            f"{random_state!r}"
        )
    return seed


def plain(value: Any) -> Any:
    """A parameter as Python has it: a grid search may bring numbers of numpy."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(plain(item) for item in value)
    return value


def as_parameter(name: str) -> str:
    """A setting as the estimators spell it."""
    return SETTINGS.get(name, name)


@contextmanager
def spelled() -> Iterator[None]:
    """Name parameters as Python does, where a sentence has the options of the command line."""
    try:
        yield
    except UsageError as error:
        option = re.compile(r"--([a-z-]+)")
        sentence = option.sub(lambda m: as_parameter(m[1].replace("-", "_")), str(error))
        raise UsageError(sentence) from error
