"""Flows against autograd's Jacobian, quadrature, their own draws and finite differences."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import anew, binary_rows, noise
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal
from torch.func import functional_call
from zoo.flows import FLOWS, D, X, pair

import aevb
from aevb.conditional import Unconditional
from aevb.distributions import reparameterize, route
from aevb.errors import UsageError
from aevb.families import (
    Householder,
    InverseAutoregressive,
    Planar,
    Radial,
    RealNVP,
    Sylvester,
)
from aevb.flows import (
    CouplingMap,
    FlowDistribution,
    HouseholderMap,
    InverseAutoregressiveMap,
    MaskedAutoregressiveMap,
    PlanarMap,
    RadialMap,
    SylvesterMap,
)
from aevb.flows.scalar import solve
from aevb.networks import MADE, MLP
from aevb.objectives import elbo_a
from aevb.posterior import Batch, per_datum
from aevb.products import products_in
from aevb.randomness import Stream, generator

CONTEXT = 2


def network(kind, size, scale, draw):
    """One with weights that are not small, of double precision."""
    kept = size - size // 2 if kind == "coupling-flipped" else size // 2
    with torch.random.fork_rng(devices=[]):
        if kind.startswith("coupling"):
            net = MLP(kept + CONTEXT, [7], 2 * (size - kept))
        else:
            net = MADE(size, [7, 5], 2, CONTEXT)
    net = net.double()
    for p in net.parameters():
        p.data = scale * draw(*p.shape) / p.shape[-1] ** 0.5
    return net


def numbers_of(kind, size, scale, draw, batch):
    """The tensors that a map of a kind is made of, each (*batch, ...)."""
    m = min(size, 3)
    shapes = {
        "planar": [(size,), (size,), ()],
        "radial": [(size,), (), ()],
        "householder": [(size,)],
        "sylvester": [(m, size), (m, m), (m, m), (m,)],
    }
    return [scale * draw(*batch, *shape) for shape in shapes.get(kind, [(CONTEXT,)])]


def make(kind, size, scale=1.0, seed=0, batch=(3,)):
    """The map as a function of its tensors, and the tensors."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: torch.from_numpy(np.asarray(rng.standard_normal(shape)))  # noqa: E731
    plain = {
        "planar": PlanarMap,
        "radial": RadialMap,
        "householder": HouseholderMap,
        "sylvester": SylvesterMap,
    }
    if kind in plain:
        return plain[kind], numbers_of(kind, size, scale, draw, batch)
    net, other = network(kind, size, scale, draw), kind.endswith(("flipped", "reversed"))
    for p in net.parameters():
        p.requires_grad_(False)
    autoregressive = {"iaf": InverseAutoregressiveMap, "maf": MaskedAutoregressiveMap}
    made = autoregressive.get(kind[:3], CouplingMap)
    build = lambda c: made(net, c, other)  # noqa: E731
    return build, numbers_of(kind, size, scale, draw, batch)


KINDS = [
    *("planar", "radial", "householder", "sylvester", "coupling", "coupling-flipped"),
    *("iaf", "iaf-reversed", "maf", "maf-reversed"),
]
SCALES = [0.01, 1.0, 3.0, 10.0]


def near(a, b, tolerance=1e-8):
    assert a.shape == b.shape, (a.shape, b.shape)
    wide = 1 + torch.maximum(a.abs(), b.abs())
    assert bool(((a - b).abs() <= tolerance * wide).all()), float(
        ((a - b).abs() / wide).detach().max()
    )


# --- laws ----------------------------------------------------------------------------------------


def each_inverse_undoes_the_map(kind, size, scale, seed):
    build, numbers = make(kind, size, scale, seed)
    f, x = build(*numbers), 2 * noise((4, 3, size), seed)
    y, log_det = f.forward(x)
    back, same = f.inverse(y)
    near(back, x)
    near(same, log_det)
    near(f.forward(f.inverse(x)[0])[0], x)
    assert log_det.shape == (4, 3)


def log_determinant_is_that_of_the_jacobian(kind, size, scale, seed):
    build, numbers = make(kind, size, scale, seed, batch=())
    f, x = build(*numbers), 2 * noise((size,), seed)
    jacobian = torch.autograd.functional.jacobian(lambda v: f.forward(v)[0], x)
    near(f.forward(x)[1], torch.linalg.slogdet(jacobian)[1])


def flow_in_the_plane(kind):
    build, numbers = make(kind, 2, 0.7, seed=5, batch=(2,))
    base = Normal(torch.tensor([0.3, -0.2]).double(), torch.tensor([0.8, 1.1]).double())
    pair = [build(*(n[i] for n in numbers)) for i in range(2)]
    return FlowDistribution(Independent(base, 1), pair)


def plane(count):
    edges = torch.linspace(-12, 12, count, dtype=torch.float64)
    return edges, torch.cartesian_prod(edges, edges)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_integrates_to_one_and_draws_follow_it(kind):
    q = flow_in_the_plane(kind)
    edges, points = plane(481)
    step = float(edges[1] - edges[0])
    with torch.no_grad():
        mass = q.log_prob(points).exp().reshape(481, 481) * step**2
        z = q.transform(noise((20_000, 2), 1)).numpy()
    assert abs(float(mass.sum()) - 1) < 1e-4
    # Cells of 8 steps, from the middle of one step to that of another.
    cells = mass[4:-5, 4:-5].reshape(59, 8, 59, 8).sum((1, 3)).numpy()
    borders = (edges[4:-4:8] - step / 2).numpy()
    counts, _, _ = np.histogram2d(z[:, 0], z[:, 1], [borders, borders])
    few = cells < 5 / len(z)
    expected = np.append(cells[~few], 1 - cells[~few].sum()) * len(z)
    found = np.append(counts[~few], len(z) - counts[~few].sum())
    assert scipy.stats.chisquare(found, expected).pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_inverse_and_jacobian(kind, size):
    if size == 1 and kind.startswith("coupling"):
        pytest.skip("one dimension has no halves")
    for seed, scale in enumerate(SCALES * 3):
        each_inverse_undoes_the_map(kind, size, scale, seed)
        log_determinant_is_that_of_the_jacobian(kind, size, scale, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_each_datum_has_a_map_of_its_own(kind):
    build, numbers = make(kind, 3, batch=(2, 4))
    x = noise((5, 2, 4, 3))
    y, log_det = build(*numbers).forward(x)
    for i in range(2):
        for j in range(4):
            alone, own = build(*(n[i, j] for n in numbers)).forward(x[:, i, j])
            near(y[:, i, j], alone, 1e-12)
            near(log_det[:, i, j], own, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_are_differentiable_in_the_point_and_the_parameters(kind):
    build, numbers = make(kind, 3, batch=())
    inputs = [t.requires_grad_() for t in (noise((3,), 3), *numbers)]
    assert torch.autograd.gradcheck(lambda x, *n: build(*n).forward(x), inputs)
    assert torch.autograd.gradcheck(lambda y, *n: build(*n).inverse(y), inputs)


# Torch takes a name out of a module twice where it had traced two functions of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "-" not in kind])
def test_both_ways_trace_into_one_graph(kind):
    build, numbers = make(kind, 2)
    normal = Normal(torch.zeros(3, 2).double(), 1.0, validate_args=False)
    base = Independent(normal, 1, validate_args=False)

    def there_and_back(eps, *numbers):
        q = FlowDistribution(base, [build(*numbers)], validate_args=False)
        z = q.transform(eps)
        return z, q.log_prob(z), q.log_prob(z + 0)

    traced = torch.compile(anew(there_and_back, kind), backend="eager", fullgraph=True)
    eps = noise((4, 3, 2))
    for found, expected in zip(traced(eps, *numbers), there_and_back(eps, *numbers), strict=True):
        near(found, expected, 1e-12)


@given(st.floats(-1e3, 1e3), st.floats(-1, 1e3), *[st.floats(-1e3, 1e3)] * 2)
def test_the_root_of_a_rising_function(r, gain, c, t):
    # r s = gain, s of the sign that makes it so.
    s = gain / r if abs(r) > 1e-3 else 0.0
    r, s, c, t = (torch.tensor(v, dtype=torch.float64) for v in (r, s, c, t))
    a = solve(r, s, c, t)
    left = lambda at: at + r * torch.tanh(s * at + c)  # noqa: E731
    apart = 1e-12 * (1 + r.abs() + t.abs())
    assert left(a - apart) <= t + apart
    assert left(a + apart) >= t - apart


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("hidden", [[], [5], [9, 6]])
@pytest.mark.parametrize("context", [0, 2])
def test_made_sees_only_what_comes_before_and_the_context(size, hidden, context):
    with torch.random.fork_rng(devices=[]):
        net = MADE(size, hidden, 3, context).double()
    x, c = noise((size,), 1), noise((context,), 2) if context else None
    by_x = torch.autograd.functional.jacobian(lambda x: net(x, c), x)
    later = torch.ones(size, size).triu().bool()
    assert by_x.shape == (3, size, size)
    assert bool((by_x[:, later] == 0).all())
    assert bool((by_x[:, ~later] != 0).all())
    if context:
        by_c = torch.autograd.functional.jacobian(lambda c: net(x, c), c)
        assert bool((by_c != 0).all())


# --- the law of a draw ---------------------------------------------------------------------------


def gradients(value, tensors):
    found = torch.autograd.grad(value, tensors, retain_graph=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_remembered_equals_what_the_inverse_gives(kind):
    build, numbers = make(kind, 4)
    tensors = [t.requires_grad_() for t in (noise((3, 4), 7), *numbers)]
    q = FlowDistribution(Independent(Normal(tensors[0], 0.5), 1), [build(*numbers)] * 2)
    z = reparameterize(q, noise((5, 3, 4), 8))
    fast, slow = q.log_prob(z), q.log_prob(z.clone())
    assert fast is q.log_prob(z)
    assert fast.shape == (5, 3)
    near(fast, slow)
    near(gradients(fast.sum(), tensors), gradients(slow.sum(), tensors), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_datum_has_a_density_under_the_law_of_every_code(kind):
    """As a likelihood: one x for each of 5 x 3 laws, which no axis of x says."""
    build, numbers = make(kind, 4, batch=(5, 3))
    q = FlowDistribution(Independent(Normal(noise((5, 3, 4), 7), 0.5), 1), [build(*numbers)] * 2)
    x = noise((3, 4), 8)
    near(q.log_prob(x), q.log_prob(x.repeat(5, 1, 1)))


def test_a_draw_without_gradient_has_a_density_with_one():
    build, numbers = make("planar", 2)
    loc = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    q = FlowDistribution(Independent(Normal(loc, 1.0), 1), [build(*numbers)])
    z = q.sample()
    assert not z.requires_grad
    (by_loc,) = torch.autograd.grad(q.log_prob(z).sum(), loc)
    (expected,) = torch.autograd.grad(q.log_prob(z.clone()).sum(), loc)
    near(by_loc, expected)
    assert float(by_loc.abs().max()) > 0.01
    with torch.no_grad():
        near(q.log_prob(z), q.log_prob(z.clone()))


def test_a_second_draw_replaces_the_first():
    q = flow_in_the_plane("planar")
    first, second = q.rsample((3,)), q.rsample((4,))
    near(q.log_prob(first), q.log_prob(first.clone()))
    near(q.log_prob(second), q.log_prob(second.clone()))


def test_shapes_route_and_what_has_no_closed_form():
    build, numbers = make("sylvester", 3)
    base = Independent(Normal(torch.zeros(3, 3).double(), 1.0), 1)
    q = FlowDistribution(base, [build(*numbers)], validate_args=True)
    assert (q.batch_shape, q.event_shape, route(q).noise.shape) == ((3,), (3,), (3,))
    assert q.noise((2,), generator(0, Stream.NOISE)).dtype == torch.float64
    wide = q.expand((2, 3))
    assert wide.rsample((5,)).shape == (5, 2, 3, 3)
    z = q.rsample((2,))
    near(wide.log_prob(z), q.log_prob(z.clone()))
    assert "SylvesterMap" in repr(q)
    for moment in ("mean", "variance", "stddev"):
        with pytest.raises(NotImplementedError):
            getattr(q, moment)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.full((3, 3), math.nan).double())


# --- families ------------------------------------------------------------------------------------


def family_of(name, context=4, seed=0, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FLOWS[name](context).to(dtype)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_starts_at_the_gaussian_of_the_columns(name):
    """N(m, v) of columns with mean m and variance v, as every other family does."""
    family = family_of(name)
    x = 100 + 10 * noise((500, D))
    q = family(family.encode_marginals(x)[None], 1)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    near(q.log_prob(x), Normal(mean, deviation).log_prob(x).sum(-1), 1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_zeros_are_the_standard_normal(name):
    family = family_of(name)
    raw = torch.zeros(family.outputs(D)).double()
    q = family(raw.expand(5, -1), 1)
    assert (q.batch_shape, q.event_shape) == ((5,), (D,))
    z = noise((2, 5, D))
    near(q.transform(z), z, 1e-12)
    near(q.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(-1), 1e-12)
    assert bool(family.inside(z).all())


@pytest.mark.parametrize("name", FLOWS)
def test_the_start_is_no_place_where_learning_stands_still(name):
    """After one step along the gradient of E log p(z), every parameter has a gradient."""
    family = family_of(name, context=0)
    p = Normal(torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.3, 2.0, 1.0]).double())
    eps = noise((40, D))

    def objective():
        q = family(torch.zeros(family.outputs(D)).double(), 0)
        z = q.transform(eps)
        return (p.log_prob(z.tanh() + z).sum(-1) - q.log_prob(z)).mean()

    values = []
    for _ in range(3):
        value = objective()
        values.append(float(value.detach()))
        found = torch.autograd.grad(value, list(family.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(family.parameters(), found, strict=True):
                parameter += 1e-3 * gradient
    assert values[0] < values[1] < values[2]
    assert all(bool((g != 0).any()) for g in found)


@pytest.mark.parametrize("name", FLOWS)
def test_gradients_equal_finite_differences(name):
    model, posterior = pair(name, "real-nvp")
    rng = np.random.default_rng(4)
    for p in (*model.parameters(), *posterior.parameters()):
        p.data += 0.3 * torch.from_numpy(np.asarray(rng.standard_normal(p.shape)))
    x, eps = binary_rows(4).all().double(), noise((3, 4, D))
    value = lambda: elbo_a(model, posterior, x, eps).sum()  # noqa: E731
    for module in (model.prior, posterior):
        for p in module.parameters():
            (gradient,) = torch.autograd.grad(value(), [p])
            i = int(gradient.abs().argmax())
            with torch.no_grad():
                flat, ends = p.view(-1), []
                for move in (1e-5, -2e-5, 1e-5):
                    flat[i] += move
                    ends.append(value())
            near(gradient.view(-1)[i], (ends[0] - ends[1]) / 2e-5, 1e-6)
            assert float(gradient.abs().max()) > 1e-6


@pytest.mark.parametrize("name", FLOWS)
def test_free_for_each_datum_and_without_condition(name):
    family = family_of(name, dtype=torch.float32)
    q = per_datum(7, D, family)(Batch(torch.zeros(2, X), torch.tensor([0, 6])))
    assert q.rsample((4,)).shape == (4, 2, D)
    p = Unconditional(family, D, learned=True)()
    assert (p.batch_shape, p.event_shape) == ((), (D,))
    model = aevb.Model(Unconditional(family, D), aevb.bernoulli(MLP(D, [], X)))
    assert model.sample_prior(5, generator(0, Stream.SAMPLING)).shape == (5, D)


@pytest.mark.parametrize("name", FLOWS)
def test_networks_in_bfloat16_leave_z_and_its_density_in_float32(name):
    model, posterior = pair(name, "maf", dtype=torch.float32)
    x, eps = binary_rows(4).all().float(), noise((3, 4, D), dtype=torch.float32)
    exact = elbo_a(model, posterior, x, eps)
    with products_in("bfloat16"):
        q = posterior(Batch(x))
        z = q.transform(eps)
        assert z.dtype == q.log_prob(z).dtype == q.log_prob(z.clone()).dtype == torch.float32
        rough = elbo_a(model, posterior, x, eps)
    assert rough.dtype == torch.float32
    assert torch.allclose(exact, rough, rtol=0.05)


def test_a_family_runs_under_functional_call():
    family = family_of("iaf")
    swapped = {n: torch.ones_like(p) for n, p in family.named_parameters()}
    q = functional_call(family, swapped, (torch.ones(2, family.outputs(D)).double(), 1))
    with torch.no_grad():
        for p in family.parameters():
            p.fill_(1.0)
    expected = family(torch.ones(2, family.outputs(D)).double(), 1)
    near(q.transform(noise((2, D))), expected.transform(noise((2, D))), 1e-12)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Planar(0, 1), "dimensions of a flow must be at least 1"),
        (lambda: Radial(2, 0), "1 to 100 maps"),
        (lambda: Householder(2, 101), "1 to 100 maps"),
        (lambda: Sylvester(2, 1, 3), "bottleneck must lie between 1 and 2"),
        (lambda: RealNVP(1, 1, [3], 0), "two halves"),
        (lambda: InverseAutoregressive(2, 1, [3], -1), "context must be at least 0"),
        (lambda: MADE(2, [0]), "at least 1 unit"),
        (lambda: Planar(2, 1).outputs(3), "over 2 dimensions"),
        (lambda: Planar(2, 1)(torch.zeros(3, 8), 1), "expected 9: 4 for the Gaussian and 5"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(build, sentence):
    with pytest.raises(UsageError, match=sentence):
        build()
