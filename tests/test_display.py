"""What a notebook shows of an estimator: static, whole, escaped, and true."""

import copy
import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.datasets import load_iris

from aevb import VAE, VAEDetector
from aevb.estimator.display import html_of, warnings_of

IRIS = load_iris().data
SMALL = {"hidden": (8,), "epochs": 5}
EMPTY = {"br", "hr", "img", "input", "meta", "link"}
EVIL = "</style><script>alert('&\"')</script>"


class Page(HTMLParser):
    """Tags that are opened and closed in turn, attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def checked(estimator):
    """The page of an estimator, held to what every one must be."""
    text = html_of(estimator)
    assert text == html_of(estimator) == estimator._repr_html_()
    assert "<script" not in text.lower()
    assert "javascript" not in text.lower()
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    page = Page(text)
    assert page.tags[0] == "div"
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "action")
        assert name != "href" or value.startswith("#")
    # no rule reaches what is outside of this element
    for sheet in re.findall(r"<style>(.*?)</style>", text, re.DOTALL):
        for selectors in re.findall(r"([^{}]+)\{", sheet):
            assert all(one.strip().startswith(".aevb-vae") for one in selectors.split(","))
    assert text.count("<style") == 1
    return page


@pytest.fixture(scope="module")
def fitted():
    return VAE(**SMALL).fit(IRIS)


def test_what_is_not_fitted_shows_its_parameters():
    page = checked(VAE(7, beta=0.25))
    assert page.text.index("latent_dim") < page.text.index("parameters as usual")
    assert page.text.index("beta") < page.text.index("parameters as usual")
    assert page.text.index("parameters as usual") < page.text.index("batch_size")
    assert "VAE" in page.text
    assert "not fitted" in page.text
    assert "Not fitted yet: call fit(X)." in page.text
    assert "svg" not in page.tags
    assert page.tags.count("details") == 1
    assert warnings_of(VAE()) == ["Not fitted yet: call fit(X)."]


def test_what_is_fitted_shows_data_curve_and_bound(fitted):
    page = checked(fitted)
    assert page.tags.count("svg") == 1
    for said in ("150", "gaussian, since values lie outside [0, 1]", "in training (reconstruction"):
        assert said in page.text
    bound = f"{fitted.history_[-1]['train']['elbo']:.2f}".replace("-", "\N{MINUS SIGN}")
    assert f"{bound} nats per row" in page.text
    assert "missing cells" not in page.text
    again = copy.deepcopy(fitted)
    again.history_ = []
    page = checked(again)
    assert "svg" not in page.tags
    assert "nothing is known of its learning" in page.text


def test_notebooks_get_text_and_page(fitted):
    bundle = fitted._repr_mimebundle_(include=None, exclude=None)
    assert bundle == {"text/plain": repr(fitted), "text/html": html_of(fitted)}


def test_two_curves_of_one_page_share_no_id(fitted):
    other = VAE(**SMALL, random_state=1).fit(IRIS)
    ids = [
        {value for _, name, value in checked(vae).attributes if name == "id"}
        for vae in (fitted, other)
    ]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_the_data_are_summed_up():
    frames = pytest.importorskip("pandas")
    x = IRIS.copy()
    x[5, 2] = np.nan
    wide = frames.DataFrame(np.hstack([x, x, x]), columns=[f"c{i}" for i in range(12)])
    page = checked(VAE(**SMALL, allow_nan=True).fit(wide))
    assert "12: c0, c1, c2, c3, c4, c5, c6, c7 and 4 more" in page.text
    assert "3 (0.17 %)" in page.text
    assert "missing at random" in page.text
    detector = VAEDetector(**SMALL).fit(IRIS)
    offset = f"{detector.offset_:.2f}".replace("-", "\N{MINUS SIGN}")
    assert f"log p(x) below {offset} nats" in checked(detector).text


def test_words_from_outside_are_escaped(fitted):
    frames = pytest.importorskip("pandas")
    assert repr(EVIL) in checked(VAE(likelihood=EVIL, activation=EVIL * 50)).text
    named = VAE(**SMALL).fit(frames.DataFrame(IRIS, columns=[EVIL, "<b>", "&amp;", "d"]))
    page = checked(named)
    assert "<b>, &amp;, d" in page.text
    assert "b" not in page.tags
    hostile = copy.deepcopy(fitted)
    hostile.reason_ = hostile.likelihood_ = EVIL
    assert checked(hostile).text.count("alert") == 2
    worse = type(EVIL, (VAE,), {"__init__": VAE.__init__})(**SMALL)
    assert EVIL in checked(worse).text


# -- doubts ---------------------------------------------------------------------------------------


LEARNED = (-100 - 50 * np.exp(-np.arange(40) / 4)).tolist()
"""Bounds of a fit that has come to its end."""


@pytest.fixture
def doubts(fitted):
    """What is said of a fit with these bounds by epoch."""

    def said(train, validation=None, kl=2.0, epochs=None, patience=None):
        made = copy.copy(fitted)
        changed = {"epochs": epochs or len(train), "patience": patience}
        made.settings_ = dataclasses.replace(made.settings_, **changed)
        made.history_ = [
            {
                "epoch": i + 1,
                "train": {"elbo": bound, "reconstruction": bound + kl, "kl": kl},
                "validation": None if validation is None else {"elbo": validation[i]},
            }
            for i, bound in enumerate(train)
        ]
        checked(made)
        return " ".join(warnings_of(made))

    return said


def test_a_good_fit_raises_no_doubt(doubts):
    assert doubts(LEARNED) == ""
    assert doubts(LEARNED, [bound - 0.5 for bound in LEARNED]) == ""
    noise = np.random.default_rng(0).normal(0, 0.5, 40)
    assert doubts((LEARNED + noise).tolist()) == ""
    assert doubts([-3.0]) == ""


def test_collapse_is_told(doubts):
    assert "posterior has collapsed" in doubts(LEARNED, kl=0.01)
    assert "collapsed" not in doubts(LEARNED, kl=0.5)


def test_a_fit_that_ended_too_soon_is_told(doubts):
    for cut in (8, 12):
        assert "still rising" in doubts(LEARNED[:cut])
    assert "still rising" not in doubts(LEARNED[::-1])  # it fell
    assert "still rising" in doubts(np.linspace(-100.0, -50.0, 30).tolist())


def test_a_gap_to_validation_is_told(doubts):
    worse = [bound - 30 * i / 40 for i, bound in enumerate(LEARNED)]
    best = int(np.argmax(worse))
    found = doubts(LEARNED, worse)
    assert f"The parameters are those of epoch {best + 1}" in found
    assert "nats lower in validation" not in found  # at the epoch that was kept it was small
    far = [bound - 25 for bound in LEARNED]
    assert "25.00 nats lower in validation" in doubts(LEARNED, far)
    assert "ended after 40 of 90 epochs, 7 of them" in doubts(
        LEARNED, [bound - 0.5 for bound in LEARNED], epochs=90, patience=7
    )


def test_counts_that_may_be_none_are_told():
    counts = np.random.default_rng(0).negative_binomial(2, 0.2, (50, 3))
    guessed = VAE(**SMALL).fit(counts)
    assert guessed.likelihood_ == "negative-binomial"
    assert "taken for counts" in " ".join(warnings_of(guessed))
    asked = VAE(**SMALL, likelihood="negative-binomial").fit(counts)
    assert "taken for counts" not in " ".join(warnings_of(asked))
    assert "negative-binomial, as asked" in checked(asked).text
