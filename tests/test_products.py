"""Matrix products: densities stay float32 beside bfloat16 networks; oneDNN multiplies right."""

import numpy as np
import pytest
import torch
from helpers import needs_compiler, noise
from torch import nn
from torch.distributions import Independent
from torch.fx.experimental.proxy_tensor import make_fx
from zoo.families import made
from zoo.learners import pair_of
from zoo.table import ENTRIES, names, tensors

import aevb
from aevb import distributions as zoo
from aevb import products
from aevb.algorithms import AEVB
from aevb.compilation import Compiled
from aevb.conditional import Conditional
from aevb.distributions import kl, reparameterize
from aevb.errors import UsageError
from aevb.families import Normal
from aevb.posterior import Batch
from aevb.products import PRECISIONS, fast_products, has_bfloat16, products_in
from aevb.randomness import Stream, generator

NORMALS = ["normal-with-a-floor", "normal-of-a-share", "normal-of-shared-variances", "full"]
OTHERS = ["bernoulli", "continuous-bernoulli", "categorical", "poisson", "negative-binomial"]


@pytest.mark.parametrize("name", NORMALS + OTHERS)
def test_densities_are_the_same_beside_bfloat16_networks(name):
    family, x = made(name, 5).float(), torch.ones(4, 5)
    raw = noise((4, family.outputs(5)), dtype=torch.float32)

    def numbers():
        q = family(raw, 1)
        if name in OTHERS:
            return [q.log_prob(x), family.moments(q)]
        z = reparameterize(q, noise((3, 4, 5), 1, torch.float32))
        prior = Normal()(torch.zeros(10), 0)
        return [q.log_prob(x), q.mean, z, q.log_prob(z), kl(q, prior), prior.log_prob(z)]

    plain = numbers()
    with products_in("bfloat16"):
        beside = numbers()
    for a, b in zip(plain, beside, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", names(lambda entry: entry.reparameterized and entry.parameters))
def test_laws_their_draws_and_slopes_are_the_same_beside_bfloat16_networks(name):
    """The law is made inside, as a network's family makes it; slopes are taken outside."""
    entry = ENTRIES[name]
    given = tensors(entry, dtype=torch.float32)
    law = entry.make(**given)
    e = law.noise((4,), generator(2, Stream.NOISE))
    z = law.transform(e).detach()

    def numbers():
        q = entry.make(**given)
        return [q.log_prob(z), *([q.transform(e)] if q.standard.differentiable else [])]

    def slopes(found):
        each = torch.autograd.grad(sum(f.sum() for f in found), [*given.values()])
        return [f.detach() for f in found] + [*each]

    plain = numbers()
    with products_in("bfloat16"):
        beside = numbers()
    for a, b in zip(slopes(plain), slopes(beside), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("q", ["low-rank", "full", "diagonal"])
@pytest.mark.parametrize("p", ["low-rank", "full", "diagonal"])
def test_divergences_of_gaussians_are_the_same_beside_bfloat16_networks(q, p):
    def made_of(kind, key):
        loc, factor, root = (
            noise(shape, key + k, torch.float32) for k, shape in enumerate([(5,), (5, 2), (5,)])
        )
        if kind == "diagonal":
            return Independent(zoo.Normal(loc, root.abs() + 0.1), 1)
        if kind == "low-rank":
            return zoo.LowRankMultivariateNormal(loc, factor, root.square() + 0.01)
        tril = torch.tril(factor[..., :1] * factor[..., 1:].mT, -1) + torch.diag_embed(
            root.abs() + 0.1
        )
        return zoo.MultivariateNormal(loc, scale_tril=tril)

    plain = kl(made_of(q, 1), made_of(p, 5))
    with products_in("bfloat16"):
        assert torch.equal(kl(made_of(q, 1), made_of(p, 5)), plain)


def test_what_leaves_a_network_is_float32_again():
    with products_in("bfloat16"):
        network = nn.Linear(3, 4)
        assert network(torch.ones(2, 3)).dtype == torch.bfloat16
        q = Conditional(network, Normal())(torch.ones(2, 3))
    assert q.mean.dtype == torch.float32


def learner(precision, compiled=False, likelihood="bernoulli", posterior="mean-field"):
    pair = pair_of(likelihood, posterior, torch.float32)
    optimizer = aevb.SGD(lr=1.0)  # moves by the gradient itself
    return AEVB(*pair, optimizer=optimizer, precision=precision, compiled=compiled)


def gradient(one):
    state = one.init()
    before = {k: p.clone() for k, p in state.parameters.items()}
    x = torch.from_numpy((np.random.default_rng(0).random((10, 6)) < 0.4).astype(np.float32))
    one.step(state, Batch(x, torch.arange(10)), noise((2, 10, 2), dtype=torch.float32))
    assert one.note is None
    assert {p.dtype for p in state.parameters.values()} == {torch.float32}
    return torch.cat([(p - before[k]).flatten() for k, p in state.parameters.items()])


@pytest.mark.parametrize(
    "pair", [("bernoulli", "mean-field"), ("full-gaussian", "full")], ids=lambda p: p[0]
)
def test_the_gradient_in_bfloat16_is_near_that_in_float32_and_another(pair):
    exact = gradient(learner("float32", False, *pair))
    rounded = gradient(learner("bfloat16", False, *pair))
    error = float((exact - rounded).norm() / exact.norm())
    assert 1e-5 < error < 0.03


@pytest.mark.slow
@needs_compiler
def test_the_compiled_step_in_bfloat16_is_near_its_eager_twin():
    eager, compiled = gradient(learner("bfloat16")), gradient(learner("bfloat16", True))
    assert float((eager - compiled).norm() / eager.norm()) < 0.03


def test_precisions_are_checked():
    with pytest.raises(UsageError, match="float32 or bfloat16, found 'half'"):
        AEVB(*pair_of("bernoulli", "mean-field", torch.float32), precision="half")
    with pytest.raises(UsageError, match="need parameters in float32, found float64"):
        AEVB(*pair_of("bernoulli", "mean-field", torch.float64), precision="bfloat16").init()
    with pytest.raises(UsageError, match="float32, bfloat16"):
        products_in("half")


def test_bfloat16_is_for_processors_that_are_faster_in_it(monkeypatch):
    for known, expected in (
        ({}, False),
        ({"avx512_bf16": True, "cpu_name": "AMD Zen 5"}, True),
        ({"avx512_bf16": False, "cpu_name": "AMD Zen 3"}, False),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, False),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, True),
    ):
        monkeypatch.setattr(products, "processor", lambda known=known: known)
        assert has_bfloat16() is expected
    assert not has_bfloat16("mps")
    assert PRECISIONS[0] == "float32"


def every_layout(x, w, v, b):
    """Products as a step has them: with bias and tanh, transposed on either side, of a slice."""
    y = torch.addmm(b, x, w.t())
    h = torch.tanh(torch.addmm(b, x, w.t()))
    return y, h, y @ w, h.t() @ x, (x.t() @ y).t(), v[:, 1:] @ w.t()


def factors(dtype):
    shapes = ((10, 6), (5, 6), (10, 7), (5,))
    return tuple(noise(shape, i, dtype) for i, shape in enumerate(shapes))


def rewritten(function, *x, float32=True):
    graph = make_fx(function, tracing_mode="fake")(*x)
    products._use_onednn(graph.graph, float32)
    graph.recompile()
    names = ("mkldnn._linear_pointwise", "aten.mm", "aten.addmm", "aten.tanh")
    return graph, tuple(graph.code.count(f"ops.{name}.") for name in names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_rewritten_graph_multiplies_as_the_plain_one(dtype):
    x = factors(dtype)
    graph, counts = rewritten(every_layout, *x)
    assert counts == ((6, 0, 0, 0) if dtype == torch.float32 else (2, 4, 0, 0))
    truth = every_layout(*(t.double() for t in x))
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for found, expected in zip(graph(*x), truth, strict=True):
        assert torch.allclose(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_what_onednn_does_no_better_is_left_alone():
    single, double = factors(torch.float32), factors(torch.float64)
    assert rewritten(every_layout, *double)[1] == (0, 4, 2, 1)
    assert rewritten(every_layout, *single, float32=False)[1] == (0, 4, 2, 1)
    a = single[1]
    assert rewritten(lambda a: torch.addmm(a @ a.t(), a, a.t()), a)[1] == (1, 0, 1, 0)
    # the sum before the tangent is wanted too, so the tangent cannot be taken within the product
    both = rewritten(lambda a: (z := torch.addmm(a[:, 0], a, a.t()), torch.tanh(z)), a)
    assert both[1] == (1, 0, 0, 1)


def test_the_cast_of_a_weight_keeps_its_layout():
    x, w, _, b = factors(torch.float32)

    def layer(x, w, b):
        cast = torch.ops.prims.convert_element_type.default
        x, b, w_t = cast(x, torch.bfloat16), cast(b, torch.bfloat16), w.permute(1, 0)
        return torch.addmm(b, x, cast(w_t, torch.bfloat16))

    graph, counts = rewritten(layer, x, w, b)
    assert counts == (1, 0, 0, 0)
    casts = [n for n in graph.graph.nodes if "convert_element_type" in n.name]
    assert [n.args[0].op for n in casts] == ["placeholder"] * 3
    assert torch.equal(graph(x, w, b), layer(x, w, b))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_gradient_of_a_bias_is_a_sum_of_its_own(axes):
    make, convolve = (
        (nn.Conv1d, nn.functional.conv1d),
        (nn.Conv2d, nn.functional.conv2d),
        (nn.Conv3d, nn.functional.conv3d),
    )[axes - 1]
    layer, x = make(3, 4, 4, 2, 1).double(), noise((2, 3, 8, 6, 4)[: 2 + axes])

    def gradients(x, *parameters):
        def loss(x, *p):
            return convolve(x, *p, 2, 1).square().sum()

        return torch.func.grad(loss, (0, 1, 2))(x, *parameters)

    given = x, layer.weight.detach(), layer.bias.detach()
    graph, _ = rewritten(gradients, *given)
    assert "[True, True, False]" in graph.code
    assert graph.code.count("aten.sum.dim_IntList") == 1
    for found, expected in zip(graph(*given), gradients(*given), strict=True):
        assert torch.allclose(found, expected, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("amd", [True, False])
def test_a_compiled_function_multiplies_right_on_every_processor(amd, monkeypatch):
    monkeypatch.setattr(products, "_is_amd", lambda: amd)
    x = factors(torch.float32)
    with fast_products() as options:
        assert options
    compiled = Compiled(every_layout)
    found = compiled("once", *x)
    assert compiled.note is None
    truth = every_layout(*(t.double() for t in x))
    for ours, expected in zip(found, truth, strict=True):
        assert torch.allclose(ours.double(), expected, rtol=1e-5, atol=1e-5)
