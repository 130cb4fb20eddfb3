"""The docstrings of the package, which are plain text, as reStructuredText.

A docstring has a sentence, a formula set in by four blanks, then entries such as `Shapes:` and
`Example:`. Here formulas become literal blocks, entries a list of fields, names in single
backticks code; every other character stands for itself.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from sphinx.application import Sphinx

ENTRY = re.compile(
    r"(?:^|(?<=[.;] ))(Formula|Parameters|Attributes|Shapes|Units|Errors|Source|Example): ?"
)
CODE = re.compile(r"`([^`]+)`")
SIGNATURES = (
    (re.compile(r"~(?>(?:\w+\.)+)(?!State\b)"), ""),  # there are two classes called State
    (re.compile(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(\w+)\]\]"), r"NDArray[\1]"),
    (
        re.compile(r"_Buffer \| _SupportsArray.*?_NestedSequence\[complex \| bytes \| str\]"),
        "ArrayLike",
    ),
    (re.compile(r"Objective\(name='(\w+)', reduce=[^)]*\)"), r"\1"),
    (re.compile(r"<function (\w+)[^>]*>"), r"\1"),
    (re.compile(r"<factory>"), "..."),
    (re.compile(r"\(\*args(: Any)?, \*\*kwargs(: Any)?\)"), "()"),
)
"""What Python makes of a default or of a constructor that is inherited, as one would write it."""


def escape(text: str) -> str:
    """Text in which nothing but names in backticks is markup."""
    parts = CODE.split(text)
    plain = (re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2])
    code = (f"``{part}``" for part in parts[1::2])
    woven = [next(plain)]
    for literal, after in zip(code, plain, strict=True):
        woven += [literal, f"\\ {after}" if after[:1].isalnum() else after]
    return "".join(woven)


def blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Runs of lines of one kind: "prose" or "set in"."""
    for inset, run in groupby((n for n in lines if n.strip()), lambda n: n.startswith("    ")):
        yield ("set in" if inset else "prose"), list(run)


def entries(prose: str) -> Iterator[tuple[str, str]]:
    """(name, text) of each entry of a paragraph; the name is empty for what stands before."""
    parts = ENTRY.split(prose)
    if parts[0].strip():
        yield "", parts[0].strip()
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        yield name, text.strip()


def convert(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    result: list[str] = []
    paragraphs = "\n".join(lines).split("\n\n")
    name = ""
    for paragraph in paragraphs:
        for kind, run in blocks(paragraph.splitlines()):
            if kind == "set in":
                text = [line[4:] for line in run]
                language = "pycon" if text[0].startswith(">>>") else "text"
                margin = "    " if name else ""
                body = ["", *("    " + line for line in text), ""]
                result += [margin + line for line in ["", f".. code-block:: {language}", *body]]
                continue
            for name, text in entries(joined(run)):
                result += [f":{name}: {escape(text)}"] if name else ["", escape(text), ""]
        result.append("")
        name = ""
    return result


def joined(run: list[str]) -> str:
    """The lines of a paragraph as one, so that an entry may begin anywhere in it."""
    return " ".join(line.strip() for line in run)


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = convert(lines)


def shorten(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    for pattern, better in SIGNATURES:
        signature = pattern.sub(better, signature) if signature else signature
        returns = pattern.sub(better, returns) if returns else returns
    return signature, returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
