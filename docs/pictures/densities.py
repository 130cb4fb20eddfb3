"""The pictures of the densities: python docs/pictures/densities.py writes one for each page.

Grey are 50,000 draws of a law, blue is its density; where draws have two coordinates, the shade is
how many fell there and the lines are where the density is the same.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution

from aevb import distributions as zoo
from aevb import flows
from aevb.networks import MADE, MLP
from aevb.plots.style import DPI, FAINT, INK, LABEL, SMALL, TRAINING
from aevb.randomness import Stream, generator

HERE = Path(__file__).parent
DRAWS = 50_000
COLUMNS = 4
PANEL, GAP = (1.62, 1.02), (0.36, 0.62)
SIDE, ABOVE, BELOW = 0.36, 0.42, 0.3
BINS = 48
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#6f6f6f"])
Floats = NDArray[np.float64]


class Panel(NamedTuple):
    """A law, what of its parameters is said above it, and how it is shown.

    `ends` are those of the axis that is shown; `kind` is "line", "bars" (its values are counts, or
    levels that it lists), "plane" (two coordinates), "shares" (the first two of three) or "circle"
    (the angle of a direction).
    """

    law: Distribution
    said: str
    ends: tuple[float, float]
    kind: str = "line"
    name: str = ""

    @property
    def title(self) -> str:
        """The class of the law, or the map that makes it."""
        return self.name or type(self.law).__name__


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normals(loc: Tensor, scale: float = 1.0) -> td.Independent:
    return td.Independent(zoo.Normal(loc, scale), 1)


def mixed(kind: Callable[[Tensor], Distribution], weights: Tensor, loc: Tensor) -> zoo.Mixture:
    return zoo.Mixture(td.Categorical(weights), kind(loc))


def through(*maps: flows.Map, start: Tensor | None = None) -> flows.FlowDistribution:
    scale = row(1.0, 1.0) if start is None else start
    return flows.FlowDistribution(td.Independent(zoo.Normal(row(0, 0), scale), 1), maps)


def drawn(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The network in double precision, with weights at random, as if it had learned something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.9)
    return network.double()


def inverse_cdf() -> list[Panel]:
    one, n = number(1.0), number
    return [
        Panel(zoo.Exponential(one), "rate 1", (0, 5)),
        Panel(zoo.Cauchy(n(0.0), 1.0), "loc 0, scale 1", (-8, 8)),
        Panel(zoo.HalfCauchy(one), "scale 1", (0, 8)),
        Panel(zoo.Logistic(n(0.0), 1.0), "loc 0, scale 1", (-7, 7)),
        Panel(zoo.Rayleigh(one), "scale 1", (0, 4)),
        Panel(zoo.Pareto(one, 2.5), "scale 1, alpha 2.5", (0, 6)),
        Panel(zoo.Weibull(one, 3.0), "scale 1, concentration 3", (0, 2)),
        Panel(zoo.Reciprocal(one, 10.0), "low 1, high 10", (0, 12)),
        Panel(zoo.Gompertz(n(0.2), 1.0), "concentration 0.2, scale 1", (0, 4)),
        Panel(zoo.Gumbel(n(0.0), 1.0), "loc 0, scale 1", (-3, 7)),
        Panel(zoo.Erlang(3, one), "shape 3, rate 1", (0, 10)),
        Panel(zoo.Kumaraswamy(n(2.0), 4.0), "concentrations 2, 4", (0, 1)),
        Panel(zoo.TruncatedNormal(n(0.0), 1.0, -0.5, 2.0), "low \u22120.5, high 2", (-1, 3)),
        Panel(zoo.ContinuousBernoulli(n(0.2)), "probs 0.2", (0, 1)),
        Panel(zoo.RelaxedBernoulli(n(0.8), probs=n(0.4)), "temperature 0.8, probs 0.4", (0, 1)),
        Panel(zoo.BernoulliStraightThrough(n(0.3)), "probs 0.3", (-0.5, 1.5), "bars"),
    ]


def location_scale() -> list[Panel]:
    zero, n = number(0.0), number
    lower = torch.tensor([[1.0, 0.0], [0.7, 0.6]], dtype=torch.float64)
    factor = torch.tensor([[1.0], [-0.9]], dtype=torch.float64)
    radius = zoo.Gamma(n(20.0), 10.0)
    return [
        Panel(zoo.Normal(zero, 1.0), "loc 0, scale 1", (-4, 4)),
        Panel(zoo.HalfNormal(n(1.0)), "scale 1", (0, 4)),
        Panel(zoo.Laplace(zero, 1.0), "loc 0, scale 1", (-5, 5)),
        Panel(zoo.StudentT(n(3.0)), "df 3, loc 0, scale 1", (-6, 6)),
        Panel(zoo.Uniform(zero, 1.0), "low 0, high 1", (-0.25, 1.25)),
        Panel(zoo.Triangular(zero, 4.0, 1.0), "low 0, high 4, mode 1", (-1, 5)),
        Panel(
            zoo.MultivariateNormal(row(0, 0), scale_tril=lower), "correlated", (-2.6, 2.6), "plane"
        ),
        Panel(
            zoo.LowRankMultivariateNormal(row(0, 0), factor, row(0.1, 0.3)),
            "rank 1",
            (-2.6, 2.6),
            "plane",
        ),
        Panel(
            zoo.Elliptical(row(0, 0), lower, radius), "radius Gamma(20, 10)", (-3.2, 3.2), "plane"
        ),
    ]


def composition() -> list[Panel]:
    zero, n = number(0.0), number
    two = mixed(lambda loc: zoo.Normal(loc, 0.6), row(0.3, 0.7), row(-1.5, 1.0))
    chain = zoo.Chain(
        normals(torch.zeros(1, dtype=torch.float64)),
        [lambda z: td.Independent(zoo.Normal(z.square() - 1, 0.4), 1)],
        [1, 1],
    )
    return [
        Panel(zoo.LogNormal(zero, 0.5), "loc 0, scale 0.5", (0, 4)),
        Panel(zoo.LogitNormal(zero, 1.5), "loc 0, scale 1.5", (0, 1)),
        Panel(zoo.Gamma(n(2.5), 1.0), "concentration 2.5, rate 1", (0, 9)),
        Panel(zoo.Chi2(n(4.0)), "df 4", (0, 15)),
        Panel(zoo.Beta(n(2.0), 3.0), "concentrations 2, 3", (0, 1)),
        Panel(zoo.FisherSnedecor(n(6.0), 12.0), "df 6 and 12", (0, 5)),
        Panel(zoo.Dirichlet(row(2, 3, 4)), "first 2 of 3 shares", (0, 1), "shares"),
        Panel(two, "two Normals, 0.3 and 0.7", (-4, 4)),
        Panel(
            zoo.VonMisesFisher(row(1, 0), n(2.0)), "by angle, concentration 2", _turn(), "circle"
        ),
        Panel(
            zoo.HypersphericalUniform(2, dtype=torch.float64), "by angle, dim 2", _turn(), "circle"
        ),
        Panel(chain, "a, then b given a", (-3, 3), "plane"),
    ]


def _turn() -> tuple[float, float]:
    return -np.pi, np.pi


def through_maps() -> list[Panel]:
    planar = [flows.PlanarMap(row(2.5, 0.0), row(1.5, 0.5), number(0.0))] * 2
    radial = flows.RadialMap(row(0.5, 0.0), number(0.0), number(3.0))
    turned = flows.HouseholderMap(row(1.0, 0.6))
    triangle = torch.tensor([[1.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    sylvester = flows.SylvesterMap(
        torch.eye(2, dtype=torch.float64), triangle, triangle, row(0.0, 0.0)
    )
    coupling = flows.CouplingMap(drawn(MLP(1, [8], 2), 2), None)
    forward = flows.InverseAutoregressiveMap(drawn(MADE(2, [8]), 1), None)
    masked = flows.MaskedAutoregressiveMap(drawn(MADE(2, [8]), 2), None)
    ends, flat = (-3.0, 3.0), row(1.6, 0.5)
    return [
        Panel(through(*planar), "FlowDistribution, 2 maps", (-4.2, 4.2), "plane", "PlanarMap"),
        Panel(through(radial), "FlowDistribution", (-4.2, 4.2), "plane", "RadialMap"),
        Panel(through(turned, start=flat), "FlowDistribution", ends, "plane", "HouseholderMap"),
        Panel(through(sylvester), "FlowDistribution", (-4.2, 4.2), "plane", "SylvesterMap"),
        Panel(through(coupling), "FlowDistribution", ends, "plane", "CouplingMap"),
        Panel(through(forward), "FlowDistribution", ends, "plane", "InverseAutoregressiveMap"),
        Panel(through(masked), "FlowDistribution", ends, "plane", "MaskedAutoregressiveMap"),
    ]


def observations() -> list[Panel]:
    n, third = number, row(0.2, 0.5, 0.3)
    levels = lambda loc: zoo.DiscretizedLogistic(loc, 0.06, 0.0, 1.0, 17)  # noqa: E731
    return [
        Panel(zoo.Bernoulli(n(0.3)), "probs 0.3", (-0.5, 1.5), "bars"),
        Panel(zoo.Categorical(third), "probs 0.2, 0.5, 0.3", (-0.5, 2.5), "bars"),
        Panel(
            zoo.Ordinal(row(-1.0, 0.5, 2.0), n(0.4)), "3 cutpoints, loc 0.4", (-0.5, 3.5), "bars"
        ),
        Panel(zoo.Poisson(n(4.0)), "rate 4", (-0.5, 12.5), "bars"),
        Panel(zoo.NegativeBinomial(2.0, logits=n(0.7)), "total count 2", (-0.5, 14.5), "bars"),
        Panel(
            zoo.ZeroInflatedNegativeBinomial(6.0, n(0.0), 0.3),
            "total count 6, gate 0.3",
            (-0.5, 16.5),
            "bars",
        ),
        Panel(levels(n(0.25)), "17 levels", (-0.05, 1.05), "bars"),
        Panel(
            mixed(levels, row(0.4, 0.6), row(0.2, 0.8)),
            "a mixture of two",
            (-0.05, 1.05),
            "bars",
        ),
        Panel(
            zoo.RelaxedOneHotCategorical(n(1.5), probs=third),
            "temperature 1.5, first 2 of 3",
            (0, 1),
            "shares",
        ),
        Panel(
            zoo.OneHotCategoricalStraightThrough(third),
            "probs 0.2, 0.5, 0.3",
            (-0.5, 2.5),
            "one-hot",
        ),
    ]


PAGES: dict[str, Callable[[], list[Panel]]] = {
    "inverse-cdf": inverse_cdf,
    "location-scale": location_scale,
    "composition": composition,
    "flows": through_maps,
    "observations": observations,
}


def density(panel: Panel, x: Tensor) -> Floats:
    with torch.no_grad():
        return panel.law.log_prob(x).exp().numpy()


def show_line(ax: Axes, panel: Panel, draws: Floats) -> None:
    """A histogram of all draws, those beyond the ends counted too, under the density."""
    low, high = panel.ends
    edges = np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(draws, edges)
    ax.stairs(counts / len(draws) / np.diff(edges), edges, fill=True, color=FAINT)
    support: td.constraints.Constraint = panel.law.support
    x = torch.linspace(low, high, 601, dtype=torch.float64)
    if panel.kind == "circle":
        height = density(panel, torch.stack([x.cos(), x.sin()], -1))
    else:
        inside = support.check(x)
        height = np.zeros(len(x))
        height[inside.numpy()] = density(panel, x[inside])
    bound = 1.35 * max(counts.max() / len(draws) / (edges[1] - edges[0]), 1e-9)
    ax.plot(x, np.minimum(height, 2 * bound), color=TRAINING, linewidth=1.4)
    ax.set_ylim(0, min(bound, 1.12 * height.max()))
    ax.set_yticks([])


def show_bars(ax: Axes, panel: Panel, draws: Floats) -> None:
    """Shares of the draws as bars, probabilities as points with stems."""
    high, law = panel.ends[1], panel.law
    if panel.kind == "one-hot":
        values = torch.arange(law.event_shape[0], dtype=torch.float64)
        height = density(panel, torch.eye(len(values), dtype=torch.float64))
    else:
        listed = law.enumerate_support() if law.has_enumerate_support else None
        values = torch.arange(int(high) + 1, dtype=torch.float64) if listed is None else listed
        height = density(panel, values)
    at = values.numpy()
    near = np.abs(draws[:, None] - at) < 1e-4
    width = 0.8 * (at[1] - at[0])
    ax.bar(at, near.mean(0), width, color=FAINT)
    ax.vlines(at, 0, height, color=TRAINING, linewidth=1.0)
    ax.plot(at, height, ".", color=TRAINING, markersize=4)
    ax.set_ylim(0, 1.12 * max(height.max(), near.mean(0).max()))
    ax.set_yticks([])


def show_plane(ax: Axes, panel: Panel, draws: Floats) -> None:
    """How many draws fell where, and lines of equal density."""
    low, high = panel.ends
    wide = 1.0 if panel.kind == "shares" else PANEL[0] / PANEL[1]  # axes of one scale
    across, up = np.linspace(wide * low, wide * high, 61), np.linspace(low, high, 41)
    counts, _, _ = np.histogram2d(draws[:, 0], draws[:, 1], [across, up])
    ax.pcolormesh(across, up, counts.T, cmap=SHADES)
    fine = [torch.linspace(e[0], e[-1], 161, dtype=torch.float64) for e in (across, up)]
    x, y = torch.meshgrid(*fine, indexing="xy")
    if panel.kind == "shares":
        inside = (x > 0) & (y > 0) & (x + y < 1)
        z = torch.stack([x, y, 1 - x - y], -1)
    else:
        inside, z = torch.ones_like(x, dtype=torch.bool), torch.stack([x, y], -1)
    height = np.full(x.shape, np.nan)
    height[inside.numpy()] = density(panel, z[inside])
    top = np.nanquantile(height, 0.999)
    levels = np.array([0.05, 0.3, 0.7]) * top
    ax.contour(*fine, height, levels, colors=TRAINING, linewidths=0.9)
    ax.set(xlim=(across[0], across[-1]), ylim=panel.ends)
    ax.locator_params(nbins=4 if wide > 1 else 2)


def draw(law: Distribution) -> Floats:
    """Draws of the law, the same in every call: by its route, where it has one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if not isinstance(law, zoo.Reparameterized) or not law.has_rsample:
            return law.sample((DRAWS,)).numpy()
    way = zoo.route(law)
    noise = way.noise.draw(generator(0, Stream.NOISE), (DRAWS,), torch.float64)
    with torch.no_grad():
        return way.transform(noise).numpy()


def show(ax: Axes, panel: Panel) -> None:
    """One law: its draws and its density, under its name and parameters."""
    draws = draw(panel.law)
    if panel.kind == "circle":
        draws = np.arctan2(draws[:, 1], draws[:, 0])
    if panel.kind == "one-hot":
        draws = draws.argmax(-1).astype(np.float64)
    way = {"bars": show_bars, "one-hot": show_bars, "plane": show_plane, "shares": show_plane}
    way.get(panel.kind, show_line)(ax, panel, draws)
    dress(ax, panel)


def dress(ax: Axes, panel: Panel) -> None:
    if panel.kind not in ("plane", "shares"):
        ax.set_xlim(*panel.ends)
        ax.locator_params(axis="x", nbins=5, integer=panel.ends[1] % 1 == 0.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(color=FAINT, labelcolor=INK, labelsize=SMALL - 1, length=2, pad=2)
    size = LABEL * min(1.0, 26 / len(panel.title))
    ax.text(0, 1.17, panel.title, transform=ax.transAxes, fontsize=size, color=INK)
    ax.text(0, 1.05, panel.said, transform=ax.transAxes, fontsize=SMALL - 1, color="#777777")


def page_size(panels: int) -> tuple[float, float]:
    """Inches across and up of a grid of so many panels."""
    rows = -(-panels // COLUMNS)
    across = 2 * SIDE + COLUMNS * PANEL[0] + (COLUMNS - 1) * GAP[0]
    return across, ABOVE + BELOW + rows * PANEL[1] + (rows - 1) * GAP[1]


def picture(panels: Sequence[Panel]) -> Figure:
    """A grid of panels, four in a row."""
    across, up = page_size(len(panels))
    figure = Figure(figsize=(across, up), facecolor="white", dpi=DPI)
    FigureCanvasAgg(figure)
    for k, panel in enumerate(panels):
        left = SIDE + k % COLUMNS * (PANEL[0] + GAP[0])
        below = up - ABOVE - PANEL[1] - k // COLUMNS * (PANEL[1] + GAP[1])
        place = (left / across, below / up, PANEL[0] / across, PANEL[1] / up)
        show(figure.add_axes(place), panel)
    return figure


if __name__ == "__main__":
    for page in PAGES:
        picture(PAGES[page]()).savefig(HERE / f"{page}.png")
