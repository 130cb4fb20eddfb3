"""Linear decoders with Gaussian noise against probabilistic PCA and factor analysis.

The truth is scikit-learn's maximum-likelihood solution; our log-likelihood is the exact one of the
parameters we trained, log N(x; b, W W^T + Psi), computed by scipy.
"""

import numpy as np
import pytest
import torch
from laws import dataset
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import PCA, FactorAnalysis

import aevb
from aevb.data import Rows
from aevb.optimizers import linear
from aevb.plan import Plan

TABLES = {"iris": load_iris, "wine": load_wine}


def standardized(name):
    x = TABLES[name]().data
    return (x - x.mean(0)) / x.std(0)


def train_linear(x, latent, noise_shape, full, epochs=2500):
    width = x.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = aevb.MLP(latent, [], width)
        outputs = latent * (latent + 3) // 2 if full else 2 * latent
        encoder = aevb.MLP(width, [], outputs)
    model = aevb.Model(
        aevb.standard_normal(latent),
        aevb.gaussian(decoder, min_variance=0.0, noise_shape=noise_shape),
    ).double()
    posterior = (aevb.full_covariance if full else aevb.mean_field)(encoder).double()
    learner = aevb.AEVB(model, posterior, optimizer=aevb.Adam(lr=0.02))
    rows = Rows(x.astype(np.float32), np.arange(len(x)), (width,))
    plan = Plan(epochs=epochs, batch_size=len(x), samples=4, schedule=linear)
    aevb.train(learner, dataset(rows), plan)
    return model, posterior, rows


def exact(model, x):
    w = model.likelihood.network.head.weight.detach().numpy()
    b = model.likelihood.network.head.bias.detach().numpy()
    psi = np.exp(model.likelihood.family.log_variance.detach().numpy())
    covariance = w @ w.T + np.diag(np.broadcast_to(psi, b.shape))
    return multivariate_normal(b, covariance).logpdf(x).mean()


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("name", ["wine", pytest.param("iris", marks=pytest.mark.slow)])
def test_shared_noise_reaches_probabilistic_pca(name, full):
    x = standardized(name)
    truth = PCA(2).fit(x).score(x)
    model, posterior, rows = train_linear(x, 2, (), full)
    assert truth - 0.01 < exact(model, x) < truth + 1e-3
    # the posterior of a linear model is Gaussian with one covariance: the bound can be tight
    bound = aevb.evidence(model, posterior, rows, 500).elbo
    noise = 5 * bound.monte_carlo_error
    assert exact(model, x) - 0.02 - noise < bound.mean < exact(model, x) + noise


@pytest.mark.parametrize(
    ("name", "latent"), [("wine", 2), pytest.param("wine", 1, marks=pytest.mark.slow)]
)
def test_noise_by_feature_reaches_factor_analysis(name, latent):
    x = standardized(name)
    truth = FactorAnalysis(latent, tol=1e-7, max_iter=20_000).fit(x).score(x)
    model, _, _ = train_linear(x, latent, (x.shape[1],), full=False)
    assert truth - 0.01 < exact(model, x) < truth + 1e-3
