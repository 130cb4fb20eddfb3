"""`VAEDetector`: outliers that were planted, thresholds, and what is refused."""

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.metrics import roc_auc_score

from aevb import VAEDetector
from aevb.errors import UsageError

SMALL = {"hidden": (8,), "epochs": 5}
IRIS = load_iris().data


def planted():
    """Rows near a plane in five dimensions, and after them a tenth as many that lie off it."""
    source = np.random.default_rng(0)
    mixing = source.standard_normal((2, 5))
    inside = source.standard_normal((300, 2)) @ mixing + 0.1 * source.standard_normal((300, 5))
    away = inside[:30] + 1.5 * source.choice([-1.0, 1.0], (30, 5))
    return np.vstack([inside, away]) + 3, np.r_[np.zeros(300), np.ones(30)]


def test_planted_outliers_are_found():
    x, is_outlier = planted()
    detector = VAEDetector(2, hidden=(20,), epochs=120, lr=0.01, contamination=0.09)
    found = detector.fit_predict(x)
    assert roc_auc_score(is_outlier, -detector.decision_function(x)) > 0.9
    assert (found == -1).mean() == pytest.approx(0.09, abs=0.01)
    assert is_outlier[found == -1].mean() > 0.6
    # new rows too: off the plane, or far out on it
    far = x[:300].mean(0) + 10 * (x[:300] - x[:300].mean(0))
    assert (detector.predict(far) == -1).mean() > 0.9


@pytest.mark.parametrize("contamination", [0.02, 0.1, 0.5])
def test_the_threshold_is_the_quantile_of_the_scores(contamination):
    detector = VAEDetector(**SMALL, contamination=contamination).fit(IRIS)
    scores = detector.score_samples(IRIS)
    assert detector.offset_ == np.quantile(scores, contamination)
    assert (detector.decision_function(IRIS) == scores - detector.offset_).all()
    assert set(np.unique(detector.predict(IRIS))) == {-1, 1}
    assert (detector.predict(IRIS) == -1).sum() == pytest.approx(150 * contamination, abs=1)
    assert (
        VAEDetector(**SMALL, contamination=contamination).fit_predict(IRIS)
        == detector.predict(IRIS)
    ).all()


def test_a_row_is_judged_alike_in_any_company():
    detector = VAEDetector(**SMALL).fit(IRIS)
    alone = np.array([detector.predict(row[None])[0] for row in IRIS[:40]])
    assert (alone == detector.predict(IRIS)[:40]).all()


def test_rows_with_holes_are_judged_by_what_was_observed():
    x = IRIS.copy()
    x[[3, 50], [0, 2]] = np.nan
    detector = VAEDetector(**SMALL, allow_nan=True).fit(x)
    assert np.isfinite(detector.decision_function(x)).all()


@pytest.mark.parametrize("wrong", [0, 0.7, -0.1, np.nan, "auto", None])
def test_other_shares_are_refused(wrong):
    with pytest.raises(UsageError, match=r"contamination is the share .* in \(0, 0\.5\], found"):
        VAEDetector(**SMALL, contamination=wrong).fit(IRIS)


def test_what_is_not_fitted_says_so():
    for name in ("predict", "decision_function", "score_samples"):
        with pytest.raises(ValueError, match="not fitted yet"):
            getattr(VAEDetector(), name)(IRIS)
    assert VAEDetector(**SMALL).fit(IRIS).get_feature_names_out()[0] == "vaedetector0"
