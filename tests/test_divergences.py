"""Closed-form divergences against quadrature, sums over grids and numpy, every pair of the zoo.

The laws of one element are those of the table of distributions, the first two of each class: KL as
the table's own grid integrates q (log q - log p), within 1e-7; which of them have a formula is told
by the statistics that log p is made of.
"""

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from torch import distributions as td
from torch.distributions import Independent, kl_divergence
from zoo.numeric import bounds
from zoo.table import ENTRIES, build, names, summing

from aevb import distributions as zoo
from aevb.distributions import kl, kl_by_dimension
from aevb.distributions.discrete import OneHotCategoricals

F64 = torch.float64

pytestmark = pytest.mark.usefixtures("unchecked")  # densities outside their support too


def some(kind, each):
    """The first entries of each class, by name."""
    seen, chosen = {}, []
    for name in names(lambda e: e.kind == kind):
        seen.setdefault(type(build(ENTRIES[name])), []).append(name)
    for found in seen.values():
        chosen += found[:each]
    return chosen


LINE, ATOMS = some("continuous", 2), some("discrete", 2)


def within(p, points):
    return p.support.check(points)


def by_grid(name, p):
    """The sum of q (log q - log p) over the grid of q; infinite where p is 0 and q is not."""
    grid, log_q = summing(name)
    mass = log_q.exp().nan_to_num() * grid.weights
    (low, high), (bottom, top) = bounds(build(ENTRIES[name])), bounds(p)
    if low < bottom or high > top:
        return math.inf
    inside = within(p, grid.points)
    log_p = p.log_prob(torch.where(inside, grid.points, grid.points[inside][0]))
    terms = torch.where(mass > 0, mass * (log_q - log_p), 0)
    return float(terms.sum())


def known(name):
    """The class of an entry, by name."""
    return type(build(ENTRIES[name])).__name__


LOGS = "z z2 log log2"
"""E z and E z^2, E log z and E (log z)^2."""
HAS = {
    **dict.fromkeys(["Normal", "Logistic", "Laplace"], "z z2 exp distance"),
    **dict.fromkeys(["Cauchy", "StudentT", "Triangular", "HalfCauchy"], "z z2"),
    **dict.fromkeys(["TruncatedNormal", "ContinuousBernoulli"], "z z2"),
    **dict.fromkeys(["Gamma", "Erlang", "Chi2"], f"{LOGS} power exp"),
    **dict.fromkeys(["HalfNormal", "Rayleigh", "Weibull", "LogNormal"], f"{LOGS} power"),
    **dict.fromkeys(["Pareto", "Reciprocal", "Kumaraswamy"], f"{LOGS} power"),
    "Exponential": f"{LOGS} power exp distance",
    "FisherSnedecor": LOGS,
    "Beta": f"{LOGS} power rest logit",
    "Uniform": f"{LOGS} power rest exp distance",
    "Gumbel": "z z2 exp",
    "Gompertz": "z",
}
"""Of which statistics a law q of this class has the mean in closed form, beside an entropy."""
ASKS = {
    **dict.fromkeys(["Normal", "HalfNormal", "TruncatedNormal"], "z z2"),
    **dict.fromkeys(["Exponential", "ContinuousBernoulli"], "z"),
    **dict.fromkeys(["Gamma", "Erlang", "Chi2"], "z log"),
    **dict.fromkeys(["Pareto", "Reciprocal"], "log"),
    **dict.fromkeys(["Weibull", "Rayleigh"], "log power"),
    **dict.fromkeys(["Gumbel", "Gompertz"], "z exp"),
    "LogNormal": "log log2",
    "Beta": "log rest",
    "Laplace": "distance",
    "Uniform": "",
    "LogitNormal": "logit",
}
"""Of which statistics log p is made."""
SELF = {"Cauchy", "HalfCauchy", "LogitNormal"}
"""Two of one class have a formula that these statistics do not give."""
MOVED = {"Pareto", "Reciprocal", "Uniform", "Triangular", "TruncatedNormal"}
"""Where the numbers, not the class, say where the support ends."""


def nested(q, p):
    (low, high), (bottom, top) = bounds(q), bounds(p)
    return low >= bottom and high <= top


def closed(name, other):
    """Whether KL(q || p) is a formula; an end that the class says makes it infinite at once."""
    a, b = known(name), known(other)
    if not nested(build(ENTRIES[name]), build(ENTRIES[other])) and not {a, b} & MOVED:
        return a in HAS
    by_statistics = a in HAS and b in ASKS and {*ASKS[b].split()} <= {*HAS[a].split()}
    return by_statistics or (a == b and a in SELF)


def no_mean(q):
    try:
        return not torch.isfinite(q.mean)
    except NotImplementedError:
        return False


@pytest.mark.parametrize("name", LINE)
def test_divergences_of_numbers_equal_quadrature(name):
    """KL(q || p) for this q and every p of the table that has one, and none for the others."""
    q = build(ENTRIES[name])
    for other in LINE:
        p = build(ENTRIES[other])
        found = kl(q, p)
        assert (found is not None) == closed(name, other), (name, other)
        if found is None:
            continue
        assert found.shape == ()
        assert found.dtype == F64, (name, other)
        expected = by_grid(name, p)
        if math.isinf(float(found)):
            # Outside the support, or a moment that is not there, for which the sum grows for ever:
            # under a law without a mean that of z so slowly that none of it is seen.
            slowly = no_mean(q) and "z" in ASKS.get(known(other), "").split()
            assert slowly or expected > 1e6, (name, other)
        else:
            near = 1e-7 * max(1, abs(expected))
            assert abs(float(found) - expected) < near, (name, other, float(found), expected)


COINS = {"Bernoulli", "BernoulliStraightThrough"}
LEVELS = {"DiscretizedLogistic", "Mixture"}
"""Atoms that need not be whole numbers: nothing is known of where they end."""


@pytest.mark.parametrize("name", ATOMS)
def test_divergences_of_atoms_equal_sums(name):
    q, a = build(ENTRIES[name]), known(name)
    for other in ATOMS:
        p, b = build(ENTRIES[other]), known(other)
        found = kl(q, p)
        formula = a == b in {"Categorical", "Poisson"} or (a in COINS and b in {*COINS, "Poisson"})
        infinite = not nested(q, p) and not {a, b} & LEVELS
        assert (found is not None) == (formula or infinite), (name, other)
        if found is not None:
            expected = by_grid(name, p)
            assert float(found) == pytest.approx(expected, rel=1e-8, abs=1e-10), (name, other)


def test_a_uniform_law_inside_a_beta_equals_quadrature():
    """The table's uniform laws lie outside the interval, where all is infinite."""
    q, p = zoo.Uniform(*numbers(0.2, 0.7)), zoo.Beta(*numbers(2.0, 3.0))
    expected, _ = quad(lambda z: 2 * (math.log(2) - scipy.stats.beta(2, 3).logpdf(z)), 0.2, 0.7)
    assert float(kl(q, p)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("size", [2.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("grown", [1.01, 1.0001, 3.0])
def test_divergences_of_narrow_laws_keep_their_digits_in_single_precision(size, grown):
    """Against fifty digits; torch's formulas leave none at a size of 1e6."""
    log, psi, lgamma = mpmath.log, mpmath.digamma, mpmath.loggamma
    single = [float(torch.tensor(v)) for v in (size, grown * size)]
    c, d = map(mpmath.mpf, single)
    gammas = (c - d) * psi(c) - lgamma(c) + lgamma(d) + d * (log(c) - log(d)) + c * (d - c) / c
    gains = (c - d) * (psi(c) - psi(2 * c))
    betas = lgamma(2 * c) - lgamma(c) - lgamma(d + c) + lgamma(d) + gains
    a, b = (torch.tensor(v) for v in single)
    assert float(kl(zoo.Gamma(a, a), zoo.Gamma(b, b))) == pytest.approx(float(gammas), 2e-4, 1e-6)
    for q, p in (
        (zoo.Beta(a, a), zoo.Beta(b, a)),
        (zoo.Dirichlet(torch.stack([a, a])), zoo.Dirichlet(torch.stack([b, a]))),
    ):
        assert float(kl(q, p)) == pytest.approx(float(betas), 2e-4, 1e-6)


def test_atoms_and_a_density_have_no_divergence():
    atoms, density = build(ENTRIES["poisson"]), build(ENTRIES["exponential"])
    assert kl(atoms, density) is None
    assert kl(density, atoms) is None


@pytest.mark.parametrize("name", LINE + ATOMS)
def test_the_divergence_from_itself_is_zero(name):
    q = build(ENTRIES[name])
    found = kl(q, q)
    assert found is None or abs(float(found)) < 1e-9


@pytest.mark.parametrize("name", LINE)
def test_torch_finds_the_same_divergence(name):
    q = build(ENTRIES[name])
    for other in LINE:
        p = build(ENTRIES[other])
        found = kl(q, p)
        if found is None:
            with pytest.raises(NotImplementedError):
                kl_divergence(q, p)
        elif torch.isfinite(found):
            assert torch.allclose(kl_divergence(q, p), found, rtol=1e-9, atol=1e-9)


def numbers(*values):
    return [torch.tensor(v, dtype=F64) for v in values]


def test_the_order_is_q_then_p():
    """KL of a narrow law from a wide one is the smaller: log(s / t) against its square."""
    narrow, wide = zoo.Gamma(*numbers(20.0, 10.0)), zoo.Weibull(*numbers(2.0, 1.5))
    forward, backward = float(kl(narrow, wide)), float(kl(wide, narrow))
    z = torch.linspace(1e-9, 60, 2_000_001, dtype=F64)
    ratio = narrow.log_prob(z) - wide.log_prob(z)
    sums = [
        float(torch.trapezoid(narrow.log_prob(z).exp() * ratio, z)),
        float(torch.trapezoid(-wide.log_prob(z).exp() * ratio, z)),
    ]
    assert [forward, backward] == pytest.approx(sums, rel=1e-6)
    assert backward > 1.5 * forward


def test_supports_that_are_not_nested_are_infinite_where_they_are_not():
    q = zoo.Uniform(*numbers([0.0, 0.5, -1.0], [1.0, 2.0, 0.5]))
    for p in (
        zoo.Uniform(*numbers(0.0, 1.0)),
        zoo.Beta(*numbers(2.0, 3.0)),
        zoo.ContinuousBernoulli(logits=torch.tensor(0.7, dtype=F64)),
    ):
        assert torch.isfinite(kl(q, p)).tolist() == [True, False, False]
    assert torch.isfinite(kl(q, zoo.Gamma(*numbers(2.0, 3.0)))).tolist() == [True, True, False]
    assert kl(
        zoo.Normal(*numbers(0.0, 1.0)), zoo.TruncatedNormal(*numbers(0.0, 1.0, -9.0, 9.0))
    ) == (math.inf)
    inner, outer = zoo.Reciprocal(*numbers(1.0, 2.0)), zoo.Reciprocal(*numbers(1.0, 4.0))
    assert float(kl(inner, outer)) == pytest.approx(math.log(2))
    assert kl(outer, inner) == math.inf


def test_an_impossible_class_is_no_nan():
    """Torch's law of one class at a time has the truth."""
    raw = torch.tensor([0.3, -math.inf, 0.1], dtype=F64, requires_grad=True)
    q, even = OneHotCategoricals(raw.unsqueeze(0)), OneHotCategoricals(torch.zeros(1, 3).double())
    known = td.Categorical(logits=raw.detach()).log_prob(torch.arange(3))
    found = q.log_prob(torch.eye(3, dtype=F64))
    assert torch.allclose(found, known)
    negative_entropy = float((known.exp() * known)[::2].sum())
    assert kl(q, even).item() == pytest.approx(negative_entropy + math.log(3))
    assert kl(even, q) == math.inf
    (slope,) = torch.autograd.grad(found[0] + kl(q, even), raw)
    assert slope.isfinite().all()


def test_a_poisson_rate_of_zero_is_no_nan():
    none, two = td.Poisson(*numbers(0.0)), td.Poisson(*numbers(2.0))
    assert float(kl(none, two)) == 2
    assert kl(two, none) == math.inf


# -- several dimensions ---------------------------------------------------------------------------

FACTOR = [[0.5, 0, 0], [-0.7, 1, 0], [0.4, 1.1, 2]]
GAUSSIANS = {
    "diagonal": lambda rng: Independent(
        zoo.Normal(*map(torch.from_numpy, rng.uniform(0.5, 2, (2, 2, 3)))), 1
    ),
    "full": lambda rng: zoo.MultivariateNormal(
        torch.from_numpy(rng.standard_normal((2, 3))),
        scale_tril=torch.tensor([FACTOR] * 2, dtype=F64),
    ),
    "low-rank": lambda rng: zoo.LowRankMultivariateNormal(
        *map(torch.from_numpy, (rng.standard_normal((2, 3)), rng.standard_normal((2, 3, 2)))),
        torch.from_numpy(rng.uniform(0.3, 1, (2, 3))),
    ),
}


def covariance(d, n):
    if isinstance(d, Independent):
        return np.diag(d.variance[n].numpy())
    return d.covariance_matrix[n].numpy()


@pytest.mark.parametrize("first", GAUSSIANS)
@pytest.mark.parametrize("second", GAUSSIANS)
def test_gaussian_vectors_of_every_kind(first, second):
    """Against 1/2 (tr P^-1 Q + (m - n)^T P^-1 (m - n) - D + log det P - log det Q) in numpy."""
    rng = np.random.default_rng(9)
    q, p = GAUSSIANS[first](rng), GAUSSIANS[second](rng)
    found = kl(q, p)
    assert (kl_by_dimension(q, p) is None) == ({first, second} != {"diagonal"})
    assert found.shape == (2,)
    for n in range(2):
        away = (q.mean - p.mean)[n].numpy()
        own, other = covariance(q, n), covariance(p, n)
        gain = np.linalg.slogdet(other)[1] - np.linalg.slogdet(own)[1]
        square = away @ np.linalg.solve(other, away)
        expected = 0.5 * (np.trace(np.linalg.solve(other, own)) + square - 3 + gain)
        assert float(found[n]) == pytest.approx(expected, rel=1e-10)
    one = type(p).expand(p, (2,))
    assert torch.allclose(kl(q, one), found)


def test_independent_is_seen_through_on_both_sides():
    q = zoo.Gamma(
        *(
            torch.rand(4, 3, 2, dtype=F64, generator=torch.Generator().manual_seed(k)) + 0.5
            for k in range(2)
        )
    )
    p = zoo.Weibull(*(torch.tensor([1.0, 2.0], dtype=F64),) * 2)
    each = kl(q, p)
    assert torch.allclose(kl(Independent(q, 1), Independent(p, 1)), each.sum(-1))
    assert torch.equal(kl_by_dimension(Independent(q, 1), Independent(p, 1)), each)
    wide = Independent(p.expand((3, 2)), 2)
    assert torch.allclose(kl(Independent(q, 2), wide), each.sum((-1, -2)))
    full, diagonal = (GAUSSIANS[k](np.random.default_rng(9)) for k in ("full", "diagonal"))
    both = kl(Independent(full, 1), Independent(diagonal, 1))
    assert torch.allclose(both, kl(full, diagonal).sum())
    assert kl(full, diagonal.base_dist) is None


@pytest.mark.parametrize(
    "pair",
    [("dirichlet", "dirichlet"), ("von-mises-fisher", "von-mises-fisher")],
    ids=lambda p: p[0],
)
def test_simplex_and_sphere_equal_quadrature(pair):
    family = [n for n in ENTRIES if n.startswith(pair[0])]
    checked = 0
    for first in family:
        grid, log_q = summing(first)
        for second in family:
            q, p = build(ENTRIES[first]), build(ENTRIES[second])
            if grid is None or q.event_shape != p.event_shape:
                continue
            mass = log_q.exp().nan_to_num() * grid.weights
            log_p = p.log_prob(grid.points)
            expected = float(torch.where(mass > 0, mass * (log_q - log_p), 0).sum())
            assert float(kl(q, p)) == pytest.approx(expected, abs=1e-6)
            checked += 1
    assert checked


def test_the_divergence_has_the_gradient_of_its_numbers():
    """Central differences, at parameters of one pair from each kind of formula."""
    pairs = [
        (zoo.Gamma, (2.0, 1.5), zoo.Weibull, (1.0, 2.0)),
        (zoo.Weibull, (1.0, 2.0), zoo.Gamma, (2.0, 1.5)),
        (zoo.Uniform, (0.2, 0.7), zoo.Beta, (2.0, 3.0)),
        (zoo.Logistic, (0.3, 0.4), zoo.Laplace, (0.0, 1.0)),
        (zoo.TruncatedNormal, (0.0, 1.0, -1.0, 2.0), zoo.TruncatedNormal, (0.5, 2.0, -2.0, 3.0)),
        (zoo.Cauchy, (0.3, 0.4), zoo.Cauchy, (0.0, 1.0)),
    ]
    for first, a, second, b in pairs:
        given = [v.requires_grad_() for v in numbers(*a, *b)]
        size = len(a)
        assert torch.autograd.gradcheck(
            lambda *v, f=first, g=second, n=size: kl(f(*v[:n]), g(*v[n:])), given
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers", "vectors"])
def test_divergences_are_one_graph(kind):
    def numbers_of(v):
        return kl(
            Independent(zoo.Gamma(v, v + 1), 1), Independent(zoo.Weibull(v.detach() + 1, v), 1)
        )

    def vectors_of(v):
        full = zoo.MultivariateNormal(v, scale_tril=torch.diag_embed(v))
        return kl(Independent(zoo.Normal(v, v), 1), full)

    f = {"numbers": numbers_of, "vectors": vectors_of}[kind]
    v = torch.rand(4, 3, dtype=F64) + 0.5
    expected = f(v)
    found = torch.compile(f, fullgraph=True, backend="aot_eager")(v)
    assert torch.allclose(found, expected, rtol=1e-12)
