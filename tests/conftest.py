"""What all tests share: one thread, no download, no cache outside the test's folder, `call`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.distributions import Distribution

from aevb import cli

torch.set_num_threads(1)
settings.register_profile(
    "aevb", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("aevb")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test writes to the cache folder of the person who runs it, nor to that of another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    # Compiled code is the same for all tests: it stays where torch puts it.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())


@pytest.fixture(autouse=True)
def _arguments_are_checked():
    """Whatever a test compiles, torch then leaves the arguments of all distributions unchecked."""
    Distribution.set_default_validate_args(True)


@pytest.fixture
def call(capfd):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return caught.value.code, out, err

    return run
