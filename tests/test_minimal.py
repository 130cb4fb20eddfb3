"""The paper in one file says what the library says: the same bound, gradient and log p(x)."""

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import aevb
from aevb.data import Rows
from aevb.randomness import Stream, generator, normal

FILE = Path(__file__).parents[1] / "examples" / "minimal.py"
N, SAMPLES = 7, 30


@pytest.fixture
def minimal():
    spec = importlib.util.spec_from_file_location("minimal", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def both(minimal, dtype):
    """(encoder, decoder) of the file, (model, posterior) of the library, with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, decoder = minimal.Encoder().to(dtype), minimal.Decoder().to(dtype)
    ours = aevb.MLP(64, [minimal.HIDDEN], 2 * minimal.D), aevb.MLP(minimal.D, [minimal.HIDDEN], 64)
    for network, theirs in zip(ours, (encoder, decoder), strict=True):
        network.load_state_dict(
            dict(zip(network.state_dict(), theirs.state_dict().values(), strict=True))
        )
    model = aevb.Model(aevb.standard_normal(minimal.D), aevb.bernoulli(ours[1])).to(dtype)
    return (encoder, decoder), (model, aevb.mean_field(ours[0]).to(dtype))


def binary(dtype):
    values = (np.random.default_rng(0).random((N, 64)) < 0.4).astype(np.uint8)
    return values, torch.from_numpy(values).to(dtype)


TOLERANCES = [
    pytest.param(torch.float32, 1e-5, id="float32"),
    pytest.param(torch.float64, 1e-12, id="float64"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("samples", [1, 4])
def test_bound_and_gradient_are_those_of_the_library(minimal, dtype, tolerance, samples):
    (encoder, decoder), (model, posterior) = both(minimal, dtype)
    _, x = binary(dtype)
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((samples, N, minimal.D)))
    noise = noise.to(dtype)
    found = minimal.bound(encoder, decoder, x, noise)
    expected = aevb.elbo_b(model, posterior, x, noise)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
    found.mean().backward()
    expected.mean().backward()
    theirs = [*posterior.parameters(), *model.parameters()]
    for p, q in zip([*encoder.parameters(), *decoder.parameters()], theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_log_evidence_is_that_of_the_library_under_the_same_noise(minimal, dtype, tolerance):
    (encoder, decoder), (model, posterior) = both(minimal, dtype)
    values, x = binary(dtype)
    rows = Rows(values, np.arange(N), (64,))
    noise = torch.stack(
        [
            normal(generator(5, Stream.EVALUATION, n, 0), (SAMPLES, minimal.D), dtype)
            for n in range(N)
        ],
        dim=1,
    )
    with torch.no_grad():
        found = minimal.log_evidence(encoder, decoder, x, noise)
    result = aevb.evidence(model, posterior, rows, SAMPLES, seed=5)
    np.testing.assert_allclose(found.double().numpy(), result.importance.values, rtol=tolerance)
    with torch.no_grad():
        lower = minimal.bound(encoder, decoder, x, noise)
    np.testing.assert_allclose(lower.double().numpy(), result.elbo.values, rtol=tolerance)


def test_it_learns_and_says_so_in_nats(minimal, capsys, monkeypatch):
    monkeypatch.setattr(minimal, "EPOCHS", 5)
    with torch.random.fork_rng(devices=[]):
        minimal.main()
    said = capsys.readouterr().out
    bounds = [float(line.split()[4]) for line in said.splitlines() if line.startswith("epoch")]
    assert bounds[0] < bounds[1] < bounds[2]
    lower, evidence = (float(line.split(" ± ")[0].split()[-1]) for line in said.splitlines()[3:5])
    assert bounds[0] < lower < evidence < 0
    assert said.count("nats") == 5


def test_it_stands_alone_on_at_most_150_lines():
    text = FILE.read_text()
    assert len(text.splitlines()) <= 150
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"math", "torch", "sklearn"}
