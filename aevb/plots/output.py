"""Figures to bytes: PNG, SVG, and files that are whole or not there."""

import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from aevb.errors import UsageError
from aevb.files import write
from aevb.plots.style import DPI


def png(ax: Axes) -> bytes:
    """The figure of the axes as a PNG that says nothing of when and with what it was made.

    A figure made by this module gives the same bytes every time.
    Units: 150 dots per inch, cut to what is drawn.
    Example:
        >>> import numpy as np
        >>> from aevb.plots import samples
        >>> png(samples(np.zeros((4, 8, 8))))[:4]
        b'\\x89PNG'
    """
    return _drawn(ax, "png", {"Software": None})


def svg(ax: Axes, prefix: str = "figure") -> str:
    """The figure of the axes as one static `<svg>` element, to be set into a page.

    It has no declaration, date, metadata, comment, style sheet or script, and refers to nothing
    outside; letters are drawn as paths. A figure made by this module gives the same text every
    time. All ids begin with `prefix`, which must differ between the figures of one page.
    Errors: UsageError for a prefix that is no name of letters, digits, "-" and "_".
    Example:
        >>> import numpy as np
        >>> from aevb.plots import samples
        >>> svg(samples(np.zeros((4, 8, 8))))[:34]
        '<svg xmlns="http://www.w3.org/2000'
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", prefix, re.ASCII):
        raise UsageError(
            f"expected a prefix of letters, digits, - and _ that begins with a letter,"
            f" found {prefix!r}"
        )
    with matplotlib.rc_context({"svg.hashsalt": "aevb", "svg.fonttype": "path"}):
        blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        text = _drawn(ax, "svg", blank).decode()
    return _inline(text[text.index("<svg") :], prefix)


def save(picture: Axes | bytes, path: str | os.PathLike[str]) -> Path:
    """Write a picture, whole or not at all, and return its path.

    Axes become a .png of the bytes of `png`; the bytes of an animation become a .gif. The folder
    is made if there is none.
    Errors: UsageError for another suffix and for a place that cannot be written.
    Example:
        >>> import numpy as np
        >>> from aevb.plots import samples
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save(samples(np.zeros((4, 8, 8))), f"{folder}/samples.png").name
        'samples.png'
    """
    target = Path(path)
    suffix = ".gif" if isinstance(picture, bytes) else ".png"
    if target.suffix.lower() != suffix:
        raise UsageError(f"expected the name of a picture that ends in {suffix}, found {target}")
    write(target, picture if isinstance(picture, bytes) else png(picture))
    return target


def _drawn(ax: Axes, form: str, metadata: dict[str, Any]) -> bytes:
    """The figure of the axes in a format, cut to what is drawn."""
    buffer = BytesIO()
    ax.figure.canvas.figure.savefig(
        buffer,
        format=form,
        dpi=DPI,
        bbox_inches="tight",
        pad_inches=0.1,
        facecolor="white",
        metadata=metadata,
    )
    return buffer.getvalue()


def _inline(text: str, prefix: str) -> str:
    """An SVG element that minds its own business: no style for the page, ids of its own."""
    text = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'\b(?:xlink:)?href="#', f'href="#{prefix}-', text)
    text = text.replace("xlink:href=", "href=").replace("url(#", f"url(#{prefix}-")
    head, body = text.split(">", 1)
    size = " ".join(re.findall(r'\b(?:width|height|viewBox)="[^"]*"', head))
    style = 'style="stroke-linejoin:round;stroke-linecap:butt"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{body}'
