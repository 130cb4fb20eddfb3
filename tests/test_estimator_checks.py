"""Every check that scikit-learn has for estimators, with no exception."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from aevb import VAE, VAEDetector

QUICK = [
    VAE(hidden=(20,), epochs=10),
    VAE(hidden=(20,), epochs=10, allow_nan=True),
    VAEDetector(hidden=(20,), epochs=10),
]
USUAL = [VAE(), VAE(allow_nan=True), VAEDetector()]


@parametrize_with_checks(QUICK)
def test_scikit_learn_agrees(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(USUAL)
def test_scikit_learn_agrees_with_what_is_usual(estimator, check):
    check(estimator)
