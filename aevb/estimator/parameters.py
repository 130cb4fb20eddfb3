"""The parameters of the estimators: the settings of a run, and their values."""

import inspect
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from aevb.errors import TrainingError, UsageError
from aevb.settings import Settings

Randomness = int | np.random.RandomState | None
DECIDED = (
    *("data", "data_limit", "resize", "binarize"),
    *("seed", "precision", "threads", "step"),
)
"""Settings that an estimator has no parameter for: its data are given, how it steps is decided, and
the seed is `random_state`."""
PARAMETERS = {f.name: f.default for f in fields(Settings) if f.name not in DECIDED}
"""The settings that are parameters of an estimator, and what is usual."""
ELSEWHERE = {
    "seed": "random_state",
    "n_components": "latent_dim",
    "learning_rate": "lr",
    "max_iter": "epochs",
}
"""Parameters by the words that settings, or other estimators, have for them."""


class TakesSettings:
    """An estimator whose constructor names few of its parameters, which are the settings of a run.

    Whoever looks at the constructor, as scikit-learn does, sees them all.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" not in vars(cls):
            return
        own = [p for p in _parameters(cls.__init__) if p.kind is not p.VAR_KEYWORD]
        above = _parameters(super(cls, cls).__init__)
        every = {
            name: inspect.Parameter(name, _KEYWORD, default=d) for name, d in PARAMETERS.items()
        }
        every |= {p.name: p for p in above if p.kind is p.KEYWORD_ONLY}
        rest = [p for name, p in every.items() if name not in {p.name for p in own}]
        cls.__init__.__signature__ = inspect.Signature([*own, *rest])  # type: ignore[attr-defined]

    def _take(self, settings: Mapping[str, Any]) -> None:
        """Keep what was given of the settings that the constructor does not name, usual others."""
        rest = {name: usual for name, usual in PARAMETERS.items() if name not in vars(self)}
        if strange := sorted(settings.keys() - rest):
            wrong = strange[0]
            known = [p.name for p in _parameters(type(self))]
            near = [ELSEWHERE[wrong]] if wrong in ELSEWHERE else get_close_matches(wrong, known, 1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"{type(self).__name__} has no parameter {wrong!r}: {advice}")
        vars(self).update(rest | dict(settings))


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _parameters(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    return inspect.signature(function).parameters.values()


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
    """A setting as the estimators spell it; scikit-learn has a word of its own for the seed."""
    return ELSEWHERE.get(name, name)


@contextmanager
def spelled() -> Iterator[None]:
    """Name parameters as Python does, where a sentence has the options of the command line."""
    try:
        yield
    except (UsageError, TrainingError) as error:
        option = re.compile(r"--([a-z-]+)")
        sentence = option.sub(lambda m: as_parameter(m[1].replace("-", "_")), str(error))
        raise type(error)(sentence) from error
