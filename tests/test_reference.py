"""What the reference names is documented: an example, shapes of its tensors, what it refuses.

A page names what its directives name: functions and classes one by one, of a whole module what the
module offers, of a class the methods that it shows, which need a docstring alone. Exceptions and
plain data say all in their sentence.
"""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import public_names

import aevb

API = Path(__file__).parents[1] / "docs" / "api"
PAGES = [page for page in sorted(API.glob("*.md")) if page.name != "index.md"]
DIRECTIVE = re.compile(r"^\.\. (autofunction|autoclass|automodule|currentmodule):: (\S+)$")
ARRAY = re.compile(r"\b(Tensor|\w*Array|ndarray)\b")


def test_a_page_names_what_its_directives_name():
    page = """
.. currentmodule:: aevb

.. autofunction:: evidence
.. autoclass:: aevb.mcmc.HMC
   :members: init, step
.. automodule:: aevb.refinement
   :members: Refined,
      refined
.. automodule:: aevb.exchange
   :members:
   :exclude-members: Card
"""
    ours = ["export_hub", "export_onnx", "hub_of_run"]
    assert list(named(page)) == [
        *("aevb.evidence", "aevb.mcmc.HMC", "aevb.refinement.Refined", "aevb.refinement.refined"),
        *(f"aevb.exchange.{name}" for name in ours),
    ]
    assert [name for name, _ in parts(page)] == ["aevb.mcmc.HMC.init", "aevb.mcmc.HMC.step"]


def silent(x: "Tensor") -> None:  # noqa: F821
    if x is None:
        raise ValueError


class Telling:
    """Where it stands.

    Shapes: z (D,).
    Errors: a `ValueError`.
    """

    z: "Tensor"  # noqa: F821

    def move(self) -> None:
        """One step.

        Example:
            >>> 1
            1
        """
        raise ValueError


class Abstract(Telling):
    sizes = np.zeros(2)

    def move(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("thing", "what"),
    [
        (silent, ["an example", "Shapes:", "Errors:"]),
        (Telling, []),
        (Abstract, ["an example"]),
    ],
)
def test_what_a_docstring_lacks_is_seen(thing, what):
    assert lacks(thing) == what


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_page_names_has_an_example_and_says_shapes_and_errors(page):
    text = page.read_text()
    found = {name: lacks(thing) for name, thing in named(text).items()}
    offences = [f"{name} lacks {', '.join(what)}" for name, what in found.items() if what]
    # Sphinx leaves out without a word what has none.
    offences += [f"{name} lacks a docstring" for name, part in parts(text) if not doc(part)]
    assert not offences, "\n".join(offences)


def test_the_first_page_names_all_that_the_package_offers():
    page = (API / "index.md").read_text()
    assert not [name for name in aevb.__all__ if not re.search(rf"aevb\.(\w+\.)?{name}\b", page)]


def entries(text: str) -> Iterator[tuple[str, str, dict[str, list[str]]]]:
    """The directives of a page: kind, whole name, and the names in each option."""
    room = "aevb"
    for entry in re.split(r"\n(?=\S)", text):
        head, *options = entry.splitlines() or [""]
        if match := DIRECTIVE.match(head):
            kind, target = match.groups()
            room = target if kind.endswith("module") else room
            given = re.findall(r":([\w-]+):([^:]*)", " ".join(options))
            names = {option: re.findall(r"\w+", listed) for option, listed in given}
            yield kind, target if target.startswith("aevb") else f"{room}.{target}", names


def named(text: str) -> dict[str, Any]:
    """The functions and classes that a page's directives name."""
    names = []
    for kind, name, options in entries(text):
        if kind == "automodule":
            offered = options.get("members") or [public for public, _ in public_names(name)]
            left = options.get("exclude-members", [])
            names += [f"{name}.{public}" for public in offered if public not in left]
        elif kind != "currentmodule":
            names.append(name)
    once = {resolve(name): name for name in names}
    return {name: thing for thing, name in once.items() if documented(thing)}


def parts(text: str) -> Iterator[tuple[str, Any]]:
    """The methods and properties of classes that a page shows: those listed, or all public ones."""
    for kind, name, options in entries(text):
        if kind == "autoclass" and "members" in options:
            thing = resolve(name)
            public = [member for member in vars(thing) if not member.startswith("_")]
            for member in options["members"] or public:
                part = inspect.getattr_static(thing, member, None)
                if is_code(part):
                    yield f"{name}.{member}", part


def resolve(name: str) -> Any:
    room, _, last = name.rpartition(".")
    return getattr(importlib.import_module(room), last)


def documented(thing: Any) -> bool:
    of_ours = getattr(thing, "__module__", "").startswith("aevb")
    return of_ours and (
        inspect.isroutine(thing)
        or (inspect.isclass(thing) and not issubclass(thing, BaseException))
    )


def lacks(thing: Any) -> list[str]:
    """What the docstring of a function or class leaves out that its own methods do not say."""
    own = dict(vars(thing)) if inspect.isclass(thing) else {}
    public = [part for name, part in own.items() if not name.startswith("_")]
    examples = any(">>>" in doc(part) for part in [thing, *public])
    shapes = any("Shapes:" in doc(part) for part in [thing, own.get("__init__")])
    return [
        *([] if examples else ["an example"]),
        *([] if shapes or not names_arrays(thing) else ["Shapes:"]),
        *([] if "Errors:" in doc(thing) or not refuses(thing) else ["Errors:"]),
    ]


def doc(part: Any) -> str:
    """The docstring of a function, class or property; a plain value would show its type's."""
    return part.__doc__ or "" if is_code(part) or inspect.isclass(part) else ""


def is_code(part: Any) -> bool:
    wrapped = isinstance(part, property | cached_property | classmethod | staticmethod)
    return wrapped or inspect.isroutine(part)


def names_arrays(thing: Any) -> bool:
    """Whether an annotation of its signature, or of its public fields, is of tensors or arrays."""
    call = vars(thing).get("__init__") if inspect.isclass(thing) else inspect.unwrap(thing)
    given = getattr(call, "__annotations__", {}).values()
    fields = inspect.get_annotations(thing) if inspect.isclass(thing) else {}
    public = [kind for name, kind in fields.items() if not name.startswith("_")]
    return any(ARRAY.search(str(kind)) for kind in [*given, *public])


def refuses(thing: Any) -> bool:
    """Whether its own body raises anything where no `Errors:` stands.

    A method that is left to subclasses refuses nothing.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing))))
    methods = [part for part in tree.body[0].body if isinstance(part, ast.FunctionDef)]
    untold = [m for m in methods if "Errors:" not in (ast.get_docstring(m) or "")]
    body = untold if inspect.isclass(thing) else [tree]
    raised = [node for part in body for node in ast.walk(part) if isinstance(node, ast.Raise)]
    return any("NotImplementedError" not in ast.unparse(node) for node in raised)
