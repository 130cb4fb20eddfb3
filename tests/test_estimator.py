"""`VAE` as a citizen of scikit-learn: plumbing, randomness, and numbers against what is exact."""

import copy
import io
import math
import pickle
from dataclasses import replace
from inspect import signature

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import aevb
from aevb import VAE, VAEDetector
from aevb.data import Rows
from aevb.errors import TrainingError, UsageError
from aevb.evaluation import evidence

IRIS = load_iris().data
SMALL = {"hidden": (8,), "epochs": 5}


@pytest.fixture(scope="module")
def fitted():
    return VAE(**SMALL).fit(IRIS)


def answers(vae, x):
    return [
        vae.transform(x),
        vae.encode(x, samples=2),
        vae.reconstruct(x),
        vae.score_samples(x, samples=5),
        vae.denoise(x, samples=5),
        vae.sample(4),
        vae.sample(4, mean=True),
        vae.traverse(0),
        vae.interpolate(x[0], x[1], 4, spherical=True),
    ]


def same(a, b):
    return all((one == other).all() for one, other in zip(a, b, strict=True))


def rows_of(x):
    return Rows(np.asarray(x), np.arange(len(x)), (x.shape[1],))


# -- among the tools of scikit-learn --------------------------------------------------------------


def test_pipelines_searches_and_scores_take_it():
    pipeline = make_pipeline(StandardScaler(), VAE(**SMALL))
    assert pipeline.fit_transform(IRIS).shape == (150, 2)
    assert math.isfinite(pipeline.score(IRIS))
    search = GridSearchCV(VAE(**SMALL), {"latent_dim": np.arange(1, 3)}, cv=2).fit(IRIS)
    assert search.best_estimator_.transform(IRIS).shape == (150, search.best_params_["latent_dim"])
    assert set(search.cv_results_["param_latent_dim"]) == {1, 2}


def test_parallel_workers_give_the_same_scores():
    here = cross_val_score(VAE(**SMALL), IRIS, cv=2)
    with joblib.parallel_backend("loky", n_jobs=2):
        there = cross_val_score(VAE(**SMALL), IRIS, cv=2)
    assert (here == there).all()


def test_clones_are_unfitted_and_equal():
    vae = VAE(3, hidden=[4, 2], random_state=7)
    copied = clone(vae)
    assert copied.get_params() == vae.get_params()
    assert not hasattr(copied, "model_")


def test_a_pickle_answers_as_the_original(fitted, tmp_path):
    file = tmp_path / "vae.joblib"
    joblib.dump(fitted, file)
    expected = answers(fitted, IRIS)
    for again in (pickle.loads(pickle.dumps(fitted)), joblib.load(file), copy.deepcopy(fitted)):
        assert same(answers(again, IRIS), expected)
        assert again.history_ == fitted.history_
    state = io.BytesIO()
    torch.save(fitted.model_.state_dict(), state)  # an ordinary module of torch's


def test_names_of_outputs(fitted):
    assert fitted.get_feature_names_out().tolist() == ["vae0", "vae1"]
    for library in ("pandas", "polars"):
        pytest.importorskip(library)
        framed = clone(fitted).set_output(transform=library).fit(IRIS).transform(IRIS)
        assert type(framed).__module__.startswith(library)
        assert list(framed.columns) == ["vae0", "vae1"]
        assert (framed.to_numpy() == fitted.transform(IRIS)).all()
        # what is no transform gives arrays, whatever was set
        vae = clone(fitted).set_output(transform=library).fit(IRIS)
        assert same(answers(vae, IRIS)[1:], answers(fitted, IRIS)[1:])


def test_settings_of_every_kind_fit(quick_refits):
    for changed in (
        {"posterior": "full-covariance"},
        {"posterior": "per-datum"},
        {"likelihood": "full-gaussian"},
        {"objective": "iwae", "samples": 3},
        {"objective": "elbo-a", "beta": 0.5},
        {"hidden": (), "activation": "tanh"},
        {"hidden": np.array([4, 3]), "lr": 0.01, "batch_size": 20},
        {"random_state": 2**40},
        {"layers": 2},
        {"posterior": "categorical", "latent_classes": 3},
        {"algorithm": "em", "components": 3, "hidden": (500,)},
        {"algorithm": "em", "hidden": (500,)},
        {"algorithm": "mean-field", "components": 3, "hidden": (500,)},
        {"components": 3, "hidden": (500,)},
    ):
        vae = VAE(**{**SMALL, **changed}).fit(IRIS)
        z = vae.transform(IRIS)
        assert np.isfinite(z).all()
        assert np.isfinite(vae.score(IRIS))
        assert vae.sample(3).shape == vae.interpolate(IRIS[0], IRIS[1], 3).shape == (3, 4)
        assert (vae.inverse_transform(z) == vae.reconstruct(IRIS)).all()
        assert len(vae.get_feature_names_out()) == z.shape[1]
        assert vae.traverse(0, [0.0, 1.0]).shape == (2, 4)
        if ((z >= 0) & (z <= 1)).all():  # shares, which no walk keeps
            with pytest.raises(UsageError, match="codes of this model are no free real numbers"):
                vae.traverse(0)


def test_patience_ends_a_fit_and_the_best_epoch_is_kept():
    vae = VAE(hidden=(50,), epochs=60, patience=3, lr=0.05)
    vae.fit(IRIS[::2], X_val=IRIS[1::2])
    bounds = [record["validation"]["elbo"] for record in vae.history_]
    assert len(bounds) < 60
    assert len(bounds) - 1 - int(np.argmax(bounds)) == 3
    single = (copy.deepcopy(part).float() for part in (vae.model_, vae.posterior_))  # as trained
    kept = aevb.evaluation.bound_parts(*single, rows_of(IRIS[1::2]))
    assert kept["elbo"] == pytest.approx(max(bounds), abs=1e-6)


# -- randomness -----------------------------------------------------------------------------------


def test_two_fits_are_the_same_to_the_bit(fitted):
    assert same(answers(VAE(**SMALL).fit(IRIS), IRIS), answers(fitted, IRIS))
    assert same(answers(VAE(**SMALL, random_state=0).fit(IRIS), IRIS), answers(fitted, IRIS))
    assert (VAE(**SMALL, random_state=1).fit(IRIS).sample(4) != fitted.sample(4)).any()


def test_a_random_state_gives_another_fit_each_time():
    state = np.random.RandomState(3)
    first, second = (VAE(**SMALL, random_state=state).fit(IRIS).transform(IRIS) for _ in range(2))
    assert (first != second).any()
    again = VAE(**SMALL, random_state=np.random.RandomState(3)).fit(IRIS).transform(IRIS)
    assert (first == again).all()


def test_a_call_may_bring_its_own_random_state(fitted):
    assert (fitted.sample(4) == fitted.sample(4, random_state=0)).all()
    assert (fitted.sample(4) != fitted.sample(4, random_state=5)).any()
    state = np.random.RandomState(0)
    assert (fitted.sample(4, random_state=state) != fitted.sample(4, random_state=state)).any()
    for wrong in ("x", 1.5, "3", -1, 2**64, np.random.default_rng(0)):
        with pytest.raises(UsageError, match="random_state must be None, a whole number from 0"):
            fitted.sample(random_state=wrong)


def test_nothing_global_is_touched():
    torch_state, threads, kind = (
        torch.get_rng_state(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
    )
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002  # it is the global one
    x = IRIS.copy()
    vae = VAE(**SMALL).fit(x)
    answers(vae, x)
    vae.impute(np.where(x > 6, np.nan, x), samples=3)
    vae.impute(np.where(x > 6, np.nan, x), samples=3, method="hmc")
    vae.partial_fit(x)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, kind)
    assert (x == IRIS).all()


# -- numbers --------------------------------------------------------------------------------------


def test_scores_are_those_of_the_model_inside(fitted):
    ours = fitted.score_samples(IRIS, samples=2000)
    result = evidence(fitted.model_, fitted.posterior_, rows_of(IRIS), 2000, seed=5).importance
    ours_errors = evidence(fitted.model_, fitted.posterior_, rows_of(IRIS), 2000).importance.errors
    assert (np.abs(ours - result.values) < 5 * np.hypot(result.errors, ours_errors) + 1e-9).all()
    assert (ours != result.values).any()
    assert fitted.score(IRIS) == fitted.score_samples(IRIS).mean()


def test_no_number_of_a_row_depends_on_its_company(fitted):
    whole = answers(fitted, IRIS)
    order = np.random.default_rng(0).permutation(len(IRIS))[:20]
    for method in (fitted.transform, fitted.score_samples, fitted.reconstruct):
        together, alone = method(IRIS)[order], [method(IRIS[[i]])[0] for i in order]
        assert np.abs(together - np.array(alone)).max() < 1e-10
        assert np.abs(together - method(IRIS[order])).max() < 1e-10
    assert same(whole, answers(fitted, IRIS))


@pytest.mark.slow
def test_linear_networks_reach_factor_analysis():
    source = np.random.default_rng(0)
    mixing = source.standard_normal((2, 6)) * 2
    x = source.standard_normal((400, 2)) @ mixing + source.standard_normal((400, 6)) * 0.6 + 5
    vae = VAE(2, hidden=(), epochs=900, lr=0.01, likelihood="gaussian").fit(x)
    truth = FactorAnalysis(2, tol=1e-6, max_iter=10_000).fit(x)
    # the same model: one noise variance a column; factor analysis has its maximum likelihood
    assert truth.score(x) - 0.05 < vae.score(x) < truth.score(x) + 0.005
    ours = vae.score_samples(x, samples=500)
    assert np.corrcoef(ours, truth.score_samples(x))[0, 1] > 0.98
    # codes span the plane of the factors
    factors = truth.transform(x)
    rest = np.linalg.lstsq(np.c_[vae.transform(x), np.ones(400)], factors)[1]
    assert (rest / ((factors - factors.mean(0)) ** 2).sum(0)).max() < 0.02


@pytest.mark.parametrize("likelihood", ["gaussian", "full-gaussian"])
def test_a_change_of_units_moves_log_p_by_its_jacobian(likelihood):
    vae, scaled = (VAE(**SMALL, likelihood=likelihood) for _ in range(2))
    factors = np.array([4.0, 0.5, 1.0, 1024.0])  # powers of two: nothing is rounded
    vae.fit(IRIS)
    scaled.fit(IRIS * factors)
    here, there = (
        evidence(v.model_, v.posterior_, rows_of(x), 20).importance.values
        for v, x in ((vae, IRIS), (scaled, IRIS * factors))
    )
    assert np.abs(here - np.log(factors).sum() - there).max() < 1e-9
    assert (vae.transform(IRIS) == scaled.transform(IRIS * factors)).all()
    assert np.allclose(vae.reconstruct(IRIS) * factors, scaled.reconstruct(IRIS * factors))


def test_codes_there_and_back(fitted):
    z = fitted.transform(IRIS)
    assert (fitted.inverse_transform(z) == fitted.reconstruct(IRIS)).all()
    assert (VAE(**SMALL).fit_transform(IRIS) == z).all()
    draws = fitted.encode(IRIS[:5], samples=4000)
    assert draws.shape == (4000, 5, 2)
    assert np.abs(draws.mean(0) - z[:5]).max() < 0.1
    way = fitted.interpolate(IRIS[0], IRIS[100], 5)
    assert np.allclose(way[[0, -1]], fitted.reconstruct(IRIS[[0, 100]]))
    at_row = fitted.traverse(1, [z[3, 1], 0.0], start=IRIS[3])
    assert np.allclose(at_row[0], fitted.reconstruct(IRIS[[3]]))
    assert (fitted.traverse(0)[6] == fitted.inverse_transform(np.zeros((1, 2)))).all()


def test_samples_come_with_their_codes(fitted):
    x, z = fitted.sample(6, mean=True, return_latent=True)
    assert (x == fitted.inverse_transform(z)).all()
    drawn, codes = fitted.sample(5000, return_latent=True)
    assert (codes[:6] == fitted.sample(5000, return_latent=True)[1][:6]).all()
    assert np.abs((drawn - fitted.inverse_transform(codes)).mean(0)).max() < 0.1
    assert (drawn.std(0) > fitted.inverse_transform(codes).std(0)).all()


def test_images_in_bytes_stay_in_bytes():
    grey = np.random.default_rng(0).integers(0, 256, (60, 12)).astype(np.uint8)
    grey[:, 0] = 255
    vae = VAE(**SMALL).fit(grey)
    assert vae.likelihood_ == "gaussian"
    for x in (vae.reconstruct(grey), vae.sample(20, mean=True), vae.denoise(grey, samples=3)):
        assert x.min() >= 0
        assert 1 < x.max() <= 255
    assert (vae.impute(grey, samples=2) == grey).all()
    # neither the type of new rows nor their company says what unit they are in
    dark = np.array([[0, 1] * 6], np.uint8)
    alone, beside = vae.transform(dark), vae.transform(np.vstack([dark, grey]))[:1]
    assert np.allclose(alone, beside, atol=1e-12)
    assert np.allclose(alone, vae.transform(dark.astype(float)), atol=1e-7)
    assert np.isfinite(vae.score_samples(vae.reconstruct(grey))).all()


# -- learning online ------------------------------------------------------------------------------


def test_partial_fit_learns_and_may_be_put_away_in_between():
    straight = VAE(hidden=(8,))
    for _ in range(12):
        straight.partial_fit(IRIS)
    bounds = [record["train"]["elbo"] for record in straight.history_]
    assert bounds[-1] > bounds[0] + 0.5
    assert [record["epoch"] for record in straight.history_] == list(range(1, 13))
    halfway = VAE(hidden=(8,))
    for i in range(12):
        halfway.partial_fit(IRIS)
        if i == 5:
            halfway = pickle.loads(pickle.dumps(halfway))
    assert same(answers(halfway, IRIS), answers(straight, IRIS))


def test_partial_fit_dreams_of_the_same_counts_again():
    x = np.random.default_rng(0).poisson(3.0, (40, 5)).astype(float)
    found = []
    for others in (0, 7):  # what torch's own generator is doing meanwhile is nobody's business
        torch.manual_seed(others)
        before = torch.random.get_rng_state()
        vae = VAE(2, hidden=(8,), likelihood="poisson", algorithm="wake-sleep")
        found.append(vae.partial_fit(x).partial_fit(x).transform(x))
        assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(*found)


def test_a_mixture_is_that_of_scikit_learn():
    vae = VAE(algorithm="em", components=3, covariance="full").fit(IRIS)
    best = max(GaussianMixture(3, n_init=3, random_state=k).fit(IRIS).score(IRIS) for k in (0, 1))
    assert vae.score_samples(IRIS).mean() > best - 0.01
    shares = vae.transform(IRIS)
    assert shares.shape == (150, 3)
    assert np.allclose(shares.sum(1), 1)
    assert vae.settings_.batch_size == 150
    with pytest.raises(UsageError, match="EM sees all rows in each step: call fit"):
        VAE(algorithm="em", components=3).partial_fit(IRIS)
    with pytest.raises(UsageError, match="a batch size of 50 is too small for the 150"):
        VAE(algorithm="em", components=3, batch_size=50).fit(IRIS)
    with pytest.raises(UsageError, match=r"^covariance: input should be"):
        VAE(algorithm="em", components=3, covariance="round").fit(IRIS)


def test_a_mixture_takes_what_would_have_another_likelihood():
    for X in (load_wine().data, load_digits().data[:200]):  # auto: mixed, and counts
        vae = VAE(algorithm="em", components=2, covariance="diagonal", epochs=3).fit(X)
        assert vae.likelihood_ == vae.settings_.likelihood == "gaussian"


def test_every_parameter_is_told():
    for name in signature(VAE).parameters:
        assert f"`{name}`" in VAE.__doc__, name


@pytest.mark.parametrize("kind", [VAE, VAEDetector])
def test_a_wrong_name_is_answered_by_the_one_that_was_meant(kind):
    for wrong, meant in (
        *(("latent_dims", "latent_dim"), ("random_sate", "random_state"), ("seed", "random_state")),
        *(("n_components", "latent_dim"), ("learning_rate", "lr"), ("max_iter", "epochs")),
        *(("contaminations", "contamination") if kind is VAEDetector else ("beat", "beta"),),
    ):
        said = rf"^{kind.__name__} has no parameter '{wrong}': did you mean {meant}\?$"
        with pytest.raises(TypeError, match=said):
            kind(**{wrong: 3})
    with pytest.raises(TypeError, match=r"there are latent_dim, .*random_state") as caught:
        kind(zebra=3)
    assert ("contamination" in str(caught.value)) == (kind is VAEDetector)


def test_a_code_may_be_one_of_so_many_classes():
    vae = VAE(2, posterior="categorical", latent_classes=4, **SMALL).fit(IRIS)
    assert vae.transform(IRIS).shape == (150, 8)
    assert np.allclose(vae.transform(IRIS).reshape(150, 2, 4).sum(-1), 1)
    with pytest.raises(UsageError, match=r"^latent_classes 4 is for latents that are one"):
        VAE(2, latent_classes=4, **SMALL).fit(IRIS)


def test_partial_fit_goes_on_after_fit(fitted):
    further = copy.deepcopy(fitted)
    before = further.score_samples(IRIS[:100], samples=500).mean()
    for _ in range(10):
        further.partial_fit(IRIS[:100])
    assert len(further.history_) == len(fitted.history_) + 10
    assert further.score_samples(IRIS[:100], samples=500).mean() > before


def test_partial_fit_warms_up_once():
    first, tempered = VAE(batch_size=150, warmup_steps=4), VAE(batch_size=150, beta=0.25)
    assert same(answers(first.partial_fit(IRIS), IRIS), answers(tempered.partial_fit(IRIS), IRIS))
    first = VAE(**SMALL, warmup_steps=3).fit(IRIS)
    warm = copy.deepcopy(first)
    warm.settings_ = replace(warm.settings_, warmup_steps=0)
    for _ in range(2):
        assert same(answers(first.partial_fit(IRIS), IRIS), answers(warm.partial_fit(IRIS), IRIS))


def test_what_was_not_trained_to_its_end_is_not_fitted():
    """In the words of Python, and as if it had never been."""
    no_encoder = "partial_fit needs an encoder"
    no_number = r"not finite at step \d.*: try a smaller .* \(lr\), gradient clipping \(clip 10\)"
    for vae, method, x, error, said in (
        (VAE(**SMALL, posterior="per-datum"), "partial_fit", IRIS, UsageError, no_encoder),
        (VAEDetector(**SMALL, posterior="per-datum"), "partial_fit", IRIS, UsageError, no_encoder),
        (VAE(hidden=(8,)), "partial_fit", IRIS * 1e30, TrainingError, no_number),
        (VAE(**SMALL), "fit", IRIS * 1e30, TrainingError, no_number),
        (VAE(**SMALL).partial_fit(IRIS), "partial_fit", IRIS * 1e30, TrainingError, no_number),
    ):
        with pytest.raises(error, match=said):
            getattr(vae, method)(x)
        with pytest.raises(NotFittedError):
            vae.transform(IRIS)
    vae = VAE(**SMALL, posterior="per-datum").fit(IRIS)
    with pytest.raises(UsageError, match=no_encoder):
        vae.partial_fit(IRIS)
    assert np.isfinite(vae.transform(IRIS)).all()
