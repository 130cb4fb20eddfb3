"""Bugs of one line, planted where a function is defined, and the laws that must catch them."""

import __future__

import inspect
import textwrap
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import doctor_cases
import pytest
from zoo.pairs import saved_in
from zoo.table import draws, summing


class Bug(NamedTuple):
    """`old`, which stands in a function once, is `new`, and the law does not hold then.

    It says so by AssertionError; `by` is the error that comes before an assertion is reached.
    """

    function: Any
    old: str
    new: str
    law: Callable[..., Any]
    arguments: tuple[Any, ...]
    by: type[Exception]


def bug(function, old, new, law, *arguments, by=AssertionError):
    return Bug(getattr(function, "fget", function), old, new, law, arguments, by)


def named(one):
    return one.function.__qualname__


@contextmanager
def plant(function, old, new):
    """One function in which `old`, which must stand there exactly once, is `new`, for everyone."""
    function = inspect.unwrap(function)
    path = inspect.getsourcefile(function)
    assert path is not None
    text = textwrap.dedent(inspect.getsource(function))
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    flags = __future__.annotations.compiler_flag
    space: dict[str, Any] = {}
    exec(compile(text.replace(old, new), path, "exec", flags), function.__globals__, space)
    made = space[function.__name__]
    before, made = function.__code__, inspect.unwrap(getattr(made, "fget", made))
    assert made.__code__.co_freevars == before.co_freevars
    function.__code__ = made.__code__
    try:
        yield
    finally:
        function.__code__ = before


def obey(law, arguments, folders):
    """Call a law; what it asks of pytest it is given anew, what the zoo has kept is forgotten."""
    for kept in (draws, summing):
        kept.cache_clear()
    given = iter(arguments)
    with pytest.MonkeyPatch.context() as patch:
        own = {
            "tmp_path": lambda: folders.mktemp("law"),
            "monkeypatch": lambda: patch,
            "saved": lambda: saved_in(folders.mktemp("saved")),
            "healthy": doctor_cases.healthy,
            "case": lambda: doctor_cases.anew(doctor_cases.healthy()),
        }
        law(*(own.get(name, lambda: next(given))() for name in inspect.signature(law).parameters))


HELD: list[tuple[Any, ...]] = []
"""Laws that were seen to hold, with their arguments."""


def caught(one, folders):
    """The law holds, and with the bug it does not: no other exception than `by` will do."""
    if (one.law, one.arguments) not in HELD:
        obey(one.law, one.arguments, folders)
        HELD.append((one.law, one.arguments))
    try:
        with plant(one.function, one.old, one.new), pytest.raises(one.by):
            obey(one.law, one.arguments, folders)
    finally:
        for kept in (draws, summing):
            kept.cache_clear()
