"""`VAEClassifier`: Bayes' rule against scikit-learn's discriminant analysis; files; refusals."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from aevb import VAE, VAEClassifier
from aevb.errors import DataError, ModelFileError, UsageError
from aevb.linear_gaussian import LinearGaussian

IRIS, SPECIES = load_iris(return_X_y=True)
IRIS = IRIS.astype(np.float32).astype(np.float64)  # as any row is read
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
SMALL = VAE(1, hidden=(8,), epochs=5)


@parametrize_with_checks([VAEClassifier(VAE(hidden=(20,), epochs=10))])
def test_scikit_learn_agrees(estimator, check):
    check(estimator)


def gaussian(mean, covariance):
    """A linear decoder with p(x) = N(mean, covariance), and its exact posterior."""
    noise = 0.5 * np.linalg.eigvalsh(covariance)[0]
    model = LinearGaussian(len(mean), len(mean)).double()
    factor = np.linalg.cholesky(covariance - noise * np.eye(len(mean)))
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(factor))
        model.offset.copy_(torch.from_numpy(mean))
        model.likelihood.family.log_variance.fill_(np.log(noise))
    return model, model.exact_encoder()


@pytest.mark.parametrize("priors", [None, [0.1, 0.2, 0.7]])
def test_gaussian_classes_give_quadratic_discriminant_analysis(priors):
    truth = QuadraticDiscriminantAnalysis(priors=priors, store_covariance=True).fit(IRIS, SPECIES)
    classifier = VAEClassifier(SMALL, priors=priors, samples=3).fit(IRIS, SPECIES)
    for model, *moments in zip(classifier.models_, truth.means_, truth.covariance_, strict=True):
        model.model_, model.posterior_ = gaussian(*moments)
    each = zip(truth.means_, truth.covariance_, strict=True)
    known = np.stack([multivariate_normal(*moments).logpdf(IRIS) for moments in each], 1)
    assert classifier.log_likelihoods(IRIS) == pytest.approx(known, abs=1e-6)
    joint = known + np.log(truth.priors_)
    assert classifier.predict_joint_log_proba(IRIS) == pytest.approx(joint, abs=1e-6)
    expected = truth.predict_log_proba(IRIS)
    assert classifier.predict_log_proba(IRIS) == pytest.approx(expected, abs=1e-6, rel=1e-6)
    assert (classifier.predict(IRIS) == truth.predict(IRIS)).all()
    assert classifier.predict_proba(IRIS).sum(1) == pytest.approx(np.ones(150), abs=1e-12)


def test_classes_are_told_apart():
    estimator = VAE(1, hidden=(16,), epochs=150, lr=0.01)
    classifier = VAEClassifier(estimator).fit(IRIS[::2], NAMES[::2])
    assert classifier.score(IRIS[1::2], NAMES[1::2]) > 0.9
    assert list(classifier.classes_) == ["setosa", "versicolor", "virginica"]
    assert classifier.priors_ == pytest.approx([1 / 3] * 3)


def test_densities_are_comparable_although_a_class_alone_looks_otherwise():
    # By itself each class is of one value in its first column, and of zeros and ones in the other.
    source = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    x = np.stack([y * 3.0 + 1, (source.random(120) < 0.3 + 0.4 * y).astype(float)], 1)
    classifier = VAEClassifier(VAE(1, hidden=(8,), epochs=30)).fit(x, y)
    first, second = classifier.models_
    assert first.likelihood_ == second.likelihood_
    assert first._facts["data"]["scale"] == second._facts["data"]["scale"]
    assert first._facts["data"]["rows"]["train"] == 60
    assert classifier.score(x, y) == 1.0


def test_a_prior_of_zero_excludes_a_class():
    classifier = VAEClassifier(SMALL, priors=[0, 0.5, 0.5]).fit(IRIS, SPECIES)
    assert set(classifier.predict(IRIS)) <= {1, 2}
    assert (classifier.predict_proba(IRIS)[:, 0] == 0).all()


def test_a_row_that_no_class_explains_has_the_priors():
    priors = [0.1, 0.2, 0.7]
    classifier = VAEClassifier(SMALL, priors=priors, samples=3).fit(IRIS, SPECIES)
    far = np.array([[1e15, -1e15, 1e15, -1e15], IRIS[0]])
    assert np.isneginf(classifier.log_likelihoods(far)[0]).all()
    assert classifier.predict_proba(far)[0] == pytest.approx(priors)
    assert classifier.predict(far).tolist() == [2, classifier.predict(IRIS[:1])[0]]


def test_it_stands_in_a_pipeline_and_a_grid_search():
    line = make_pipeline(StandardScaler(), VAEClassifier(SMALL))
    grid = {"vaeclassifier__estimator__latent_dim": [1, 2], "vaeclassifier__samples": [5]}
    search = GridSearchCV(line, grid, cv=2).fit(IRIS, NAMES)
    assert set(search.predict(IRIS)) <= set(NAMES)


@pytest.mark.parametrize(
    "y", [SPECIES, NAMES, SPECIES == 1, SPECIES.astype(np.uint8), SPECIES.astype(np.float16)]
)
def test_a_file_gives_the_same_classifier_back(tmp_path, y):
    classifier = VAEClassifier(SMALL, samples=7).fit(IRIS, y)
    classifier.save(tmp_path / "c")
    again = VAEClassifier.load(tmp_path / "c")
    assert again.classes_.tolist() == classifier.classes_.tolist()
    assert again.predict_proba(IRIS).tobytes() == classifier.predict_proba(IRIS).tobytes()
    assert again.samples == 7
    assert again.fit(IRIS, y).score(IRIS, y) == classifier.score(IRIS, y)


def test_a_second_save_takes_the_place_of_the_first_in_one_step(tmp_path, monkeypatch):
    first = VAEClassifier(SMALL).fit(IRIS, SPECIES)
    first.save(tmp_path)
    second = VAEClassifier(SMALL).fit(IRIS[:100], NAMES[:100])

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("aevb.estimator.parts.replace_atomically", stop)
        with pytest.raises(KeyboardInterrupt):
            second.save(tmp_path)
    assert len(VAEClassifier.load(tmp_path).classes_) == 3
    second.save(tmp_path)
    assert list(VAEClassifier.load(tmp_path).classes_) == ["setosa", "versicolor"]
    assert [path.name for path in tmp_path.glob("models-*")] == ["models-3"]


CHANGES = {
    "kind": {"kind": "VAEDetector"},
    "classes": {"classes": [0, 0, 1]},
    "type": {"classes": [0, 1, "x"]},
    "priors": {"facts": {"priors": [1.0], "samples": 3}},
    "samples": {"facts": {"priors": [0.5, 0.25, 0.25], "samples": 0}},
    "path": {"models": "../models-1"},
    "format": {"format": 2},
    "more": {"parts": 4},
    "unknown": {"code": "os"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_index_is_refused(tmp_path, change):
    VAEClassifier(SMALL).fit(IRIS, SPECIES).save(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(index | change))
    with pytest.raises(ModelFileError):
        VAEClassifier.load(tmp_path)


@pytest.mark.parametrize(
    "hole",
    [
        lambda y: [None, *y[1:]],
        lambda y: [np.nan, *y[1:]],
        lambda y: np.ma.masked_array(y, np.arange(len(y)) == 0),
        lambda y: pytest.importorskip("pandas").Series([None, *y[1:]], dtype="string"),
    ],
    ids=["None", "NaN", "masked", "NA"],
)
def test_a_label_that_is_missing_is_no_class(hole):
    with pytest.raises(DataError, match=r"y, row 1: expected a class, found NaN \(1 such"):
        VAEClassifier(SMALL).fit(IRIS, hole(NAMES))


def test_what_is_no_class_is_refused():
    classifier = VAEClassifier(SMALL)
    with pytest.raises(DataError, match="y must hold at least two classes, found 1 class"):
        classifier.fit(IRIS, np.zeros(150))
    missing = SPECIES.astype(float)
    missing[[4, 9]] = np.nan
    with pytest.raises(DataError, match=r"y, row 5: expected a class, found NaN \(2 such rows"):
        classifier.fit(IRIS, missing)
    with pytest.raises(DataError, match="y, row 1: expected a class, found NaN"):
        classifier.fit(IRIS, np.array([None, *NAMES[1:]], dtype=object))
    with pytest.raises(DataError, match="y, row 2: expected a class, found infinity"):
        classifier.fit(IRIS, np.r_[0, np.inf, SPECIES[2:]])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier.fit(IRIS, SPECIES[:-1])
    with pytest.raises(ValueError, match="not fitted yet"):
        classifier.predict(IRIS)


@pytest.mark.parametrize(
    "priors", [[0.5, 0.5], [0.5, 0.6, -0.1], [1, 1, 1], "even", 3, [np.nan] * 3]
)
def test_priors_that_are_no_probabilities_are_refused(priors):
    with pytest.raises(UsageError, match="priors must be 3 probabilities that add up to 1"):
        VAEClassifier(SMALL, priors=priors).fit(IRIS, SPECIES)
