"""A report: one HTML page that needs nothing but itself.

Text, tables, certified numbers and pictures become one file without script, without network and
without a file beside it, which a policy in its head forbids as well. Whatever comes from outside
is escaped; pictures are told by their bytes and set in as images, so that none of them can act.
"""

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from aevb.errors import UsageError
from aevb.plots.style import DPI, in_figures

CSS_PIXELS = 96
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
EVIDENCE = "log p(x)"
SIDES = {"lower": "at least", "upper": "at most", "exact": "exactly"}
DIRECTIONS = {
    "lower": f"below {EVIDENCE} in expectation",
    "upper": f"above {EVIDENCE} in expectation",
    "exact": f"{EVIDENCE} itself",
}


@dataclass(frozen=True)
class Note:
    """A paragraph; a warning stands out.

    Example:
        >>> Note("1 < 2").html()
        '<p>1 &lt; 2</p>'
    """

    text: str
    warning: bool = False

    def html(self) -> str:
        kind = ' class="warning" role="note"' if self.warning else ""
        lead = "<strong>Warning.</strong> " if self.warning else ""
        return f"<p{kind}>{lead}{_text(self.text)}</p>"


@dataclass(frozen=True)
class Table:
    """Rows of cells, each made a text, numbers flush right; the first cell names its row.

    Errors: UsageError, of `html`, for a row whose length is not that of the header or, without a
    header, of the longest row.
    Example:
        >>> page = Table([["train", 1437], ["test", 180]], header=["part", "rows"]).html()
        >>> page.count("<tr>"), '<td class="figure">180</td>' in page
        (3, True)
    """

    rows: Sequence[Sequence[object]]
    header: Sequence[str] = ()

    def html(self) -> str:
        width = len(self.header) or max((len(row) for row in self.rows), default=0)
        for place, row in enumerate(self.rows, start=1):
            if len(row) != width:
                raise UsageError(f"expected {width} cells in row {place}, found {len(row)}")
        columns = [_column([row[k] for row in self.rows]) for k in range(width)]
        kinds = [' class="figure"' if numeric else "" for numeric, _ in columns]
        lines = []
        for cells in zip(*(cells for _, cells in columns), strict=True):
            first, *rest = (f"{kind}>{cell}" for kind, cell in zip(kinds, cells, strict=True))
            lines.append(
                f'<tr><th scope="row"{first}</th>{"".join(f"<td{c}</td>" for c in rest)}</tr>'
            )
        head = "".join(
            f'<th scope="col"{kind}>{_text(name)}</th>'
            for kind, name in zip(kinds, self.header, strict=False)
        )
        above = f"<thead><tr>{head}</tr></thead>" if head else ""
        body = f"<tbody>{''.join(lines)}</tbody>" if lines else ""
        return f'<div class="wide" tabindex="0"><table>{above}{body}</table></div>' if width else ""


@dataclass(frozen=True)
class Number:
    """A number in large type over the facts that one must know to use it.

    Example:
        >>> "<dt>samples</dt><dd>9</dd>" in Number("ELBO", "-91.8 nats", {"samples": 9}).html()
        True
    """

    name: str
    value: str
    facts: Mapping[str, object] = field(default_factory=dict)

    def html(self) -> str:
        head = f'<p class="name">{_text(self.name)}</p><p class="value">{_text(self.value)}</p>'
        return f'<div class="number">{head}{_facts(self.facts)}</div>'


@dataclass(frozen=True)
class Picture:
    """A PNG, a GIF or an SVG, a sentence on how to read it, and what it shows for who cannot see.

    An SVG is what `plots.svg` returns.
    Units: of an SVG its own size, of a PNG 150 dots per inch, of a GIF a pixel of the page each.
    Errors: UsageError, of `html`, for bytes that are none of the three.
    Example:
        >>> gif = b"GIF89a" + bytes([4, 0, 3, 0])  # 4 pixels wide, 3 high
        >>> 'width="4" height="3" alt="dots"' in Picture(gif, "Twelve dots.", "dots").html()
        True
    """

    data: bytes | str
    caption: str
    alt: str

    def html(self) -> str:
        data = self.data.encode() if isinstance(self.data, str) else self.data
        kind, width, height = _kind(data)
        source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        return (
            f'<figure><div class="picture"><img src="{source}" width="{width}" height="{height}"'
            f' alt="{_text(self.alt)}"></div>'
            f"<figcaption>{_text(self.caption)}</figcaption></figure>"
        )


class Block(Protocol):
    """What a section holds: a note, a table, a number or a picture, or what else has `html`.

    The page takes its text as it is: what comes from outside must be escaped in it.
    Example:
        >>> class Rule:
        ...     def html(self):
        ...         return "<hr>"
        >>> "<hr>" in report("A run", [Section("Numbers", [Rule()])])
        True
    """

    def html(self) -> str:
        """The block as it stands in the page."""
        ...


@dataclass(frozen=True)
class Section:
    """A part of the report under its own title, listed in the contents.

    Example:
        >>> page = report("A run", [Section("Data", []), Section("Numbers", [])])
        >>> '<li><a href="#section-2">Numbers</a></li>' in page
        True
    """

    title: str
    blocks: Sequence[Block]


def report(title: str, sections: Sequence[Section], summary: Mapping[str, object] = {}) -> str:
    """One HTML page with a header, a table of contents and the sections.

    `summary` is shown in the header, a term and its value each, say of the data.
    Errors: UsageError for a picture that is no PNG, GIF or SVG, and for rows that differ in
    length from their header.
    Example:
        >>> page = report("A & B", [Section("Numbers", [Note("1 < 2")])])
        >>> "<h1>A &amp; B</h1>" in page, "1 &lt; 2" in page
        (True, True)
    """
    name = _text(title)
    links = "".join(
        f'<li><a href="#section-{k}">{_text(section.title)}</a></li>'
        for k, section in enumerate(sections, start=1)
    )
    contents = f'<nav aria-label="Contents"><ol>{links}</ol></nav>' if links else ""
    parts = (_section(k, section) for k, section in enumerate(sections, start=1))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{name}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{name}</h1>{_facts(summary)}</header>",
            contents,
            "<main>",
            *parts,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def number(certificate: Mapping[str, Any]) -> Number:
    """A number of an evaluation with its certificate, for a report.

    `certificate` is as `Certificate.as_dict` gives it; a mean of None is of data without a density.
    Units: those that the certificate names, nats per datum as a rule.
    Example:
        >>> facts = dict(method="importance", estimand="log p(x)", direction="lower", unit="nats")
        >>> facts |= dict(samples=1000, n=180, mean=-91.8, standard_error=0.2)
        >>> facts |= dict(monte_carlo_error=None, data="digits test", binarize="none")
        >>> number(facts).name, number(facts).facts["Monte-Carlo error"]
        ('log p(x), at least', 'unknown')
    """
    unit, error, noise = (certificate[k] for k in ("unit", "standard_error", "monte_carlo_error"))
    spread = "" if error is None else f" \N{PLUS-MINUS SIGN} {in_figures(error)}"
    facts = {
        "unit": f"{unit} per datum",
        "direction": DIRECTIONS.get(certificate["direction"], certificate["direction"]),
        "method": certificate["method"],
        "samples": certificate["samples"],
        "standard error over rows": "unknown" if error is None else in_figures(error, 3),
        "Monte-Carlo error": "unknown" if noise is None else in_figures(noise, 4),
        "data": f"{certificate['data']}, {certificate['n']} rows",
        "binarize": certificate["binarize"],
    }
    side = SIDES.get(certificate["direction"]) if certificate["estimand"] == EVIDENCE else None
    name = f"{certificate['estimand']}, {side}" if side else str(certificate["estimand"])
    mean = certificate["mean"]
    value = "not finite" if mean is None else f"{in_figures(mean)}{spread} {unit}"
    return Number(name, value, facts)


def _section(place: int, section: Section) -> str:
    """The section's title and blocks; numbers that follow each other stand side by side."""
    parts = []
    for kind, group in groupby(section.blocks, type):
        inside = "\n".join(block.html() for block in group)
        parts.append(f'<div class="numbers">{inside}</div>' if kind is Number else inside)
    body = "\n".join(parts)
    return f'<section id="section-{place}"><h2>{_text(section.title)}</h2>\n{body}\n</section>'


def _facts(facts: Mapping[str, object]) -> str:
    """Terms and their values."""
    pairs = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_cell(value)}</dd></div>" for name, value in facts.items()
    )
    return f"<dl>{pairs}</dl>" if pairs else ""


def _column(cells: Sequence[object]) -> tuple[bool, list[str]]:
    """Whether a column holds numbers, and its cells as text; numbers get the same decimals."""
    texts = [_cell(cell) for cell in cells]
    values = [cell for cell in cells if cell is not None]
    if not values or not all(_is_number(value) for value in values):
        return False, texts
    plain = [text.partition(".")[2] for text in texts if "." in text]
    if plain and all(tail.isdigit() for tail in plain):
        most = max(map(len, plain))
        texts = [_padded(text, most) if text[-1].isdigit() else text for text in texts]
    return True, texts


def _padded(text: str, decimals: int) -> str:
    """A number with zeros behind it up to so many decimals."""
    whole, _, tail = text.partition(".")
    return f"{whole}.{tail:0<{decimals}}"


def _kind(data: bytes) -> tuple[str, int, int]:
    """The media type of an image, and its width and height in CSS pixels."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        size = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
        width, height = (max(1, round(pixels * CSS_PIXELS / DPI)) for pixels in size)
        return "image/png", width, height
    if data[:6] in (b"GIF87a", b"GIF89a"):
        width, height = (int.from_bytes(data[k : k + 2], "little") for k in (6, 8))
        return "image/gif", width, height
    points = re.match(rb'<svg [^>]*?width="([\d.]+)pt" height="([\d.]+)pt"', data)
    if points:
        width, height = (max(1, round(float(size) * CSS_PIXELS / 72)) for size in points.groups())
        return "image/svg+xml", width, height
    raise UsageError(
        f"expected a picture as PNG, GIF or an SVG of plots.svg, found bytes that begin with"
        f" {data[:8]!r}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    """A value as text: numbers in five digits with a true minus, yes and no, a dash for nothing."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        value = f"{value:z.5g}"
    text = _text(value)
    return text.replace("-", "\N{MINUS SIGN}", 1) if re.match(r"-\d", text) else text


def _text(value: object) -> str:
    """Any value as text that is only text: escaped, without control characters."""
    text = str(value).encode("utf-8", "replace").decode()
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", text))


STYLE = """
:root { --ink: #22262b; --soft: #5d6670; --line: #dfe2e6; --page: #fdfdfc; --card: #f5f6f7;
  --accent: #2f6b9a; --warn: #b4571a; --warn-card: #fdf3ea; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --soft: #9aa4af; --line: #333a42;
  --page: #14171b; --card: #1c2026; --accent: #86b9e0; --warn: #eba36a; --warn-card: #2a2019; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; padding: 3.5rem 1.25rem 5rem; max-width: 54rem; color: var(--ink);
  background: var(--page); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word; }
h1, h2 { font-family: Charter, "Iowan Old Style", Georgia, Cambria, serif; font-weight: 600;
  line-height: 1.2; text-wrap: balance; }
h1 { font-size: clamp(1.75rem, 1.2rem + 2.6vw, 2.6rem); margin: 0 0 1.5rem; }
h2 { font-size: 1.45rem; margin: 0 0 1.25rem; }
p { margin: 0 0 1rem; max-width: 42rem; }
a { color: var(--accent); text-underline-offset: 0.18em; text-decoration-thickness: 1px; }
dl { margin: 0; }
dt, th[scope="col"], .name { color: var(--soft); font-size: 0.82rem; font-weight: 400; }
dd { margin: 0; }
header dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: 1rem 1.5rem; padding: 1.1rem 0; border-block: 1px solid var(--line); }
nav ol { margin: 1.25rem 0 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap;
  gap: 0.35rem 1.5rem; font-size: 0.95rem; }
section { margin-top: 3.5rem; scroll-margin-top: 1.5rem; }
p.warning { max-width: none; padding: 0.75rem 1rem; border-left: 3px solid var(--warn);
  background: var(--warn-card); }
.warning strong { color: var(--warn); }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr));
  gap: 1rem; margin-bottom: 1.5rem; }
.number { padding: 1.1rem 1.25rem; background: var(--card); border-radius: 0.5rem; }
.number p { margin: 0; }
.value { font-size: 1.65rem; font-weight: 600; letter-spacing: -0.01em; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
.number dl { margin-top: 0.75rem; padding-top: 0.65rem; border-top: 1px solid var(--line);
  font-size: 0.85rem; }
.number dl div { display: flex; justify-content: space-between; gap: 1rem; padding: 0.1rem 0; }
.number dd { text-align: right; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin-bottom: 1.5rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 1.25rem 0.4rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
th[scope="row"] { font-weight: 400; color: var(--soft); }
th:not(.figure), td:not(.figure) { min-width: 5rem; overflow-wrap: anywhere; }
th[scope="row"]:not(.figure) { min-width: 7rem; }
.figure { text-align: right; }
figure { margin: 0 0 2.5rem; break-inside: avoid; }
.picture { background: #fff; border: 1px solid var(--line); border-radius: 0.5rem;
  padding: 0.75rem; overflow: hidden; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { margin-top: 0.6rem; color: var(--soft); font-size: 0.9rem; max-width: 42rem; }
@media (max-width: 34rem) { body { padding-top: 2rem; } .picture { padding: 0.25rem; }
  section { margin-top: 2.75rem; } th, td { padding-right: 0.75rem; } }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --card: #fff;
  --accent: #000; --warn: #000; --warn-card: #fff; } body { padding: 0; max-width: none;
  font-size: 10pt; } .number { border: 1px solid var(--line); break-inside: avoid; }
  .wide { overflow: visible; } h2 { break-after: avoid; } tr, .warning { break-inside: avoid; }
  img { max-height: 11cm; width: auto; } }
"""
