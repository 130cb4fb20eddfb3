"""Small models, an independent derivation of the bound in numpy, and commands in this process."""

import csv
import importlib
import inspect
import io
import json
import math
import sysconfig
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp
from torch import nn

from aevb import MLP, Model, bernoulli, cli, mean_field, standard_normal
from aevb.data import Rows
from aevb.storage.metrics import COLUMNS


def small_pair(latent=2, width=6, hidden=5, dtype=torch.float64, seed=0, spread=1.0):
    """A Bernoulli model and its encoder with weights that are not small."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model(standard_normal(latent), bernoulli(MLP(latent, [hidden], width)))
        posterior = mean_field(MLP(width, [hidden], 2 * latent))
        for module in (model, posterior):
            for p in module.parameters():
                torch.nn.init.normal_(p, std=spread * 0.5)
    return model.to(dtype), posterior.to(dtype)


def binary_rows(n=7, width=6, seed=0):
    values = (np.random.default_rng(seed).random((n, width)) < 0.4).astype(np.uint8)
    return Rows(values, np.arange(n), (width,))


def noise(shape, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def weights(module):
    return {k: v.detach().numpy() for k, v in module.named_parameters()}


def perceptron(parameters, prefix, x):
    """W2 tanh(W1 x + b1) + b2."""
    w1, b1 = parameters[f"{prefix}body.0.weight"], parameters[f"{prefix}body.0.bias"]
    w2, b2 = parameters[f"{prefix}head.weight"], parameters[f"{prefix}head.bias"]
    return np.tanh(x @ w1.T + b1) @ w2.T + b2


def numpy_bounds(model, posterior, x, eps):
    """(elbo_a, elbo_b, iwae), each (N,), written out from the paper without torch."""
    theta, phi = weights(model), weights(posterior)
    heads = perceptron(phi, "conditional.network.", x)
    latent = heads.shape[1] // 2
    mean, log_variance = heads[:, :latent], heads[:, latent:]
    deviation = np.sqrt(np.exp(log_variance))
    z = mean + deviation * eps
    probability = expit(perceptron(theta, "likelihood.network.", z))
    log_p_x = (x * np.log(probability) + (1 - x) * np.log(1 - probability)).sum(-1)
    log_p_z = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    standard = (z - mean) / deviation
    log_q_z = (-0.5 * standard**2 - np.log(deviation) - 0.5 * math.log(2 * math.pi)).sum(-1)
    kl = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum(-1)
    log_w = log_p_x + log_p_z - log_q_z
    return log_w.mean(0), log_p_x.mean(0) - kl, logsumexp(log_w, axis=0) - math.log(len(eps))


def quadrature(model, x, side=400, limit=8.0):
    """log p(x) of a model with two latent dimensions, by the trapezoid rule on a grid."""
    points = np.linspace(-limit, limit, side)
    z = np.stack(np.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2)
    logits = perceptron(weights(model), "likelihood.network.", z)
    log_p_x = x @ logits.T - np.logaddexp(0, logits).sum(-1)
    log_p_z = -0.5 * (z**2).sum(-1) - math.log(2 * math.pi)
    return logsumexp(log_p_x + log_p_z, axis=1) + 2 * math.log(points[1] - points[0])


class Dropout(nn.Module):
    """A network of a user's that draws for itself and keeps running averages."""

    def __init__(self, inputs, outputs):
        super().__init__()
        layers = [nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4)]
        self.layers = nn.Sequential(*layers, nn.Linear(8, outputs))

    def forward(self, x):
        return self.layers(x)


def seeded(make, seed=0):
    """What `make()` draws from torch's generator, which stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


TRAIN = ["train", "digits", "--hidden", "8", "--latent-dim", "2"]


def command(*arguments):
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return caught.value.code


def call(*arguments):
    """(exit code, stdout, stderr) of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = command(*arguments)
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return code, out.getvalue(), err.getvalue()


def printed(*arguments):
    """The stdout of a command that must succeed."""
    code, out, err = call(*arguments)
    assert code == 0, err
    return out


def good(*arguments):
    """The object that a command prints with --json, alone on stdout."""
    out = printed(*arguments, "--json")
    assert out.count("\n") == 1
    return json.loads(out)


def refused(expected, *arguments):
    """The sentence of a command that must fail with a code, the same with --json and without."""
    code, out, err = call(*arguments)
    assert (code, out) == (expected, ""), (out, err)
    *_, last = err.splitlines()
    assert last.startswith("aevb: ")
    sentence = last.removeprefix("aevb: ")
    code, out, err = call(arguments[0], "--json", *arguments[1:])
    assert (code, err) == (expected, "")
    assert json.loads(out) == {"error": sentence, "exit_code": expected}
    return sentence


HEADER = ["height, cm", "<b>weight</b>", "$visits_1$", "smoker", "city"]
"""Names that a .csv must quote, that HTML would obey, and that mathtext would."""
WAYS = {"smoker": {"no", "yes"}, "city": {"Bern", "New York", "Oslo"}}
SMALL = ["--hidden", "8", "--latent-dim", "2", "--epochs", "3", "--quiet"]
PNG, GIF = b"\x89PNG", b"GIF89a"


def people(rows=80, seed=0):
    """A table with real, count and text columns that hang together, and missing cells."""
    rng = np.random.default_rng(seed)
    town = rng.integers(0, 3, rows)
    height = 160 + 8 * town + rng.normal(size=rows)
    cells = [
        [f"{h:.2f}", f"{h - 100 + w:.1f}", str(v), "yes" if s else "no", sorted(WAYS["city"])[t]]
        for h, w, v, s, t in zip(
            height,
            rng.normal(size=rows),
            rng.negative_binomial(2, 0.3, rows),
            rng.random(rows) < 0.2 + 0.3 * town,
            town,
            strict=True,
        )
    ]
    for row, column in np.argwhere(rng.random((rows, 5)) < 0.08):
        cells[row][column] = ["", "NA"][row % 2]
    return cells


def write(path, cells):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *cells])
    return path


TIMES = ("rows_per_second", "overhead", "seconds")


def outcome(folder):
    """All that two equal runs have in common: metrics without timings, the newest step, files."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert_same_table(folder, metrics)
    for record in metrics:
        for name in TIMES:
            del record[name]
    newest = max((folder / "checkpoints").glob("step-*"))
    files = [folder / "model.safetensors", *newest.glob("*"), *(folder / "snapshots").glob("*")]
    return metrics, newest.name, {file.relative_to(folder): file.read_bytes() for file in files}


def assert_same_table(folder, metrics):
    """The table says what the records say, numbers as they are."""
    table = rows_of(folder / "metrics.csv")
    assert len(table) == len(metrics)
    assert tuple(table[0]) == COLUMNS
    for row, record in zip(table, metrics, strict=True):
        flat = {name: value for name, value in record.items() if not isinstance(value, dict)}
        for part in ("train", "validation"):
            for name, value in (record[part] or {}).items():
                flat[f"{part}_{name}"] = value
        assert {name: float(cell) for name, cell in row.items() if cell} == {
            name: value for name, value in flat.items() if value is not None
        }


def rows_of(path):
    """The rows of a .csv, each by the names of its header."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Memory:
    """A place for unfinished work, and the table that was put there last."""

    table = None

    def load(self):
        return self.table

    def save(self, table):
        self.table = table.copy()


def anew(function, name):
    """The function with code of its own: torch would take one closure's graph for another's.

    `torch.compiler.reset` does so too, and leaves callbacks that swallow what is raised in them.
    """
    function.__code__ = function.__code__.replace(co_name=name.replace("-", "_"))
    return function


def _can_compile():
    """Whether a C++ compiler and Python's headers are here; without them the eager twin runs."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:
        return False
    return (Path(sysconfig.get_path("include")) / "Python.h").exists()


needs_compiler = pytest.mark.skipif(not _can_compile(), reason="no C++ compiler or Python headers")


def public_names(room: str) -> list[tuple[str, str]]:
    """What a room offers, and where each name was made: its `__all__`, or what it defines."""
    module = importlib.import_module(room)
    members = {n: o for n, o in vars(module).items() if inspect.isclass(o) or inspect.isroutine(o)}
    own = [n for n, o in members.items() if o.__module__ == room and not n.startswith("_")]
    names = [n for n in getattr(module, "__all__", own) if n in members]
    return [(n, f"{members[n].__module__}.{n}") for n in names]
