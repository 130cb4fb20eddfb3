"""Mixtures and linear-Gaussian models from the command line: exact, in the units of the data."""

import json

import numpy as np
import pytest
from helpers import good, refused
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Theirs
from typer.testing import CliRunner

import aevb
from aevb.cli.root import app
from aevb.evaluation import exact
from aevb.settings import check_settings, said_of
from aevb.storage import RunFolder
from aevb.storage.exact_models import settle_exact

EM = ["--algorithm", "em"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "wine.csv"
    names = ",".join(f"c{i}" for i in range(5))
    np.savetxt(path, load_wine().data[:, :5], delimiter=",", header=names, comments="")
    return path


def trained(table, out, *options):
    call = ["train", str(table), "--out", str(out), "--json", *options]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "options",
    [
        [*EM, "--components", "2"],
        [*EM, "--latent-dim", "2"],
        ["--algorithm", "mean-field", "--components", "3"],
        ["--components", "2", "--covariance", "diagonal"],
    ],
    ids=["em", "factor-analysis", "mean-field", "by-gradients"],
)
def test_a_run_is_restored_with_its_exact_posterior(table, tmp_path, options):
    trained(table, tmp_path / "run", *options, "--epochs", "8")
    model, posterior = RunFolder(tmp_path / "run").load()
    rows = RunFolder(tmp_path / "run").dataset().test
    truth = exact(model, posterior, rows)
    found = aevb.evidence(model, posterior, rows, 3).importance
    assert np.allclose(found.values, truth.values, atol=1e-3)


def test_densities_are_in_the_units_of_the_data(table, tmp_path):
    found = trained(table, tmp_path / "run", *EM, "--components", "1", "--epochs", "3")
    x = RunFolder(tmp_path / "run").dataset().train.all().double().numpy()
    truth = Theirs(1, reg_covar=0).fit(x).score(x)
    assert found["train"]["elbo"] == pytest.approx(truth, abs=1e-3)


def test_spherical_noise_is_probabilistic_pca(table, tmp_path):
    options = [*EM, "--covariance", "spherical", "--latent-dim", "1", "--epochs", "60"]
    trained(table, tmp_path / "run", *options)
    x = RunFolder(tmp_path / "run").dataset().train.all().double().numpy()
    last = RunFolder(tmp_path / "run").history()[-1]  # the epoch that is kept may be an earlier one
    assert last["train"]["elbo"] == pytest.approx(PCA(1).fit(x).score(x), abs=1e-2)


def test_a_prior_on_the_weights_shortens_them(table, tmp_path):
    sizes = []
    for prior in ("none", "normal"):
        options = [*EM, "--latent-dim", "2", "--epochs", "8", "--weight-prior", prior]
        trained(table, tmp_path / prior, *options)
        model, _ = RunFolder(tmp_path / prior).load()
        sizes.append(sum(float(p.detach().square().sum()) for p in model.parameters()))
    assert sizes[1] < sizes[0]


ONE = {"prior": "standard-normal", "objective": "log p(x)", "precision": "float64"}
MIXED = {"prior": "learned-categorical", "objective": "log p(x)", "precision": "float64"}
BY_GRADIENTS = {"prior": "learned-categorical", "objective": "enumeration", "precision": "auto"}


@pytest.mark.parametrize(
    ("asked", "settled"),
    [
        ({"algorithm": "em"}, {"covariance": "diagonal"} | ONE),
        ({"algorithm": "em", "covariance": "spherical"}, {"covariance": "spherical"} | ONE),
        ({"algorithm": "em", "components": 2}, {"covariance": "full"} | MIXED),
        ({"algorithm": "mean-field", "components": 2}, {"covariance": "full"} | MIXED),
        ({"components": 2}, {"covariance": "full"} | BY_GRADIENTS),
        ({"components": 2, "covariance": "diagonal"}, {"covariance": "diagonal"} | BY_GRADIENTS),
    ],
)
def test_what_is_left_open_is_settled(asked, settled):
    """Factor analysis where nothing is said of the noise."""
    found = settle_exact(check_settings(asked))
    settled = settled | {"likelihood": "gaussian", "binarize": "none"}
    assert {name: getattr(found, name) for name in settled} == settled
    # said again, as a report and a clone of a loaded estimator do, it is the same model
    assert settle_exact(check_settings(said_of(found))) == found
    assert settle_exact(found) == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"algorithm": "wake-sleep", "components": 2}, "--components is for"),
        ({"algorithm": "em", "covariance": "full"}, "factor analysis"),
        ({"algorithm": "mean-field", "components": 2, "covariance": "diagonal"}, "full"),
        ({"algorithm": "em", "likelihood": "bernoulli"}, "real numbers"),
        (
            {"algorithm": "mean-field", "components": 2, "weight_prior": "normal"},
            "a prior of their own",
        ),
        ({"algorithm": "em", "beta": 2.0}, "--beta"),
        ({"algorithm": "aevb", "components": 2, "warmup_steps": 3}, "--warmup-steps 3 says noth"),
        ({"algorithm": "em", "hidden": (20,)}, "--hidden 20 says nothing to a model whose post"),
        ({"components": 2, "samples": 3}, "--samples 3 says nothing"),
        ({"algorithm": "em", "precision": "bfloat16"}, "--precision bfloat16 says nothing"),
        ({"algorithm": "em", "baseline": "learned"}, "--baseline learned says nothing"),
        ({"components": 2, "temperature": 1.0}, "--temperature 1.0 says nothing"),
        ({"algorithm": "em", "latent_classes": 3}, "--latent-classes 3 says nothing"),
        ({"algorithm": "em", "lr": 0.1}, "--lr 0.1 says nothing to --algorithm em"),
    ],
)
def test_options_of_no_use_are_refused_in_one_sentence(options, said):
    with pytest.raises(aevb.errors.UsageError, match=said) as caught:
        settle_exact(check_settings(options))
    assert "\n" not in str(caught.value)


def test_data_that_a_learner_refuses_leave_no_run(tmp_path):
    np.save(tmp_path / "still.npy", np.random.default_rng(0).normal(size=(40, 3)) * [1, 1, 0])
    call = ["train", tmp_path / "still.npy", "--algorithm", "mean-field", "--components", "2"]
    assert "singular" in refused(3, *call, "--quiet", "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_one_column_has_no_factors_but_may_have_a_mixture(tmp_path):
    np.save(tmp_path / "one.npy", np.random.default_rng(0).normal(size=(20, 1)))
    call = ["train", tmp_path / "one.npy", *EM, "--out", tmp_path / "run"]
    assert "or a mixture (--components)" in refused(2, *call, "--latent-dim", 1)
    good(*call, "--components", 2, "--epochs", 1)
