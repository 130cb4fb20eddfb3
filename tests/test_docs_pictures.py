"""The pictures of the densities: every law has one, and a row in the table of its page."""

import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aevb import distributions, flows
from aevb.storage.latents import DISCRETE, DISCRETE_PRIORS, FAMILIES, PRIORS
from aevb.storage.likelihoods import LIKELIHOODS

DOCS = Path(__file__).parents[1] / "docs"
SPEC = importlib.util.spec_from_file_location("densities", DOCS / "pictures" / "densities.py")
densities = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(densities)
PANELS = {page: make() for page, make in densities.PAGES.items()}
TEXT = {page: DOCS / f"{'composition' if page == 'flows' else page}.md" for page in PANELS}
ONE = [
    pytest.param(panel, id=f"{page}-{panel.title}")
    for page, panels in PANELS.items()
    for panel in panels
    if panel.kind in ("line", "circle")
]


def reparameterized():
    """The names of all classes with a route that has a gradient."""
    found = {n: getattr(distributions, n) for n in distributions.__all__}
    classes = {n: c for n, c in found.items() if inspect.isclass(c)}
    kind = distributions.Reparameterized
    routed = {n: c for n, c in classes.items() if issubclass(c, kind) and c is not kind}
    return {n for n, c in routed.items() if c.route != "hard"}


def test_every_law_with_a_route_and_every_map_is_drawn():
    drawn = {type(panel.law).__name__ for panels in PANELS.values() for panel in panels}
    titles = {panel.title for panel in PANELS["flows"]}
    missing = reparameterized() - drawn
    assert not missing
    assert titles == {n for n in flows.__all__ if n.endswith("Map")} - {"Map"}


@pytest.mark.parametrize("page", ["inverse-cdf", "location-scale", "composition"])
def test_the_table_of_a_route_has_the_laws_of_that_route_and_no_others(page):
    rows = [line for line in TEXT[page].read_text().splitlines() if line.startswith("| {py:class}")]
    listed = {
        line.split("<aevb.distributions.")[1].split(">")[0] for line in rows if "butions." in line
    }
    routes = {"inverse-cdf": {"inverse CDF"}, "location-scale": {"location-scale"}}
    own = routes.get(page, {"composition", "implicit"})
    assert listed == {n for n in reparameterized() if getattr(distributions, n).route in own}


@pytest.mark.parametrize("page", PANELS)
def test_the_picture_of_a_page_is_there_and_of_the_size_that_the_script_gives_it(page):
    path = DOCS / "pictures" / f"{page}.png"
    with Image.open(path) as opened:
        size = opened.size
    width, height = densities.page_size(len(PANELS[page]))
    assert size == pytest.approx((width * densities.DPI, height * densities.DPI), abs=1)
    assert path.stat().st_size < 250_000
    assert f"(pictures/{page}.png)" in TEXT[page].read_text()
    for panel in PANELS[page]:
        assert panel.title in TEXT[page].read_text()


@pytest.mark.parametrize("panel", ONE)
def test_a_density_has_most_of_its_mass_in_its_panel(panel):
    """Else a picture would show a tail, or nothing."""
    x = torch.linspace(*panel.ends, 4001, dtype=torch.float64)[1:-1]
    z = torch.stack([x.cos(), x.sin()], -1) if panel.kind == "circle" else x
    inside = panel.law.support.check(z)
    height = np.zeros(len(x))
    height[inside.numpy()] = densities.density(panel, z[inside])
    assert np.trapezoid(height, x) == pytest.approx(1, abs=0.12)


OPTIONS = {
    "posterior": {*FAMILIES, *DISCRETE},
    "prior": {*PRIORS, *DISCRETE_PRIORS, "vamp"},
    "likelihood": set(LIKELIHOODS),
}


@pytest.mark.parametrize("page", ["inverse-cdf", "location-scale", "composition"])
def test_what_a_table_of_laws_calls_an_option_is_one(page):
    rows = [line.split("|") for line in TEXT[page].read_text().splitlines()]
    cells = [row[4] for row in rows if len(row) > 5 and "py:class" in row[1]]
    named = [found for cell in cells for found in re.findall(r"([a-z, ]*)`([a-z-]+)`", cell)]
    assert len(named) > 3
    for kinds, name in named:
        for kind in re.findall("posterior|prior|likelihood", kinds):
            assert name in OPTIONS[kind], f"{kind} {name}"
