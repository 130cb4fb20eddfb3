"""MNIST with 1000 labels by M2, the semi-supervised model of Kingma et al. (2014).

    python benchmarks/semi_supervised.py [--epochs 10] [--seed 0] [--classification 10]
        [--no-shifts]

The pictures are halved to 14x14, and binarized once by their grey levels; when it is judged, the
classifier sees grey. Labels: 100 of each digit, by the seed; each labeled picture also comes moved
by a pixel in the eight directions (--no-shifts: not), which adds rows and no label. q(y given x) is
convolutional, all else perceptrons. 54,000 training rows; settings were chosen by the error on the
6,000 validation rows, and the error on the 10,000 test rows is read once, at the end. The result
goes into a JSON file beside this one.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import aevb
from aevb import MLP, Adam, Conditional, ConvolutionalEncoder, Model, Plan, Unconditional
from aevb.algorithms.semi_supervised import UNLABELED, Labeled, SemiSupervised
from aevb.conditional import Chain, Informed
from aevb.data import Dataset, Rows, all_rows, open_source
from aevb.families import Bernoulli, Normal, OneHotCategorical
from aevb.posterior import Amortized
from aevb.products import has_bfloat16
from aevb.randomness import Stream, generator
from aevb.training import train
from aevb.workflow.classify import keep_labels

CLASSES, SIDE, LATENT, HIDDEN, TOLD = 10, 14, 20, 256, 64
LABELS, RATE, BATCH = 1000, 0.002, 200
DIRECTIONS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def pictures(rows: Rows) -> np.ndarray:
    """The grey levels of rows, (N, 28, 28), in [0, 1]."""
    return rows.values[rows.index].reshape(-1, 28, 28).astype(np.float32) / 255


def halved(x: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels, (N, 196)."""
    return x.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4)).reshape(-1, SIDE**2)


def binarized(x: np.ndarray, seed: int) -> np.ndarray:
    """Each pixel 1 with the probability of its grey level."""
    return (generator(seed, Stream.BINARIZATION).random(x.shape) < x).astype(np.uint8)


def model_and_posterior() -> tuple[Model, Amortized]:
    """p(y) p(z) p(x given y, z), and q(y given x) q(z given x, y)."""
    width, relu = SIDE**2, nn.ReLU
    either = Unconditional(OneHotCategorical(), CLASSES), aevb.standard_normal(LATENT)
    decoder = MLP(CLASSES + LATENT, [HIDDEN], width, relu)
    model = Model(Chain(either, [CLASSES, LATENT]), Conditional(decoder, Bernoulli()))
    classifier = ConvolutionalEncoder((1, SIDE, SIDE), [32, 64], CLASSES)
    encoder = MLP(TOLD + CLASSES, [TOLD], 2 * LATENT, relu)
    links = Conditional(classifier, OneHotCategorical()), Conditional(encoder, Normal())
    told = MLP(width, [HIDDEN], TOLD, relu)
    return model, Amortized(Informed(links, [CLASSES, LATENT], told))


def error(posterior: Amortized, rows: Rows) -> float:
    """The share of rows whose most probable class is another than theirs."""
    classifier: Any = posterior.conditional.links[0]
    with torch.no_grad():
        found = [
            q.logits.argmax(1)
            for q in map(classifier, torch.from_numpy(halved(pictures(rows))).split(1000))
        ]
    return float((torch.cat(found).numpy() != rows.labels).mean())


def training_rows(rows: Rows, seed: int, shifts: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, 196) and their classes, -1 where one is not known."""
    x, y = pictures(rows), keep_labels(rows.labels, LABELS, seed)
    known = y != UNLABELED
    moved = [np.roll(x[known], by, (1, 2)) for by in DIRECTIONS] if shifts else []
    return halved(np.concatenate([x, *moved])), np.concatenate([y, *[y[known]] * len(moved)])


class Told:
    """A line for each epoch."""

    def __init__(self, posterior: Amortized, rows: Rows) -> None:
        self.posterior, self.rows = posterior, rows

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None: ...

    def step(self, t: int) -> None: ...

    def epoch(self, record: Any) -> None:
        mistaken = 100 * error(self.posterior, self.rows)
        about = f"epoch {record['epoch']}: bound {record['train']['elbo']:.2f}"
        print(f"{about}, validation error {mistaken:.2f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classification", type=float, default=10.0)
    parser.add_argument("--no-shifts", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    mnist = aevb.data.load("mnist")
    x, y = training_rows(mnist.train, options.seed, not options.no_shifts)
    x = binarized(x, options.seed)
    source = open_source(x)
    rows = all_rows(source)
    nothing = rows.pick(np.arange(0))
    model, posterior = model_and_posterior()
    learner = SemiSupervised(
        *(model, posterior),
        Labeled(torch.from_numpy(y), rows.take(np.flatnonzero(y != UNLABELED))),
        options.classification,
        optimizer=Adam(RATE),
        compiled=True,
        precision="bfloat16" if has_bfloat16() else "float32",
    )
    begun, cpu = time.perf_counter(), time.process_time()
    plan = Plan(epochs=options.epochs, batch_size=BATCH, seed=options.seed)
    told = Told(posterior, mnist.validation)
    history = train(learner, Dataset(source, rows, nothing, nothing), plan, callbacks=[told])
    mistaken = error(posterior, mnist.test)
    result = {
        "data": "mnist, halved to 14x14",
        "model": "m2",
        "labels": LABELS,
        "shifts": not options.no_shifts,
        "rows": len(x),
        "epochs": options.epochs,
        "seed": options.seed,
        "classification": options.classification,
        "bound": history[-1]["train"]["elbo"],
        "validation_error": error(posterior, mnist.validation),
        "test_error": mistaken,
        "test_standard_error": (mistaken * (1 - mistaken) / len(mnist.test)) ** 0.5,
        "seconds": time.perf_counter() - begun,
        "processor_seconds": time.process_time() - cpu,
        "precision": learner.precision,
    }
    print(json.dumps(result, indent=2))
    name = f"semi_supervised{'' if result['shifts'] else '_without_shifts'}.json"
    Path(__file__).with_name(name).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
