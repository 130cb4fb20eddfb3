"""What all tests share: one thread, no download, no cache outside their folder, small runs."""

import os
import shutil
from importlib import import_module

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import doctor_cases
import helpers
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.distributions import Distribution
from zoo.pairs import saved_in

from aevb.evaluation import refit

torch.set_num_threads(1)
settings.register_profile(
    "aevb", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("aevb")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test writes to the cache folder of the person who runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    # Compiled code is the same for all tests: it stays where torch puts it, from run to run.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())


@pytest.fixture(autouse=True)
def _arguments_are_checked():
    """Whatever a test compiles, torch then leaves the arguments of all distributions unchecked."""
    Distribution.set_default_validate_args(True)


@pytest.fixture
def unchecked(_arguments_are_checked):
    """Finite differences step out of a simplex, or off a triangle, that arguments must lie in."""
    Distribution.set_default_validate_args(False)


@pytest.fixture(autouse=True)
def _draws_come_again():
    """What a test draws from torch without a seed does not hang on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def quick_refits(monkeypatch):
    """For what holds however near its best the posterior of a row comes."""
    monkeypatch.setitem(refit.__kwdefaults__, "steps", 12)
    monkeypatch.setattr(import_module("aevb.evaluation.gaps"), "STEPS", 12)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A run trained on digits, not to be changed."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    helpers.good(
        *("train", "digits", "--hidden", 8, "--latent-dim", 2, "--epochs", 4),
        *("--quiet", "--out", folder),
    )
    return folder


@pytest.fixture
def copy(digits, tmp_path):
    """A copy of that run, to be damaged."""
    return shutil.copytree(digits, tmp_path / "copy")


@pytest.fixture(scope="session")
def numbers(tmp_path_factory):
    """A user's file of numbers, and a run trained on it."""
    folder = tmp_path_factory.mktemp("numbers")
    rows = np.random.default_rng(0).normal(size=(60, 5))
    np.savetxt(folder / "rows.csv", rows, delimiter=",", fmt="%.9g")
    options = ["--hidden", 4, "--latent-dim", 3, "--epochs", 2, "--quiet"]
    helpers.good("train", folder / "rows.csv", *options, "--out", folder / "run")
    return folder / "rows.csv", folder / "run"


@pytest.fixture
def saved(tmp_path):
    """The folder of a small saved model."""
    return saved_in(tmp_path / "model")


@pytest.fixture
def healthy():
    """A model of black and white digits, trained as one should."""
    return doctor_cases.healthy()


@pytest.fixture
def case(healthy):
    """The same, to be made sick: figures are not taken yet."""
    return doctor_cases.anew(healthy)
