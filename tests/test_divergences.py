"""Closed-form divergences against quadrature, sums over grids and numpy, every pair of the zoo.

The laws of one element are those of the table of distributions, the first two of each class: KL as
the table's own grid integrates q (log q - log p), within 1e-8 (1e-6 for a heavy tail).
"""

import math

import numpy as np
import pytest
import torch
from torch import distributions as td
from torch.distributions import Distribution, Independent, kl_divergence
from zoo.numeric import bounds
from zoo.table import ENTRIES, build, names, summing

from aevb import distributions as zoo
from aevb.distributions import kl, kl_by_dimension

F64 = torch.float64


def some(kind, each):
    """The first entries of each class, by name."""
    seen, chosen = {}, []
    for name in names(lambda e: e.kind == kind):
        seen.setdefault(type(build(ENTRIES[name])), []).append(name)
    for found in seen.values():
        chosen += found[:each]
    return chosen


LINE, ATOMS = some("continuous", 2), some("discrete", 2)


@pytest.fixture(autouse=True)
def unchecked():
    """A density outside its support is asked for on purpose."""
    Distribution.set_default_validate_args(False)
    yield
    Distribution.set_default_validate_args(True)


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


def heavy(name):
    """Whether the grid's end, far out, still weighs: no sum over it tells a divergence."""
    grid, log_q = summing(name)
    far = (grid.points.abs() > 1e15) & (log_q.exp() * grid.weights > 0)
    return bool((far & (log_q.exp() * grid.weights * grid.points.abs() > 1e-12)).any())


def has_moments(q):
    try:
        return bool(torch.isfinite(q.mean) & torch.isfinite(q.variance))
    except NotImplementedError:
        return True


@pytest.mark.parametrize("name", LINE)
def test_divergences_of_numbers_equal_quadrature(name):
    """KL(q || p) for this q and every p of the table."""
    q = build(ENTRIES[name])
    for other in LINE:
        p = build(ENTRIES[other])
        found = kl(q, p)
        if found is None:
            continue
        assert found.shape == ()
        assert found.dtype == F64, (name, other)
        expected = by_grid(name, p)
        if math.isinf(float(found)):
            # Outside the support, or a moment that does not exist: there the sum grows for ever.
            assert expected > 1e6 or not has_moments(q), (name, other)
        elif not heavy(name) and expected < 1e100:
            assert abs(float(found) - expected) < 1e-7 * max(1, abs(expected)), (name, other)


@pytest.mark.parametrize("name", ATOMS)
def test_divergences_of_atoms_equal_sums(name):
    q = build(ENTRIES[name])
    for other in ATOMS:
        found = kl(q, build(ENTRIES[other]))
        if found is not None:
            expected = by_grid(name, build(ENTRIES[other]))
            assert float(found) == pytest.approx(expected, rel=1e-8, abs=1e-10), (name, other)


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


CLOSED = {
    "weibull": ["weibull", "rayleigh", "exponential", "gamma", "log-normal", "normal"],
    "gamma": ["gamma", "erlang-3", "exponential", "weibull", "log-normal", "normal", "gumbel"],
    "erlang-3": ["erlang-3", "gamma", "exponential", "chi2", "gompertz"],
    "beta": ["beta", "uniform", "continuous-bernoulli", "logit-normal", "normal"],
    "cauchy": ["cauchy", "gamma"],
    "uniform": ["uniform", "normal", "laplace", "gumbel"],
    "logistic": ["normal", "laplace", "gumbel"],
    "pareto": ["pareto", "reciprocal", "log-normal", "gamma"],
    "reciprocal": ["reciprocal", "log-normal", "gamma", "normal"],
    "logit-normal": ["logit-normal"],
    "truncated-normal": ["truncated-normal", "normal"],
    "bernoulli": ["bernoulli", "poisson"],
    "poisson": ["poisson", "bernoulli"],
}
NOT_CLOSED = [
    ("logistic", "logistic-narrow"),
    ("student-t", "student-t-light"),
    ("kumaraswamy", "kumaraswamy"),
    ("kumaraswamy", "beta"),
    ("triangular", "triangular-skew"),
    ("gompertz", "gompertz-old"),
    ("normal", "logistic"),
    ("mixture", "mixture-2"),
    ("mixture", "normal"),
    ("relaxed-bernoulli", "relaxed-bernoulli-2"),
    ("negative-binomial", "negative-binomial-2"),
    ("poisson", "normal"),
    ("poisson", "negative-binomial"),
]


@pytest.mark.parametrize("name", CLOSED)
def test_what_is_closed_is_found(name):
    q = build(ENTRIES[name])
    for other in CLOSED[name]:
        assert kl(q, build(ENTRIES[other])) is not None, other


@pytest.mark.parametrize("pair", NOT_CLOSED, ids=" against ".join)
def test_what_is_not_closed_is_none(pair):
    assert kl(*(build(ENTRIES[name]) for name in pair)) is None


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


def test_a_poisson_rate_of_zero_is_no_nan():
    none, two = td.Poisson(*numbers(0.0)), td.Poisson(*numbers(2.0))
    assert float(kl(none, two)) == 2
    assert kl(two, none) == math.inf


# -- several dimensions ---------------------------------------------------------------------------

RNG = np.random.default_rng(8)
FACTOR = np.tril(RNG.standard_normal((2, 3, 3)), -1) + np.eye(3) * [0.5, 1.0, 2.0]
GAUSSIANS = {
    "diagonal": lambda: Independent(
        zoo.Normal(*map(torch.from_numpy, RNG.uniform(0.5, 2, (2, 2, 3)))), 1
    ),
    "full": lambda: zoo.MultivariateNormal(
        torch.from_numpy(RNG.standard_normal((2, 3))), scale_tril=torch.from_numpy(FACTOR)
    ),
    "low-rank": lambda: zoo.LowRankMultivariateNormal(
        *map(torch.from_numpy, (RNG.standard_normal((2, 3)), RNG.standard_normal((2, 3, 2)))),
        torch.from_numpy(RNG.uniform(0.3, 1, (2, 3))),
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
    q, p = GAUSSIANS[first](), GAUSSIANS[second]()
    found = kl(q, p)
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
