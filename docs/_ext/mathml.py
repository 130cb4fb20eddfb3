"""Formulas as MathML, written into the page when the site is built.

A browser draws MathML by itself, in the color and the size of the text around it, so that a page
asks nobody for a script or a picture and works without a network. The other ways were: MathJax,
which the page would fetch from elsewhere; pictures made by LaTeX, which the build would then need;
pictures made by matplotlib, which knows no alignment and stays black on a dark page. The
conversion is that of docutils, on which Sphinx rests; what it does not know stops the build.
"""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.writers.html5 import HTML5Translator


class FormulaError(SphinxError):
    """A formula that cannot be converted."""

    category = "formula"


THIN = '<mspace width="0.17em"/>'
SPACING = (
    (re.compile(r"<mo>&ApplyFunction;</mo>(?! <mo[^>]*>[(\[])"), THIN),  # log x, but log(x)
    (re.compile(r"(\)</mo>|</mi>|</mn>) (?=<mi>log</mi>)"), rf"\1{THIN}"),  # q(z) log x
    (re.compile(r"<mo>∫</mo>"), rf"<mo>∫</mo>{THIN}"),
    (re.compile(r'(?<=<mtable class="ams-align")'), ' displaystyle="true"'),
)
"""Spaces and sizes that LaTeX would give and the conversion does not."""


def mathml(source: str, *, display: bool) -> str:
    """The MathML of a formula written in LaTeX."""
    try:
        text: str = tex2mathml(source.strip(), as_block=display)
    except MathError as error:
        raise FormulaError(f"{error} in {source!r}") from error
    text = " ".join(text.split())
    for pattern, better in SPACING:
        text = pattern.sub(better, text)
    return text


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node.astext(), display=False))
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{mathml(node.astext(), display=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
