"""Bugs of one line, planted where a function is defined, and the laws that must catch them."""

import __future__

import inspect
import textwrap
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from zoo.table import draws, summing


class Bug(NamedTuple):
    """`old` in a function, or a constant of a module, is `new`; `law` raises `by` of it."""

    place: Any
    old: str
    new: str
    law: Callable[..., Any]
    arguments: tuple[Any, ...]
    by: type[Exception]


def bug(place, old, new, law, *arguments, by=AssertionError):
    """A bug; `by` is AssertionError of a law that is broken, ValueError where a law's own integral
    refuses the density before it is compared."""
    return Bug(place, old, new, law, arguments, by)


@contextmanager
def plant(place, old, new):
    """`old`, which must stand in a function or a module exactly once, is `new`.

    A function is changed for everyone who has imported it; in a module constants alone.
    """
    place = inspect.unwrap(getattr(place, "fget", place))
    text = textwrap.dedent(inspect.getsource(place))
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    if inspect.ismodule(place):
        before = dict(vars(place))
        exec(new, vars(place))
    else:
        before = place.__code__
        place.__code__ = _code(text.replace(old, new), place)
    try:
        yield
    finally:
        if inspect.ismodule(place):
            vars(place).update(before)
        else:
            place.__code__ = before


def _code(text, function):
    """The code of a function of this text, with the free variables of the other."""
    free = function.__code__.co_freevars
    inner = textwrap.indent(text, "    ")
    around = f"def around({', '.join(free)}):\n{inner}\n    return {function.__name__}\n"
    flags = __future__.annotations.compiler_flag
    space: dict[str, Any] = {}
    path = inspect.getsourcefile(function)
    assert path is not None
    exec(compile(around, path, "exec", flags), function.__globals__, space)
    made = space["around"](*free)
    made = getattr(made, "fget", getattr(made, "__func__", made))
    code = inspect.unwrap(made).__code__
    assert code.co_freevars == free
    return code


def obey(law, arguments, folders):
    """Call a law; what it asks of pytest it is given anew, what the zoo has kept is forgotten."""
    for kept in (draws, summing):
        kept.cache_clear()
    given, values = iter(arguments), []
    with pytest.MonkeyPatch.context() as patch:
        for name in inspect.signature(law).parameters:
            match name:
                case "tmp_path":
                    values.append(folders.mktemp("law"))
                case "monkeypatch":
                    values.append(patch)
                case _:
                    values.extend(value for value in [next(given, None)] if value is not None)
        law(*values)


HELD: set[tuple[Any, ...]] = set()
"""Laws that were seen to hold, with their arguments."""


def caught(one, folders):
    """The law holds, and with the bug it does not: it says so in the way that is expected."""
    if (one.law, one.arguments) not in HELD:
        obey(one.law, one.arguments, folders)
        HELD.add((one.law, one.arguments))
    try:
        with plant(one.place, one.old, one.new), pytest.raises(one.by):
            obey(one.law, one.arguments, folders)
    finally:
        for kept in (draws, summing):
            kept.cache_clear()
