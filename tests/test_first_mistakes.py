"""What a beginner gets wrong in the first lines of Python, and the sentence that answers it."""

import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import aevb
from aevb.data import Rows
from aevb.errors import AevbError
from aevb.networks import MADE

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = np.arange(60) % 2
PRIOR = aevb.standard_normal(2)
DECODER = aevb.gaussian(aevb.MLP(2, [3], 8))
ENCODER = aevb.mean_field(aevb.MLP(4, [3], 4))
MODEL = aevb.Model(PRIOR, DECODER)
ROWS = Rows(X, np.arange(60), (4,))
SMALL = aevb.VAE(hidden=(3,), epochs=1)
FITTED = aevb.VAE(hidden=(3,), epochs=1).fit(X)
ONE = aevb.Plan(epochs=1)


def learn(model=MODEL, posterior=ENCODER, data=None, plan=ONE, **how):
    return aevb.train(
        aevb.AEVB(model, posterior, **how), aevb.data.load(X) if data is None else data, plan
    )


MISTAKES = {
    "the parts of a model in the other order": (
        lambda: aevb.Model(DECODER, PRIOR),
        "a model is Model(prior, likelihood), the prior of no condition and the likelihood of z, "
        "found Conditional and Unconditional",
    ),
    "a model of numbers": (lambda: aevb.Model(2, DECODER), "the prior of a model is a module"),
    "a likelihood for a posterior": (
        lambda: learn(posterior=aevb.gaussian(aevb.MLP(4, [3], 4))),
        "the condition is a tensor, found Batch: what is to be a posterior is made by "
        "aevb.amortized(network, family)",
    ),
    "an objective by its name": (
        lambda: aevb.AEVB(MODEL, ENCODER, "iwae"),
        "the objective is one of aevb.objectives, such as aevb.iwae, found 'iwae'",
    ),
    "an optimizer by its name": (
        lambda: learn(optimizer="adam"),
        "the optimizer is one of aevb.optimizers, such as aevb.Adam(), or one of torch.optim over "
        "the parameters, found 'adam'",
    ),
    "an array for data": (lambda: learn(data=X), "data is a Dataset, which aevb.data.load makes"),
    "rows for data": (lambda: learn(data=ROWS), "data is a Dataset, which aevb.data.load makes"),
    "a number of epochs for a plan": (
        lambda: learn(plan=5),
        "plan is a Plan, like aevb.Plan(epochs=5), found int",
    ),
    "a model for a learner": (
        lambda: aevb.train(MODEL, aevb.data.load(X)),
        "learner is a Learner, like aevb.AEVB(model, posterior), found Model",
    ),
    "a prior of other codes": (
        lambda: learn(model=aevb.Model(aevb.standard_normal(3), DECODER)),
        "the posterior is over codes of shape (2,), the prior over (3,): give both the same number",
    ),
    "an encoder of other rows": (
        lambda: learn(posterior=aevb.mean_field(aevb.MLP(3, [3], 4))),
        "the network takes 3 numbers, found 4: size it for what it is given",
    ),
    "a width for a list of widths": (
        lambda: aevb.MLP(4, 3, 8),
        "expected a list of widths, like [500], found 3",
    ),
    "a width for a list of channels": (
        lambda: aevb.ConvolutionalDecoder(2, 8, (1, 8, 8)),
        "expected a list of widths, like [500], found 8",
    ),
    "a width for the widths of a masked network": (
        lambda: MADE(4, 8, 2),
        "expected a list of widths, like [500], found 8",
    ),
    "a tensor for rows": (
        lambda: aevb.evidence(MODEL, ENCODER, torch.from_numpy(X)),
        "expected Rows, as load(...).test or all_rows(open_source(...)) of aevb.data give them for "
        "a file or an array, found Tensor",
    ),
    "no rows to fill": (
        lambda: aevb.impute(MODEL, ENCODER, ROWS.pick(np.arange(0))),
        "expected at least 1 row, found none",
    ),
    "a path for rows": (
        lambda: aevb.VAE(epochs=1).fit("table.csv"),
        "X is rows, found the name 'table.csv': give aevb.data.open_source of it",
    ),
    "a classifier of a classifier": (
        lambda: aevb.VAEClassifier(LogisticRegression()).fit(X, Y),
        "estimator must be a VAE, found LogisticRegression; steps before it belong into a pipeline "
        "around the classifier",
    ),
    "a classifier of a pipeline": (
        lambda: aevb.SemiSupervisedVAE(make_pipeline(aevb.VAE()), model="m2").fit(X, Y),
        "estimator must be a VAE, found Pipeline; steps before it belong into a pipeline around",
    ),
    "a classifier of detectors": (
        lambda: aevb.VAEClassifier(aevb.VAEDetector()).fit(X, Y),
        "estimator must be a VAE, found VAEDetector",
    ),
    "features by a pipeline": (
        lambda: aevb.SemiSupervisedVAE(features=make_pipeline(aevb.VAE()), model="m1").fit(X, Y),
        "features must be a VAE, found Pipeline",
    ),
    "a weight in words": (
        lambda: aevb.SemiSupervisedVAE(SMALL, model="m2", classification="much").fit(X, Y),
        "the weight of classification is a finite number that must not be negative, found 'much'",
    ),
    "a dataset for rows": (
        lambda: aevb.VAE().fit(aevb.data.load(X)),
        "X is rows, found a Dataset: give its `source`, or `rows.all().numpy()`",
    ),
    "rows of a dataset for an array": (
        lambda: FITTED.transform(ROWS),
        "X is rows, found a Rows: give",
    ),
    "a source of another width": (
        lambda: FITTED.transform(aevb.data.open_source(X[:, :3])),
        "array: expected 4 columns as the model was fitted on, found 3; give the same columns",
    ),
    "half a sample": (
        lambda: FITTED.score_samples(X, samples=2.5),
        "the number of samples must be a whole number, found 2.5",
    ),
    "a text for a number of samples": (
        lambda: FITTED.denoise(X, samples="many"),
        "the number of samples must be a whole number, found 'many'",
    ),
    "steps in halves": (
        lambda: FITTED.interpolate(X[0], X[1], 3.5),
        "the number of steps must be a whole number, found 3.5",
    ),
    "half a dimension": (
        lambda: FITTED.traverse(0.5),
        "dimension 0.5 was asked for, the latent space has dimensions 0 to 1",
    ),
    "numbers in a row": (
        lambda: aevb.data.load(X.ravel()),
        "expected rows and columns, found an array of shape (240,); reshape it to (N, 1)",
    ),
    "five axes": (
        lambda: aevb.data.load(np.zeros((12, 3, 8, 8, 2))),
        "expected rows of 1 to 3 axes, found an array of shape (12, 3, 8, 8, 2); reshape it to "
        "(N, 384)",
    ),
    "no file": (lambda: aevb.data.load("nothing.csv"), "nothing.csv does not exist; check the"),
}


@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_it_is_answered_by_one_sentence(mistake, sentence):
    with pytest.raises(AevbError, match=re.escape(sentence)):
        mistake()


def test_nothing_is_refused_where_there_is_no_mistake():
    assert len(learn()) == 1
