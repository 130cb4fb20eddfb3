"""`VAE.save` and `VAE.load`: a run folder that the command line takes, and the other way round."""

import json

import numpy as np
import pytest
from helpers import call
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris

import aevb
from aevb import VAE, VAEDetector
from aevb.data import open_source
from aevb.errors import DataError, ModelFileError, UsageError
from aevb.storage import RunFolder

IRIS = load_iris().data
DIGITS = load_digits().data
SMALL = {"hidden": (8,), "epochs": 4}


def holed():
    x = IRIS.copy()
    x[3, 1] = np.nan
    return x


def pictures():
    return open_source((DIGITS[:60] * 15.9).astype(np.uint8).reshape(-1, 8, 8))


def table():
    frames = pytest.importorskip("pandas")
    species = np.repeat(["setosa", "versicolor", "virginica"], 50)
    return frames.DataFrame({"length": IRIS[:, 0], "species": species})


CASES = {
    "reals": (lambda: IRIS, {}),
    "bytes": (lambda: (DIGITS[:200] * 15.9).astype(np.uint8), {}),
    "counts": (lambda: DIGITS[:200].astype(int), {"likelihood": "negative-binomial"}),
    "holes": (holed, {"allow_nan": True}),
    "a table": (table, {}),
    "full covariance": (lambda: IRIS, {"posterior": "full-covariance", "random_state": 9}),
    "free parameters": (lambda: IRIS, {"posterior": "per-datum"}),
    "convolutions": (pictures, {"network": "convolutional", "hidden": (4,)}),
    "a mixture": (lambda: IRIS, {"components": 2, "hidden": (500,), "batch_size": 150}),
}


def test_a_loaded_learner_of_all_rows_takes_more_of_them(tmp_path):
    VAE(algorithm="em", components=2, epochs=2).fit(IRIS[:90]).save(tmp_path)
    assert clone(VAE.load(tmp_path)).fit(IRIS).settings_.batch_size == 150


@pytest.mark.parametrize("case", CASES)
def test_what_is_loaded_answers_as_what_was_saved(quick_refits, tmp_path, case):
    make, changed = CASES[case]
    x = make()
    vae = VAE(**SMALL | changed).fit(x)
    vae.save(tmp_path)
    again = VAE.load(tmp_path)
    assert (clone(again).fit(x).transform(x) == vae.transform(x)).all()
    assert (again.transform(x) == vae.transform(x)).all()
    assert (again.score_samples(x, samples=5) == vae.score_samples(x, samples=5)).all()
    assert (again.sample(5) == vae.sample(5)).all()
    assert (again.reconstruct(x) == vae.reconstruct(x)).all()
    assert again.history_ == vae.history_
    assert again.columns_ == vae.columns_
    assert again.reason_ == vae.reason_
    assert again.n_features_in_ == vae.n_features_in_
    assert hasattr(again, "feature_names_in_") == hasattr(vae, "feature_names_in_")
    parameters = again.get_params()
    for name, value in vae.get_params().items():
        if value is not None and value != "auto":
            assert parameters[name] == value, name
    settled = vae.settings_
    for name in ("likelihood", "prior", "objective"):
        assert parameters[name] == getattr(settled, name) != "auto"
    again.save(tmp_path)  # over what was there
    assert (VAE.load(tmp_path).transform(x) == vae.transform(x)).all()


def test_a_loaded_estimator_fits_and_goes_on(tmp_path):
    vae = VAE(**SMALL).fit(IRIS)
    vae.save(tmp_path)
    again = VAE.load(tmp_path)
    again.partial_fit(IRIS)
    assert len(again.history_) == 5
    assert (VAE.load(tmp_path).fit(IRIS).transform(IRIS) == vae.transform(IRIS)).all()
    # networks of images are not exchanged, without a word, for others
    VAE(network="convolutional", epochs=1).fit(pictures()).save(tmp_path / "images")
    with pytest.raises(UsageError, match=r"^network convolutional needs images: the data are a"):
        VAE.load(tmp_path / "images").fit(IRIS)


def test_the_command_line_takes_a_saved_estimator(tmp_path):
    vae = VAE(**SMALL).fit(IRIS)
    vae.save(tmp_path / "run")
    np.save(tmp_path / "iris.npy", IRIS)
    code, _, err = call(
        "encode", tmp_path / "run", tmp_path / "iris.npy", "--out", tmp_path / "z.npy"
    )
    assert code == 0, err
    assert np.allclose(np.load(tmp_path / "z.npy"), vae.transform(IRIS), atol=1e-4)
    code, _, err = call("sample", tmp_path / "run", "--n", 5, "--out", tmp_path / "x.npy")
    assert code == 0, err
    assert np.allclose(np.load(tmp_path / "x.npy"), vae.sample(5, mean=True), atol=1e-4)
    # its data lie in no file, so that what needs them must be told
    code, _, err = call("encode", tmp_path / "run")
    assert code == 3
    assert "fitted in Python" in err


def test_a_run_of_the_command_line_is_an_estimator(tmp_path):
    run = tmp_path / "run"
    options = ["--hidden", 8, "--latent-dim", 3, "--epochs", 2, "--binarize", "none"]
    code, _, err = call("train", "digits", *options, "--out", run, "--quiet")
    assert code == 0, err
    vae = VAE.load(run)
    assert vae.get_params()["latent_dim"] == 3
    assert vae.likelihood_ == "gaussian"
    test = aevb.data.load("digits").test
    x = DIGITS[test.index]  # in the units of the data, from 0 to 16
    assert np.allclose(x / 16, test.all().numpy())
    code, _, err = call("encode", run, "--out", tmp_path / "z.npy")
    assert code == 0, err
    assert np.allclose(np.load(tmp_path / "z.npy"), vae.transform(x), atol=1e-4)
    assert vae.reconstruct(x).shape == x.shape
    assert np.isfinite(vae.score(x))
    assert len(vae.history_) == 2
    assert "fitted" in vae._repr_html_()


def saved_as(path, x):
    np.save(path, x)
    return str(path)


def test_pictures_in_bytes_are_the_same_as_floats_and_in_the_unit_interval(tmp_path):
    grey = np.random.default_rng(0).integers(4, 234, (80, 8, 8)).astype(np.uint8)
    run, file = tmp_path / "run", tmp_path / "x.npy"
    options = ["--hidden", 8, "--latent-dim", 3, "--epochs", 2]
    code, _, err = call("train", saved_as(tmp_path / "grey.npy", grey), *options, "--out", run)
    assert code == 0, err
    vae, truth = VAE.load(run), grey.reshape(80, 64).astype(np.float32) / np.float32(255)
    for x in (grey, grey.astype(int), grey.astype(float), grey / 255, truth.reshape(grey.shape)):
        rows = RunFolder(run).rows(saved_as(file, x))
        assert np.allclose(rows.all(), truth, atol=1e-7)
        assert np.allclose(vae._rows(x.reshape(80, 64)).all(), truth, atol=1e-7)
    holes = grey.reshape(80, 64).astype(float)
    holes[np.random.default_rng(1).uniform(size=holes.shape) < 0.2] = np.nan
    filled = vae.impute(holes, method="importance", random_state=0)
    assert np.nanmax(np.abs(filled - holes)) == 0
    units = {1: holes, 255: holes / 255}
    for unit, x in units.items():
        out = tmp_path / f"{unit}.npy"
        options = ["--method", "importance", "--out", out]
        code, _, err = call("impute", run, saved_as(file, x), *options)
        assert code == 0, err
        assert np.allclose(np.load(out) * unit, filled, atol=20)  # other draws, of 32 bits
        assert np.allclose(vae.impute(x, method="importance") * unit, filled, atol=0.1)
    clean = vae.denoise(grey.reshape(80, 64), samples=5)
    assert np.allclose(vae.denoise(truth, samples=5) * 255, clean, atol=0.1)
    assert np.allclose(
        vae.reconstruct(truth) * 255, vae.reconstruct(grey.reshape(80, 64)), atol=0.1
    )


def test_new_rows_of_a_binarized_run_are_grey_levels(tmp_path):
    run, file = tmp_path / "run", tmp_path / "x.npy"
    options = ["--hidden", 8, "--latent-dim", 3, "--epochs", 2, "--binarize", "once"]
    code, _, err = call("train", "digits", *options, "--out", run)
    assert code == 0, err
    folder, vae = RunFolder(run), VAE.load(run)
    drawn = folder.rows("digits").all()
    assert set(np.unique(drawn)) == {0, 1}
    for x in (DIGITS, DIGITS.astype(np.uint8), DIGITS / 16):
        assert (folder.rows(saved_as(file, x)).all() == drawn).all()
        assert (vae._rows(x).all() == drawn).all()
    holes = np.where(np.arange(64) == 20, np.nan, DIGITS)
    assert (np.isnan(vae._rows(holes, allow_nan=True).all().numpy()) == np.isnan(holes)).all()
    for wrong in (2 * DIGITS, 2 * holes, -DIGITS / 16):
        with pytest.raises(DataError, match=r"x\.npy.*between 0 and 1"):
            folder.rows(saved_as(file, wrong), allow_nan=True)


def test_a_detector_keeps_its_threshold(tmp_path):
    detector = VAEDetector(**SMALL, contamination=0.2).fit(IRIS)
    detector.save(tmp_path)
    again = VAEDetector.load(tmp_path)
    assert again.offset_ == detector.offset_
    assert again.contamination == 0.2
    assert (again.predict(IRIS) == detector.predict(IRIS)).all()
    assert (VAE.load(tmp_path).transform(IRIS) == detector.transform(IRIS)).all()


def test_wrong_folders_are_told_in_a_sentence(tmp_path, fitted_folder):
    def sentence(cls, folder):
        with pytest.raises(ModelFileError) as caught:
            cls.load(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "does not exist" in sentence(VAE, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds no run" in sentence(VAE, tmp_path / "empty")
    assert "holds no threshold of a detector" in sentence(VAEDetector, fitted_folder)
    run = RunFolder(fitted_folder)
    model, posterior = run.load()
    aevb.save(tmp_path / "own", model, posterior)
    assert "was saved from Python and has no settings" in sentence(VAE, tmp_path / "own")
    config = json.loads((fitted_folder / "config.json").read_text())
    config["settings"]["latent_dim"] = -1
    (fitted_folder / "config.json").write_text(json.dumps(config))
    assert "latent_dim" in sentence(VAE, fitted_folder)
    (fitted_folder / "config.json").write_text("{")
    assert "config.json" in sentence(VAE, fitted_folder)
    for damage in ("model.safetensors", "config.json"):
        VAE(**SMALL).fit(IRIS).save(tmp_path / damage)
        (tmp_path / damage / damage).write_bytes(b"\0" * 20)
        assert damage in sentence(VAE, tmp_path / damage)


@pytest.fixture
def fitted_folder(tmp_path):
    VAE(**SMALL).fit(IRIS).save(tmp_path / "fitted")
    return tmp_path / "fitted"
