"""Classification: which labels are seen, how often a classifier is right, classes of new rows."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from aevb.algorithms.semi_supervised import UNLABELED
from aevb.data import Binarization, Dataset, Rows, open_source, split
from aevb.data.named import NAMES
from aevb.errors import DataError, ModelFileError, UsageError
from aevb.estimator import VAE, SemiSupervisedVAE, VAEClassifier
from aevb.estimator.parts import kind_of
from aevb.randomness import Stream, generator
from aevb.workflow.outputs import number, write_csv

Labels = NDArray[np.int64]
Classifier = VAEClassifier | SemiSupervisedVAE
MODELS = ("bayes", "m1", "m2", "m1+m2")


@dataclass(frozen=True)
class Choice:
    """Which classifier, from how many labels: the options of `aevb classify` that decide it."""

    model: str = "bayes"
    labels: int | None = None
    classification: float = 1.0
    samples: int = 100
    seed: int = 0


def keep_labels(labels: Labels, count: int | None, seed: int) -> Labels:
    """So many of the labels, as many of each class as can be, and -1 for all others.

    Which ones is a function of the seed alone; None keeps all.
    Errors: UsageError for fewer labels than classes, or more than there are.
    Example:
        >>> seen = keep_labels(np.array([0, 0, 1, 1]), 2, seed=0)
        >>> sorted(seen.tolist())
        [-1, -1, 0, 1]
    """
    if count is None:
        return labels
    classes = np.unique(labels)
    if not len(classes) <= count <= len(labels):
        raise UsageError(
            f"--labels must lie between the {len(classes)} classes and the {len(labels)} training "
            f"rows, found {count}"
        )
    order = generator(seed, Stream.SUBSET).permutation(len(labels))
    # The first of each class come before all second ones, so that every class has its share.
    turn = np.empty(len(labels), np.int64)
    for k in classes:
        own = order[labels[order] == k]
        turn[own] = np.arange(len(own))
    kept = order[np.argsort(turn[order], kind="stable")[:count]]
    seen = np.full(len(labels), UNLABELED)
    seen[kept] = labels[kept]
    return seen


def labeled_data(name: str, limit: int | None = None, binarize: str = "none") -> Dataset:
    """A named data set that has labels, split; DataError for another."""
    source = open_source(name) if name in NAMES else None
    if source is None or source.labels is None:
        raise DataError(
            f"{name} has no labels to learn from: name digits, mnist or fashion-mnist, or use "
            "aevb.VAEClassifier and aevb.SemiSupervisedVAE in Python"
        )
    return split(source, Binarization(binarize), limit=limit)


def classifier_of(choice: Choice, settings: VAE, features: VAE) -> Classifier:
    """The classifier that was chosen: `settings` are those of its densities, `features` M1's."""
    if choice.model not in MODELS:
        raise UsageError(f"--model must be one of {', '.join(MODELS)}, found {choice.model!r}")
    if choice.model == "bayes":
        return VAEClassifier(settings, samples=choice.samples)
    return SemiSupervisedVAE(
        settings,
        model=choice.model,  # type: ignore[arg-type]
        features=settings if choice.model == "m1" else features,
        classification=choice.classification,
    )


def learn(classifier: Classifier, data: Dataset, seen: Labels) -> float:
    """Fit to the training rows with these labels; the seconds that it took.

    Bayes' rule learns from the rows with a label alone.
    """
    begun = time.perf_counter()
    x = _array(data.train)
    known = seen != UNLABELED
    if isinstance(classifier, VAEClassifier):
        classifier.fit(x[known], seen[known])
    else:
        classifier.fit(x, seen)
    return time.perf_counter() - begun


def judged(classifier: Classifier, rows: Rows) -> dict[str, Any]:
    """How often it is right on labeled rows, with its standard error, and what it takes for what.

        s = sqrt(a (1 - a) / N)

    The confusion table has a row for each true class and a column for each predicted one.
    """
    truth = rows.labels
    assert truth is not None
    found = classifier.predict(_array(rows))
    accuracy = float((found == truth).mean())
    classes = np.union1d(classifier.classes_, truth)
    return {
        "test_rows": len(rows),
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / len(rows)),
        "classes": classes.tolist(),
        "confusion": confusion_matrix(truth, found, labels=classes).tolist(),
    }


def classify(
    name: str,
    choice: Choice,
    settings: VAE,
    features: VAE,
    *,
    limit: int | None = None,
    binarize: str = "none",
    out: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Learn from a set's training rows, and say how often the classifier is right on test rows."""
    classifier = classifier_of(choice, settings, features)
    if out is not None and choice.model == "m1":
        raise UsageError("--out keeps bayes, m2 and m1+m2: the classifier of m1 is scikit-learn's")
    data = labeled_data(name, limit, binarize)
    assert data.train.labels is not None
    seen = keep_labels(data.train.labels, choice.labels, choice.seed)
    known = int((seen != UNLABELED).sum())
    report(f"{name}: {len(seen)} training rows, {known} with a label, model {choice.model}")
    seconds = learn(classifier, data, seen)
    if out is not None:
        classifier.save(out)
    about = {"data": name, "model": choice.model, "rows": len(seen), "labels": known}
    about |= {"seed": choice.seed, "seconds": seconds, "run": None if out is None else str(out)}
    return about | judged(classifier, data.test)


def predicted(folder: Path, name: str, target: Path | None) -> dict[str, Any]:
    """The classes that a saved classifier gives to rows: to a .csv, and how many of each.

    A named set is read at its test rows, whose labels say how often that is right; a file whole.
    """
    kinds: dict[str, type[Classifier]] = {
        kind.__name__: kind for kind in (VAEClassifier, SemiSupervisedVAE)
    }
    if target is not None and target.suffix != ".csv":
        raise UsageError(f"--out {target} must end in .csv")
    kind = kind_of(folder)
    if kind not in kinds:
        raise ModelFileError(f"{folder} holds a {kind[:30]}, which is no classifier")
    classifier = kinds[kind].load(folder)
    rows = split(open_source(name), Binarization.NONE).test if name in NAMES else None
    x = _cells(name) if rows is None else _array(rows)
    log_proba = classifier.predict_log_proba(x)
    best = log_proba.argmax(axis=1)
    classes = [str(label) for label in classifier.classes_.tolist()]
    if target is not None:
        both = zip(best, np.exp(log_proba), strict=True)
        cells = ([classes[k], *map(number, probabilities)] for k, probabilities in both)
        write_csv(target, ["class", *(f"p({label})" for label in classes)], cells)
    counts = np.bincount(best, minlength=len(classes)).tolist()
    report = {"run": str(folder), "data": name, "rows": len(x), "out": target and str(target)}
    report |= {"counts": dict(zip(classes, counts, strict=True))}
    labeled = rows is not None and rows.labels is not None
    return report | (judged(classifier, rows) if labeled else {})  # type: ignore[arg-type]


def _cells(file: str) -> NDArray[Any]:
    """The rows of a file, (N, X), in the units of the file."""
    values = open_source(file).values
    return values.reshape(len(values), -1)


def classification_table(report: dict[str, Any]) -> str:
    """Accuracy, and the confusion table, for a person."""
    names = [str(label) for label in report["classes"]]
    width = max(len(cell) for row in [names, *report["confusion"]] for cell in map(str, row)) + 2
    lines = ["true \\ found".ljust(14) + "".join(name.rjust(width) for name in names)]
    for name, row in zip(names, report["confusion"], strict=True):
        lines.append(name.ljust(14) + "".join(str(cell or ".").rjust(width) for cell in row))
    accuracy, error = 100 * report["accuracy"], 100 * report["standard_error"]
    first = f"accuracy {accuracy:.2f} % ± {error:.2f} on {report['test_rows']} test rows"
    return "\n".join([first, "", *lines])


def _array(rows: Rows) -> NDArray[np.float32]:
    x: NDArray[np.float32] = rows.all().numpy()
    return x
