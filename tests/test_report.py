"""The report: valid, self-contained, and nothing in it can act, whatever it is given."""

import base64
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import Reader

from aevb import plots
from aevb.errors import UsageError
from aevb.evaluation import Certificate
from aevb.report import POLICY, Block, Note, Number, Picture, Section, Table, number, report

HOSTILE = "</style></title><script>alert('x')</script>\"&amp;' onload=\"x\" <img src=http://x.y>"


AX = plots.kl_by_dimension([1.0, 2.0])
PNG, SVG = plots.png(AX), plots.svg(AX)
GIF = plots.samples_animation(np.zeros((2, 1, 4)), [1, 2], (2, 2))


def page_of(*blocks: Block, title: str = "Section") -> str:
    return report("Report", [Section(title, blocks)])


def every_block(text: str) -> list[Section]:
    blocks = [
        Note(text),
        Note(text, warning=True),
        Table([[text, text]], [text, text]),
        Number(text, text, {text: text}),
        Picture(PNG, text, text),
    ]
    return [Section(text, blocks)]


@pytest.mark.parametrize("text", [HOSTILE, "", "\x00\ud800", "]]>", "<!--", "https://a.b/c"])
def test_hostile_text_stays_text(text: str) -> None:
    page = report(text, every_block(text), {text: text})
    reader = Reader(page)
    page.encode("utf-8")
    if text == HOSTILE:
        for tag in ("title", "h1", "h2", "a", "td", "th", "dt", "dd", "figcaption"):
            assert text in reader.texts(tag), tag
        assert reader.all("img")[0]["alt"] == text
        assert len(reader.all("img")) == 1


@given(st.text())
def test_any_text_stays_text(text: str) -> None:
    reader = Reader(report(text, every_block(text), {text: text}))
    shown = "".join(reader.texts("title"))
    assert re.sub(r"[\x00-\x1f\x7f\ufffd]", "", text) == re.sub(r"[\x00-\x1f\x7f\ufffd]", "", shown)


def test_the_page_needs_nothing_but_itself() -> None:
    page = page_of(Picture(PNG, "c", "a"), Picture(GIF, "c", "a"), Picture(SVG, "c", "a"))
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>\n<html lang=")
    assert "://" not in page
    assert "url(" not in page
    assert "@import" not in page
    policies = [m["content"] for m in reader.all("meta") if "http-equiv" in m]
    assert policies == [POLICY]
    allowed = {part.split()[0]: part.split()[1:] for part in POLICY.split("; ")}
    assert allowed == {
        "default-src": ["'none'"],
        "style-src": ["'unsafe-inline'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    kinds = ("image/png", "image/gif", "image/svg+xml")
    for image, kind, data in zip(reader.all("img"), kinds, (PNG, GIF, SVG.encode()), strict=True):
        head, _, body = (image["src"] or "").partition(",")
        assert head == f"data:{kind};base64"
        assert base64.b64decode(body) == data


def test_a_picture_has_the_size_it_was_drawn_for() -> None:
    png, svg = Reader(page_of(Picture(PNG, "", ""), Picture(SVG, "", ""))).all("img")
    for side in ("width", "height"):
        assert abs(int(png[side] or 0) - int(svg[side] or 0)) <= 1
    assert 300 < int(png["width"] or 0) < 600


def test_the_contents_lead_to_the_sections() -> None:
    reader = Reader(report("t", [Section("One", []), Section("Two", []), Section("One", [])]))
    assert reader.texts("a") == ["One", "Two", "One"]
    ids = [section["id"] for section in reader.all("section")]
    assert len(set(ids)) == 3
    assert [link["href"] for link in reader.all("a")] == [f"#{name}" for name in ids]
    assert reader.all("nav")
    assert not Reader(report("t", [])).all("nav")


def test_a_certified_number_says_all_that_is_known_of_it() -> None:
    values = np.array([-90.0, -92.0, -94.0, -96.0])
    certificate = Certificate(
        "importance", "log p(x)", "lower", 1000, values, np.full(4, 0.02), 9.0, 64, "digits", "none"
    )
    shown = number(certificate.as_dict())
    assert shown.name == "log p(x), at least"
    assert shown.value == "\u221293.00 \u00b1 1.29 nats"
    assert shown.facts == {
        "unit": "nats per datum",
        "direction": "below log p(x) in expectation",
        "method": "importance",
        "samples": 1000,
        "standard error over rows": "1.291",
        "Monte-Carlo error": "0.0100",
        "data": "digits, 4 rows",
        "binarize": "none",
    }
    reader = Reader(page_of(shown))
    assert reader.texts("dt") == list(shown.facts)
    assert reader.texts("dd") == [str(value) for value in shown.facts.values()]


def test_what_is_unknown_of_a_number_is_called_so() -> None:
    one = Certificate(
        *("elbo", "evidence lower bound", "lower", 1, np.array([-2.0]), np.array([np.nan])),
        *(1.0, 64, "digits", "once (one draw, seed 0)"),
    )
    shown = number(one.as_dict())
    assert (shown.name, shown.value) == ("evidence lower bound", "\u22122.00 nats")
    assert shown.facts["standard error over rows"] == shown.facts["Monte-Carlo error"] == "unknown"


def test_numbers_of_a_column_share_their_decimals_and_stand_at_the_right() -> None:
    rows = [["a", -1.5, 1e-9, "x", True], ["b", 2, None, 3, False], ["c", float("nan"), 2.0, 4, 1]]
    reader = Reader(page_of(Table(rows, ["n", "v", "w", "m", "t"])))
    cells = reader.texts("td")
    assert cells[0::4] == ["\u22121.5", "2.0", "nan"]
    assert cells[1::4] == ["1e-09", "\u2013", "2"]
    assert cells[2::4] == ["x", "3", "4"]
    assert cells[3::4] == ["yes", "no", "1"]
    right = [cell.get("class") == "figure" for cell in reader.all("td")]
    assert right == [True, True, False, False] * 3


def test_the_same_report_twice_is_the_same_text() -> None:
    assert report("t", every_block("x")) == report("t", every_block("x"))


@pytest.mark.parametrize(
    "block",
    [
        Picture(b"", "c", "a"),
        Picture(b"<html>", "c", "a"),
        Picture("<svg onload=alert(1)>", "c", "a"),
        Table([["a"]], ["b", "c"]),
        Table([["a"], ["b", "c"]]),
    ],
    ids=lambda block: type(block).__name__,
)
def test_report_refuses(block: Block) -> None:
    with pytest.raises(UsageError, match="expected"):
        page_of(block)
