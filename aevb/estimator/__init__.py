"""The scikit-learn face: estimators over the same model, posterior and loop as all the rest."""

from aevb.estimator.classifier import VAEClassifier
from aevb.estimator.detector import VAEDetector
from aevb.estimator.semi_supervised import SemiSupervisedVAE
from aevb.estimator.vae import VAE

__all__ = ["VAE", "SemiSupervisedVAE", "VAEClassifier", "VAEDetector"]
