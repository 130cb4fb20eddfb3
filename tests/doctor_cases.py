"""Cases for the doctor, made by hand or by training, and what every finding has."""

import copy
import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import nn

import aevb
from aevb.conditional import Conditional
from aevb.data import Rows
from aevb.evaluation import doctor
from aevb.evaluation.case import Case

LATENT, WIDTH = 6, 64
PLAN = aevb.Plan(epochs=50)
NAMES = {
    "posterior-collapse",
    "dead-dimensions",
    "decoder-ignores-codes",
    "posterior-too-wide",
    "holes-under-the-prior",
    "few-effective-samples",
    "noise-at-its-floor",
    "certain-and-wrong",
    "outside-the-domain",
    "density-on-discrete-values",
    "vanishing-gradients",
    "dead-units",
    "parameters-not-finite",
    "over-fitting",
    "under-training",
    "warm-up-unfinished",
    "other-treatment",
    "evaluated-on-training-rows",
    "unlike-training",
    "held-out-rows-in-training",
}
OF_DATA = {"outside-the-domain", "other-treatment", "unlike-training", "held-out-rows-in-training"}
"""Findings whose advice may be to name other data, and no option."""


@cache
def digits(treatment="threshold"):
    return aevb.data.load("digits", treatment)


def pair(likelihood, latent=LATENT, hidden=(64,), activation=nn.Tanh, width=WIDTH, outputs=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = aevb.MLP(latent, hidden, outputs or width, activation)
        encoder = aevb.MLP(width, hidden, 2 * latent, activation)
        return aevb.Model(aevb.standard_normal(latent), likelihood(decoder)), aevb.mean_field(
            encoder
        )


def case_of(model, posterior, data, history=(), **more):
    scored = [record for record in history if record["validation"]]
    kept = max(scored, key=lambda r: r["validation"]["elbo"]) if scored else None
    counts = {"train": len(data.train), "validation": len(data.validation)}
    about = {"history": history, "kept": kept, "counts": counts, **more}
    learned = posterior, data.train.limit(400)
    return Case(model, posterior, data.test, learned, data.train, **about)


def trained(data, likelihood, plan=PLAN, rate=3e-3, **sizes):
    model, posterior = pair(likelihood, **sizes)
    model.likelihood.start_at(data.train.all())
    learner = aevb.AEVB(model, posterior, optimizer=aevb.Adam(rate))
    return case_of(model, posterior, data, aevb.train(learner, data, plan))


@cache
def healthy():
    return trained(digits(), aevb.bernoulli)


def anew(case):
    """The same, to be made sick: figures are not taken yet."""
    model, posterior = copy.deepcopy((case.model, case.posterior))
    return replace(case, model=model, posterior=posterior, learned=(posterior, case.learned[1]))


def history(train, validation=None, steps=10):
    def parts(bounds, k):
        return {"elbo": bounds[k], "reconstruction": bounds[k], "kl": 0.0}

    return [
        {
            "epoch": k + 1,
            "t": steps * (k + 1),
            "train": parts(train, k),
            "validation": None if validation is None else parts(validation, k),
        }
        for k in range(len(train))
    ]


def bare(records, **more):
    """A case that has a history and nothing else."""
    model, posterior = pair(aevb.bernoulli)
    return Case(model, posterior, history=records, **more)


def table(values, family, outputs, **more):
    """A case of an untrained model over the rows of a table."""
    values = np.asarray(values, np.float32)
    width = values.shape[1]
    rows = Rows(values, np.arange(len(values)), (width,))
    model, posterior = pair(
        lambda net: Conditional(net, family), 2, (4,), width=width, outputs=outputs
    )
    return Case(model, posterior, rows, (posterior, rows), **more)


def names(case):
    return [finding.name for finding in doctor.examine(case).findings]


def only(finding, name):
    """The finding has its name, a figure in the sentence, and one option in the advice."""
    assert finding is not None
    assert finding.name == name
    assert name in NAMES
    assert re.search(r"\d", finding.sentence)
    assert finding.sentence.endswith(".")
    options = re.findall(r"--[a-z-]+", finding.advice)
    assert len(options) == 1 or (name in OF_DATA and not options)
    assert json.dumps(finding.as_dict(), allow_nan=False)
    return finding
