"""Model files: what goes in comes out, and what is damaged or crafted never does."""

import hashlib
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from helpers import flip
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import aevb
from aevb import distributions as zoo
from aevb.algorithms import uncertain
from aevb.conditional import Chain, Conditional, Informed, Unconditional
from aevb.distributions import route
from aevb.errors import ModelFileError
from aevb.families import (
    Categorical,
    Columns,
    Dirichlet,
    DiscretizedLogistic,
    Elementwise,
    Elliptical,
    Householder,
    HypersphericalUniform,
    InverseAutoregressive,
    LowRankMultivariateNormal,
    Masked,
    MaskedAutoregressive,
    Mixture,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    OneHotCategoricals,
    Ordinal,
    Planar,
    Poisson,
    Radial,
    RealNVP,
    Standardized,
    Sylvester,
    VonMisesFisher,
    ZeroInflatedNegativeBinomial,
)
from aevb.gaussian_mixture import GaussianMixture
from aevb.linear_gaussian import LinearGaussian
from aevb.networks import Leading, ObservedInput, StandardizedInput
from aevb.posterior import (
    Amortized,
    Batch,
    ExactPosterior,
    Ladder,
    PerDatum,
    amortized,
    everywhere,
)
from aevb.priors import VampPrior
from aevb.refinement import Refined
from aevb.storage.description import ACTIVATIONS, CLASSES, describe, restore
from aevb.storage.files import read_json
from aevb.storage.sealed import read_header, seal

N, X, D = 6, 20, 3
IMAGE = (1, 5, 4)


def binary(generator):
    return torch.randint(0, 2, (N, X), generator=generator).float()


def real(generator):
    return torch.randn(N, X, generator=generator)


def grey(generator):
    return torch.rand(N, X, generator=generator)


def counts(generator):
    return torch.randint(0, 4, (N, X), generator=generator).float()


def one_hot(generator):
    return torch.eye(X)[torch.randint(0, X, (N,), generator=generator)]


def encoder(outputs=2 * D):
    return aevb.MLP(X, [7], outputs)


def decoder(outputs=X):
    return aevb.MLP(D, [5, 4], outputs, nn.ELU)


def convolutional():
    model = aevb.Model(
        aevb.standard_normal(D),
        aevb.bernoulli(aevb.ConvolutionalDecoder(D, [2, 3], IMAGE)),
    )
    return model, aevb.mean_field(aevb.ConvolutionalEncoder(IMAGE, [2, 3], 2 * D))


def full():
    model = aevb.Model(
        Unconditional(MultivariateNormal(), D, learned=True),
        aevb.full_gaussian(decoder(X * (X + 3) // 2)),
    )
    return model, aevb.full_covariance(encoder(D * (D + 3) // 2))


def plain(likelihood):
    def build():
        return aevb.Model(aevb.standard_normal(D), likelihood()), aevb.mean_field(encoder())

    return build


def shared_noise():
    likelihood = aevb.gaussian(decoder(), sigmoid_mean=True, noise_shape=(X,))
    return aevb.Model(Unconditional(Normal(), D, learned=True), likelihood), aevb.mean_field(
        encoder()
    )


def classes():
    """Codes of one class of D."""
    family = OneHotCategoricals(D)
    model = aevb.Model(Unconditional(family, D, learned=True), aevb.bernoulli(decoder()))
    return model, amortized(encoder(D), family)


def free():
    return aevb.Model(aevb.standard_normal(D), aevb.poisson(decoder())), aevb.per_datum(N, D)


def standardized():
    likelihood = aevb.Conditional(decoder(2 * X), Standardized(Normal(0.01), X))
    network = StandardizedInput(encoder(), X)
    return aevb.Model(aevb.standard_normal(D), likelihood), aevb.mean_field(network)


def mixed():
    kinds = [[0, 1], [2], [3, 4], list(range(5, X))]
    families = [Standardized(Normal(0.01), 2), Categorical(3), Poisson(), NegativeBinomial()]
    family = Masked(Columns(families, kinds))
    likelihood = aevb.Conditional(decoder(family.outputs(X)), family)
    network = ObservedInput(aevb.MLP(2 * X, [4], 2 * D))
    return aevb.Model(aevb.standard_normal(D), likelihood), aevb.mean_field(network)


def flow(family, prior=None):
    def build():
        under = aevb.standard_normal(D) if prior is None else Unconditional(prior(), D)
        q = family()
        network = encoder(q.outputs(D))
        return aevb.Model(under, aevb.bernoulli(decoder())), Amortized(Conditional(network, q))

    return build


def other(prior, family=None):
    """A prior, and a posterior of another family."""

    def build():
        q = Normal() if family is None else family()
        network = encoder(q.outputs(D))
        model = aevb.Model(Unconditional(prior(), D), aevb.bernoulli(decoder()))
        return model, Amortized(Conditional(network, q))

    return build


def vamp():
    posterior = aevb.mean_field(encoder())
    prior = VampPrior(posterior.conditional, 4, X, unit=True)
    return aevb.Model(prior, aevb.bernoulli(decoder())), posterior


def improved():
    """Weights that are averaged over, and an encoder that is refined for each datum."""
    model = uncertain(aevb.Model(aevb.standard_normal(D), aevb.bernoulli(decoder())), draws=2)
    return model, Refined(aevb.mean_field(encoder()), model, steps=2)


def layered():
    """A chain of two layers, and the ladder that shares it."""
    below = Conditional(aevb.MLP(1, [3], 4), Normal())
    prior = Chain([Unconditional(Normal(), 1), below], [1, 2], reverse=True)
    model = aevb.Model(prior, aevb.bernoulli(Leading(aevb.MLP(2, [3], X), 2)))
    rungs, heads = [aevb.MLP(X, [], 4), aevb.MLP(4, [], 4)], [aevb.MLP(4, [], n) for n in (4, 2)]
    return model, Amortized(Ladder(rungs, heads, prior))


def with_class():
    """A code that begins with a class."""
    prior = Chain([Unconditional(OneHotCategorical(), 3), Unconditional(Normal(), 2)], [3, 2])
    model = aevb.Model(prior, aevb.bernoulli(aevb.MLP(5, [3], X)))
    classifier = Conditional(aevb.MLP(X, [3], 3), OneHotCategorical())
    about = Conditional(aevb.MLP(4 + 3, [3], 4), Normal())
    return model, Amortized(Informed([classifier, about], [3, 2], aevb.MLP(X, [], 4)))


def levels():
    family = Columns(
        [Ordinal(4, 2), ZeroInflatedNegativeBinomial(), DiscretizedLogistic(2, 3)],
        [[0, 1], [2, 3], list(range(4, X))],
    )
    likelihood = aevb.Conditional(decoder(family.outputs(X)), family)
    return aevb.Model(aevb.standard_normal(D), likelihood), everywhere(D)


def mixed_gaussians():
    model = GaussianMixture(D, X)
    return model, ExactPosterior(model)


def oracle():
    model = LinearGaussian(D, X, (X,))
    return model, model.exact_encoder()


PAIRS = {
    "linear-gaussian": (oracle, real),
    "gaussian-mixture": (mixed_gaussians, real),
    "vamp": (vamp, binary),
    "layered": (layered, binary),
    "improved": (improved, binary),
    "levels": (levels, binary),
    "mixture": (other(lambda: Mixture(D, 2), lambda: LowRankMultivariateNormal(2)), binary),
    "simplex": (other(Dirichlet, Dirichlet), binary),
    "elliptical": (other(Normal, Elliptical), binary),
    "sphere": (other(lambda: HypersphericalUniform(D), VonMisesFisher), binary),
    "elementwise": (
        other(lambda: Elementwise(zoo.Gamma), lambda: Elementwise(zoo.Erlang, {"shape": 2})),
        binary,
    ),
    "planar": (flow(lambda: Planar(D, 2)), binary),
    "radial": (flow(lambda: Radial(D, 2)), binary),
    "householder": (flow(lambda: Householder(D, 2)), binary),
    "sylvester": (flow(lambda: Sylvester(D, 2, 2)), binary),
    "real-nvp": (flow(lambda: RealNVP(D, 2, [4], 3)), binary),
    "autoregressive": (
        flow(
            lambda: InverseAutoregressive(D, 2, [4], 3),
            lambda: MaskedAutoregressive(D, 2, [4, 5], 0),
        ),
        binary,
    ),
    "mixed": (mixed, binary),
    "standardized": (standardized, real),
    "bernoulli": (plain(lambda: aevb.bernoulli(decoder())), binary),
    "linear": (plain(lambda: aevb.bernoulli(aevb.MLP(D, [], X))), binary),
    "convolutional": (convolutional, binary),
    "continuous-bernoulli": (plain(lambda: aevb.continuous_bernoulli(decoder())), grey),
    "gaussian": (plain(lambda: aevb.gaussian(decoder(2 * X))), real),
    "shared-noise": (shared_noise, grey),
    "full-covariance": (full, real),
    "with-class": (with_class, binary),
    "one-hot": (plain(lambda: aevb.Conditional(decoder(), OneHotCategorical())), one_hot),
    "categorical": (plain(lambda: aevb.categorical(decoder(4 * X), 4)), counts),
    "negative-binomial": (plain(lambda: aevb.negative_binomial(decoder(2 * X))), counts),
    "classes": (classes, binary),
    "per-datum": (free, counts),
}


def perturbed(build, seed=0):
    """A pair with weights and buffers that no constructor would give."""
    model, posterior = build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in (model, posterior):
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model, posterior


def bound(model, posterior, x, dtype=torch.float32):
    batch = Batch(x.to(dtype), torch.arange(N))
    with torch.no_grad():
        way = route(posterior(batch))
        noise = way.noise.draw(np.random.default_rng(1), (4, N), dtype)
        return aevb.elbo_a(model, posterior, batch, noise)


def small():
    return perturbed(PAIRS["bernoulli"][0])


@pytest.fixture
def saved(tmp_path):
    """The folder of a small saved model."""
    folder = tmp_path / "model"
    aevb.save(folder, *small())
    return folder


def refusal(folder, modules=None):
    """The one sentence that a folder is refused with."""
    with pytest.raises(ModelFileError) as caught:
        aevb.load(folder, modules)
    sentence = str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in sentence
    assert 0 < len(sentence) < 1000
    return sentence


# --- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_saved_model_gives_the_same_bound_to_the_bit(tmp_path, name, dtype):
    build, data = PAIRS[name]
    model, posterior = (module.to(dtype) for module in perturbed(build))
    x = data(torch.Generator().manual_seed(2))
    before = bound(model, posterior, x, dtype)
    aevb.save(tmp_path, model, posterior)
    again = aevb.load(tmp_path)
    assert torch.isfinite(before).all()
    after = bound(*again, x, dtype)
    if name == "convolutional" and dtype == torch.float64:
        # Torch's own products differ in the last bit with where their buffers lie.
        assert torch.allclose(before, after, rtol=1e-14, atol=0)
    else:
        assert torch.equal(before, after)
    assert not any(module.training for module in again)
    for then, now in zip((model, posterior), again, strict=True):
        assert describe(then) == describe(now)
        assert {k: v.requires_grad for k, v in then.named_parameters()} == {
            k: v.requires_grad for k, v in now.named_parameters()
        }


def test_the_round_trips_cover_every_class_of_the_table():
    seen = set()
    for build, _ in PAIRS.values():
        for module in build():
            seen |= {type(part).__name__ for part in module.modules()} & set(CLASSES)
    assert seen == set(CLASSES)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_described_and_restored(name):
    network = aevb.MLP(2, [3], 1, ACTIVATIONS[name])
    again = restore(json.loads(json.dumps(describe(network))), {}, "network")
    assert type(again.body[1]) is ACTIVATIONS[name]


def test_a_trained_model_goes_on_training_after_loading(saved):
    model, posterior = aevb.load(saved)
    data = aevb.data.split(table())
    learner = aevb.AEVB(model, posterior)
    before = {k: v.clone() for k, v in learner.init().parameters.items()}
    aevb.train(learner, data, aevb.Plan(epochs=1))
    assert all(not torch.equal(before[k], v) for k, v in learner.init().parameters.items())


def table(rows=40):
    values = np.random.default_rng(0).integers(0, 2, (rows, X)).astype(np.uint8)
    return aevb.data.Source("table", values, (X,), "bernoulli", "0 and 1", "none")


def test_facts_join_the_config_and_do_not_disturb_loading(tmp_path):
    aevb.save(tmp_path, *small(), facts={"remark": [1, 2]})
    assert read_json(tmp_path / "config.json")["remark"] == [1, 2]
    aevb.load(tmp_path)


def test_saving_where_nothing_can_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelFileError, match="cannot be written"):
        aevb.save(tmp_path / "file", *small())


# --- modules of the user's own -------------------------------------------------------------------


class Own(nn.Module):
    """A network that no table knows, with a buffer of integers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(D)
        self.out = nn.Linear(D, X)

    def forward(self, z):
        return self.out(torch.relu(self.norm(z)))


class MLP(Own):
    """A network of the user's with the name of one of ours."""


def with_own(network):
    return aevb.Model(aevb.standard_normal(D), aevb.bernoulli(network)), aevb.mean_field(encoder())


@pytest.mark.parametrize("kind", [Own, MLP])
def test_an_own_module_is_asked_for_by_its_path_and_works_when_handed_in(tmp_path, kind):
    model, posterior = perturbed(lambda: with_own(kind()))
    model.likelihood.network.norm.num_batches_tracked += 3
    aevb.save(tmp_path, model.eval(), posterior)
    sentence = refusal(tmp_path)
    assert "model.likelihood.network" in sentence
    assert kind.__name__ in sentence
    assert "modules" in sentence
    path = "model.likelihood.network"
    again = aevb.load(tmp_path, modules={path: kind()})
    x = binary(torch.Generator().manual_seed(2))
    assert torch.equal(bound(model, posterior, x), bound(*again, x))
    assert again[0].likelihood.network.norm.num_batches_tracked == 3


def test_a_whole_model_of_the_users_own_cannot_come_from_the_file(tmp_path):
    class Mine(aevb.Model):
        pass

    aevb.save(tmp_path, Mine(aevb.standard_normal(D), aevb.bernoulli(decoder())), small()[1])
    assert refusal(tmp_path).startswith("model is a module of your own")
    given = Mine(aevb.standard_normal(D), aevb.bernoulli(decoder()))
    assert aevb.load(tmp_path, modules={"model": given})[0] is given


def test_an_own_module_of_another_shape_is_refused(tmp_path):
    aevb.save(tmp_path, *with_own(Own()))
    other = Own()
    other.out = nn.Linear(D, X + 1)
    assert "out" in refusal(tmp_path, {"model.likelihood.network": other})


# --- refusals: config.json -----------------------------------------------------------------------


def config(folder):
    return json.loads((folder / "config.json").read_text())


def put(folder, value):
    content = value if isinstance(value, str) else json.dumps(value)
    (folder / "config.json").write_text(content)


def network_of(tree):
    return tree["model"]["arguments"]["likelihood"]["arguments"]["network"]


def family_of(tree):
    return tree["model"]["arguments"]["prior"]["arguments"]["family"]


CHANGES = {
    "unknown class": (lambda c: network_of(c).update({"class": "Perceptron"}), "network"),
    "import string": (lambda c: network_of(c).update({"class": "os.system"}), "network"),
    "class of torch": (lambda c: network_of(c).update({"class": "Linear"}), "network"),
    "another key": (lambda c: network_of(c).update({"module": "os"}), "network"),
    "extra argument": (lambda c: network_of(c)["arguments"].update(bias=True), "arguments of MLP"),
    "missing argument": (lambda c: network_of(c)["arguments"].pop("hidden"), "arguments of MLP"),
    "arguments in a list": (lambda c: network_of(c).update(arguments=[D, [5], X]), "network"),
    "unknown activation": (
        lambda c: network_of(c)["arguments"].update(activation={"activation": "os.system"}),
        "activation",
    ),
    "no activation": (lambda c: network_of(c)["arguments"].update(activation=None), "activation"),
    "negative width": (lambda c: network_of(c)["arguments"].update(out_features=-1), "size"),
    "no units": (lambda c: network_of(c)["arguments"].update(hidden=[0]), "at least 1 unit"),
    "width beyond the limit": (
        lambda c: network_of(c)["arguments"].update(hidden=[10**12]),
        "10000000",
    ),
    "too many layers": (lambda c: network_of(c)["arguments"].update(hidden=[1] * 1001), "1001"),
    "text for a width": (lambda c: network_of(c)["arguments"].update(in_features="3"), "integer"),
    "fraction for a width": (
        lambda c: network_of(c)["arguments"].update(in_features=3.5),
        "integer",
    ),
    "text for a flag": (lambda c: family_of(c)["arguments"].update(sigmoid_mean="no"), "boolean"),
    "text for a variance": (
        lambda c: family_of(c)["arguments"].update(min_variance="0"),
        "min_variance",
    ),
    "negative variance": (
        lambda c: family_of(c)["arguments"].update(min_variance=-0.5),
        "min_variance",
    ),
    "a network for a family": (
        lambda c: c["model"]["arguments"]["likelihood"]["arguments"].update(family=network_of(c)),
        "Family",
    ),
    "no prior": (lambda c: c["model"]["arguments"].update(prior=None), "model.prior"),
    "format of another version": (lambda c: c.update(format=5), "format 5"),
    "no format": (lambda c: c.pop("format"), "format None"),
    "no model": (lambda c: c.pop("model"), "no model"),
    "model is a posterior": (lambda c: c.update(model=c["posterior"]), "no model"),
    "posterior is a model": (lambda c: c.update(posterior=c["model"]), "no model"),
    "model is a text": (lambda c: c.update(model="Model"), "no model"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_config_that_says_something_else_is_refused(saved, name):
    change, said = CHANGES[name]
    tree = config(saved)
    change(tree)
    put(saved, tree)
    assert said in refusal(saved)


def nested(n, left, right, inside="1"):
    model = left * n + inside + right * n
    return f'{{"format": 4, "posterior": null, "model": {model}}}'


MODEL = ('{"class": "Model", "arguments": {"likelihood": null, "prior": ', "}}")
TEXTS = {
    "not an object": ("[1, 2]", "must hold a JSON object"),
    "not JSON": ("model: MLP", "JSON"),
    "empty": ("", "JSON"),
    "not a number": ('{"format": 4, "model": NaN}', "NaN"),
    "infinity": ('{"format": 4, "model": -Infinity}', "Infinity"),
    "a key given twice": ('{"format": 4, "format": 2}', "twice"),
    "a key given twice, deep": ('{"format": 4, "model": {"class": {"a": 1, "a": 2}}}', "twice"),
    "more than 1 MiB": ('{"format": 4}' + " " * (1 << 20), "1 MiB"),
    "lists in lists": (nested(600, "[", "]"), "nested too deeply"),
    "models in models": (nested(100, *MODEL), "nested too deeply"),
    "objects in objects": (nested(600, '{"a": ', "}"), "nothing that this version knows"),
    "deeper than Python goes": (nested(100_000, "[", "]"), "JSON"),
    "objects deeper than Python goes": (nested(100_000, '{"a":', "}"), "JSON"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_config_that_is_no_description_is_refused(saved, name):
    content, said = TEXTS[name]
    put(saved, content)
    assert said in refusal(saved)


def test_bytes_that_are_no_text_are_refused(saved):
    (saved / "config.json").write_bytes(b'{"format": "\xff\xfe"}')
    assert "JSON" in refusal(saved)


def reduction(command):
    return {"__reduce__": ["os.system", [command]], "py/reduce": [{"py/function": "os.system"}]}


@pytest.mark.parametrize(
    "tree",
    [
        lambda run: reduction(run),
        lambda run: {"class": "os.system", "arguments": {"command": run}},
        lambda run: {"class": "builtins.eval", "arguments": {"source": run}},
        lambda run: {"_target_": "os.system", "command": run},
        lambda run: {"external": f"os.system({run!r})"},
        lambda run: {"activation": f"__import__('os').system({run!r})"},
    ],
)
def test_nothing_in_a_config_is_executed(saved, tree, tmp_path):
    trace = tmp_path / "trace"
    value = config(saved)
    network_of(value)["arguments"]["activation"] = tree(f"touch {trace}")
    put(saved, value)
    refusal(saved)
    assert not trace.exists()


def test_huge_claims_cost_neither_time_nor_memory(saved):
    width = 10_000_000
    tree = config(saved)
    network_of(tree)["arguments"].update(in_features=width, hidden=[width] * 3)
    put(saved, tree)
    started = time.monotonic()
    assert "does not belong to its config.json" in refusal(saved)
    (saved / "model.safetensors").write_bytes(with_header(claims(saved)))
    assert "damaged" in refusal(saved)
    assert time.monotonic() - started < 5


def claims(folder):
    """The header that a weights file of the config's sizes would have."""
    with torch.device("meta"):
        tree = config(folder)
        modules = [("model", restore(tree["model"], {}, "model"))]
        modules += [("posterior", restore(tree["posterior"], {}, "posterior"))]
    header, start = {}, 0
    for prefix, module in modules:
        for name, tensor in module.state_dict().items():
            stop = start + 4 * tensor.numel()
            entry = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, stop]}
            header[f"{prefix}.{name}"], start = entry, stop
    return header


def test_the_claimed_header_is_that_of_a_real_file(saved):
    # Otherwise the test above would refuse for another reason than the missing bytes.
    assert {k: v["shape"] for k, v in claims(saved).items()} == {
        k: v["shape"] for k, v in header_of(saved).items()
    }


def test_many_small_things_are_refused_before_they_are_built(saved):
    tree = config(saved)
    mlp = json.loads(json.dumps(network_of(tree)))
    mlp["arguments"]["hidden"] = [1] * 900
    tree["model"]["arguments"]["likelihood"]["arguments"]["network"] = [mlp] * 300
    put(saved, json.dumps(tree, separators=(",", ":")))
    started = time.monotonic()
    assert "items" in refusal(saved)
    assert time.monotonic() - started < 5


# --- refusals: model.safetensors -----------------------------------------------------------------


def weights_of(folder):
    return safetensors.torch.load((folder / "model.safetensors").read_bytes())


def header_of(folder):
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    return header


def metadata_of(folder):
    return read_header(folder / "model.safetensors", 100).facts


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def rewrite(change):
    """A weights file with its tensors changed, and the checksum that fits them."""

    def content(folder):
        tensors = weights_of(folder)
        return sealed(change(tensors) or tensors, metadata_of(folder)["description"])

    return content


def sealed(tensors, description):
    return b"".join(seal(tensors, {"description": description}))


def reshape(tensors):
    tensors[BIAS] = tensors[BIAS].reshape(1, -1)


def cut(tensors):
    tensors[BIAS] = tensors[BIAS][:-1].clone()


def spoil(value):
    def change(tensors):
        tensors[BIAS][1] = value

    return change


def cast(dtype):
    return lambda tensors: {k: v.to(dtype) for k, v in tensors.items()}


def edit_header(change):
    def content(folder):
        header = header_of(folder)
        change(header)
        whole = (folder / "model.safetensors").read_bytes()
        return with_header(header, whole[8 + struct.unpack("<Q", whole[:8])[0] :])

    return content


BIAS = "posterior.conditional.network.head.bias"
FILES = {
    "a pickle": (lambda folder: pickle.dumps(weights_of(folder)), "damaged"),
    "empty": (lambda folder: b"", "damaged"),
    "cut in the header": (
        lambda folder: (folder / "model.safetensors").read_bytes()[:50],
        "damaged",
    ),
    "cut in the data": (
        lambda folder: (folder / "model.safetensors").read_bytes()[:-1],
        "damaged",
    ),
    "bytes behind the end": (
        lambda folder: (folder / "model.safetensors").read_bytes() + b"\0",
        "damaged",
    ),
    "a giant header": (lambda folder: struct.pack("<Q", 1 << 62) + b"{}", str(1 << 62)),
    "a header longer than the file": (
        lambda folder: struct.pack("<Q", 1 << 20) + b'{"a": ',
        "damaged",
    ),
    "a list for a header": (lambda folder: with_header([]), "damaged"),
    "a deep header": (lambda folder: with_header(b"[" * 50_000 + b"]" * 50_000), "damaged"),
    "a header without dtypes": (lambda folder: with_header({"model.x": {"shape": [1]}}), "damaged"),
    "shapes in shapes": (edit_header(lambda h: h[BIAS].update(shape=[[6]])), "damaged"),
    "text for a shape": (edit_header(lambda h: h[BIAS].update(shape=["six"])), "damaged"),
    "endless shape": (
        edit_header(lambda h: h[BIAS].update(shape=[float("inf")])),
        "damaged",
    ),
    "another shape": (rewrite(reshape), f"{BIAS} has shape (1, 6), expected (6,)"),
    "a shorter tensor": (rewrite(cut), f"{BIAS} has shape (5,), expected (6,)"),
    "a missing tensor": (
        rewrite(lambda t: {k: v for k, v in t.items() if k != BIAS}),
        f"{BIAS} has shape None, expected (6,)",
    ),
    "one tensor too many": (
        rewrite(lambda t: t.update({"model.more": torch.zeros(2)})),
        "model.more has shape (2,), expected None",
    ),
    "a NaN": (rewrite(spoil(math.nan)), f"not finite, in {BIAS}"),
    "an infinity": (rewrite(spoil(-math.inf)), f"not finite, in {BIAS}"),
    "integers": (rewrite(cast(torch.int32)), "type I32"),
    "flags": (rewrite(cast(torch.bool)), "type BOOL"),
    "eight bits": (rewrite(cast(torch.float8_e4m3fn)), "type F8_E4M3"),
    "complex numbers": (rewrite(cast(torch.complex64)), "type C64"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_weights_file_that_does_not_fit_is_refused(saved, name):
    content, said = FILES[name]
    (saved / "model.safetensors").write_bytes(content(saved))
    sentence = refusal(saved)
    assert said in sentence
    assert str(saved / "model.safetensors") in sentence


class Trap:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_pickled_code_in_a_weights_file_is_not_executed(saved, tmp_path):
    trace = tmp_path / "trace"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        trap = pickle.dumps(Trap(trace), protocol)
        for content in (trap, with_header(trap), struct.pack("<Q", 2) + b"{}" + trap):
            (saved / "model.safetensors").write_bytes(content)
            refusal(saved)
    torch.save({"trap": Trap(trace)}, saved / "model.safetensors")
    refusal(saved)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    assert f"{saved / name} does not exist" in refusal(saved)
    (saved / name).mkdir()
    assert str(saved / name) in refusal(saved)


def test_a_missing_folder_is_named(tmp_path):
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")


@given(st.data())
def test_a_flipped_byte_of_a_model_is_refused_or_leaves_the_model_as_it_was(data):
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), small()
        aevb.save(folder, *before)
        file = folder / data.draw(st.sampled_from(["config.json", "model.safetensors"]))
        flip(file, data)
        try:
            modules = aevb.load(folder)
        except ModelFileError:
            return
        assert file.name == "config.json"  # a blank for another blank between its words
        for then, now in zip(before, modules, strict=True):
            assert describe(then) == describe(now)
            for name, tensor in then.state_dict().items():
                assert torch.equal(tensor, now.state_dict()[name])


# --- the checksum in the weights file ------------------------------------------------------------


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place(saved):
    content = (saved / "model.safetensors").read_bytes()
    stated = metadata_of(saved)["sha256"].encode()
    assert content.count(stated) == 1
    assert hashlib.sha256(content.replace(stated, b"0" * 64)).hexdigest().encode() == stated


def test_other_programs_read_the_file(tmp_path):
    model, posterior = small()
    aevb.save(tmp_path, model, posterior)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        names = set(file.keys())
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert names == tensors.keys()
    for prefix, module in (("model", model), ("posterior", posterior)):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensors.pop(f"{prefix}.{name}"), tensor)
    assert not tensors


def test_the_data_begin_where_words_do(saved):
    (length,) = struct.unpack("<Q", (saved / "model.safetensors").read_bytes()[:8])
    assert length % 8 == 0


def test_two_processes_write_the_same_bytes(saved, tmp_path):
    code = (
        "import sys, aevb; model, posterior = aevb.load(sys.argv[1]);"
        "aevb.save(sys.argv[2], model, posterior)"
    )
    content = (saved / "model.safetensors").read_bytes()
    for seed in ("1", "2"):
        again = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", code, saved, again],
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        assert (again / "model.safetensors").read_bytes() == content


def test_a_flipped_bit_of_a_weight_is_noticed(saved):
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    assert "do not match its checksum" in refusal(saved)


def with_metadata(change):
    """A weights file with its metadata changed, and the length of the header with them."""

    def content(folder):
        metadata = metadata_of(folder)
        text = json.dumps({"__metadata__": change(metadata), **header_of(folder)})
        whole = (folder / "model.safetensors").read_bytes()
        return with_header(text.encode(), whole[8 + struct.unpack("<Q", whole[:8])[0] :])

    return content


SEALS = {
    "no metadata": (lambda folder: safetensors.torch.save(weights_of(folder)), "no checksum"),
    "no checksum": (with_metadata(lambda m: {"format": "pt"}), "no checksum"),
    "an empty checksum": (with_metadata(lambda m: m | {"sha256": ""}), "no checksum"),
    "half a checksum": (with_metadata(lambda m: m | {"sha256": m["sha256"][:32]}), "no checksum"),
    "capitals": (with_metadata(lambda m: m | {"sha256": "A" * 64}), "no checksum"),
    "no text": (with_metadata(lambda m: m | {"sha256": 5}), "header cannot be read"),
    "no object": (with_metadata(lambda m: []), "header cannot be read"),
    "zeros": (with_metadata(lambda m: m | {"sha256": "0" * 64}), "do not match"),
    "stated twice": (with_metadata(lambda m: m | {"copy": m["sha256"]}), "one checksum once"),
    "another format": (with_metadata(lambda m: m | {"format": "tf"}), "do not match"),
}


@pytest.mark.parametrize("name", SEALS)
def test_a_checksum_that_is_not_one_is_refused(saved, name):
    content, said = SEALS[name]
    (saved / "model.safetensors").write_bytes(content(saved))
    assert said in refusal(saved)


def test_a_repeated_field_is_refused(saved):
    content = (saved / "model.safetensors").read_bytes()
    field = b'"format":"pt",'
    more = content[8:].replace(field, field * 2, 1)
    (length,) = struct.unpack("<Q", content[:8])
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", length + len(field)) + more)
    assert "header cannot be read" in refusal(saved)


def test_weights_of_the_same_shapes_belong_to_their_description(saved, tmp_path):
    # What a kill between the two files of a save over another model would leave behind.
    _, posterior = small()
    other = aevb.Model(aevb.standard_normal(D), aevb.bernoulli(aevb.MLP(D, [5, 4], X, nn.ReLU)))
    aevb.save(tmp_path / "other", other, posterior)
    (saved / "config.json").write_bytes((tmp_path / "other" / "config.json").read_bytes())
    assert "another description" in refusal(saved)


def test_a_flag_changed_in_the_config_is_noticed(saved):
    tree = config(saved)
    family_of(tree)["arguments"]["min_variance"] = 0.5
    put(saved, tree)
    assert "another description" in refusal(saved)


def test_saving_takes_about_two_copies_of_the_weights(tmp_path):
    code = (
        "import resource, sys, aevb, torch;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10;"
        "build = lambda n: (aevb.Model(aevb.standard_normal(n), aevb.bernoulli("
        "aevb.MLP(n, [], n))), aevb.mean_field(aevb.MLP(n, [], 2)));"
        "aevb.save(sys.argv[1], *build(10)); aevb.load(sys.argv[1]); pair = build(4000);"
        "before = peak(); aevb.save(sys.argv[1], *pair); saved = peak();"
        "aevb.load(sys.argv[1]); print(saved - before, peak() - before)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True
    )
    size = (tmp_path / "model.safetensors").stat().st_size >> 20
    saving, both = map(int, out.stdout.split())
    assert size > 60
    assert saving < 2.5 * size
    assert both < 3.5 * size


def test_external_modules_are_described_by_name_only():
    assert describe(Own()) == {"external": f"{__name__}.Own"}
    described = describe(PerDatum(Conditional(Own(), Normal(), 0)))
    assert described["class"] == "PerDatum"
    assert describe(Amortized(Own()))["arguments"] == {"conditional": describe(Own())}


def test_an_activation_outside_the_table_is_handed_in(tmp_path):
    model, posterior = plain(lambda: aevb.bernoulli(aevb.MLP(D, [5], X, nn.Mish)))()
    aevb.save(tmp_path, model, posterior)
    path = "model.likelihood.network.activation"
    said = refusal(tmp_path)
    assert path in said
    assert "Mish" in said
    again, _ = aevb.load(tmp_path, modules={path: nn.Mish})
    assert isinstance(again.likelihood.network.body[1], nn.Mish)


def test_a_module_in_both_places_is_saved(tmp_path):
    shared = aevb.MLP(D, [4], D)
    model = aevb.Model(
        aevb.standard_normal(D), aevb.bernoulli(nn.Sequential(shared, nn.Linear(D, X)))
    )
    posterior = aevb.mean_field(nn.Sequential(nn.Linear(X, D), shared, nn.Linear(D, 2 * D)))
    aevb.save(tmp_path, model, posterior)
    assert (tmp_path / "model.safetensors").exists()
