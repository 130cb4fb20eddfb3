"""Classification: which labels are seen, how often a classifier is right, classes of new rows."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from aevb.data import (
    Binarization,
    Column,
    Dataset,
    Rows,
    Source,
    all_rows,
    open_source,
    read_values,
    split,
)
from aevb.data.named import NAMES
from aevb.data.source import UNLABELED
from aevb.errors import DataError, ModelFileError, UsageError, reason
from aevb.estimator import VAE, SemiSupervisedVAE, VAEClassifier
from aevb.estimator.parts import kind_of
from aevb.files import replace_atomically
from aevb.randomness import Stream, generator
from aevb.storage.files import read_json, to_json
from aevb.workflow.outputs import number, write_csv

Labels = NDArray[np.int64]
Classifier = VAEClassifier | SemiSupervisedVAE
ABOUT = "classification.json"
"""What `aevb classify` said, kept beside the classifier."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which classifier, from which labels: the options of `aevb classify` that decide it."""

    model: Literal["bayes", "m1", "m2", "m1+m2"]
    label: str | None
    labels: int | None
    classification: float
    samples: int
    binarize: str
    limit: int | None
    seed: int


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
    known = np.flatnonzero(labels != UNLABELED)
    classes = np.unique(labels[known])
    if not len(classes) <= count <= len(known):
        raise UsageError(
            f"--labels must lie between the {len(classes)} classes and the {len(known)} training "
            f"rows that have one, found {count}"
        )
    order = known[generator(seed, Stream.SUBSET).permutation(len(known))]
    # The first of each class come before all second ones, so that every class has its share.
    turn = np.empty(len(order), np.int64)
    for k in classes:
        own = labels[order] == k
        turn[own] = np.arange(own.sum())
    kept = order[np.argsort(turn, kind="stable")[:count]]
    seen = np.full(len(labels), UNLABELED)
    seen[kept] = labels[kept]
    return seen


def labeled_data(name: str, choice: Choice) -> Dataset:
    """Data of which some training and test rows have a class, split; DataError for others."""
    source = open_source(name, label=choice.label)
    if source.labels is None:
        raise DataError(
            f"{name} has no labels to learn from: say by --label which column of a table holds the "
            "class, sort images into a folder for each class, or name digits, mnist or "
            "fashion-mnist"
        )
    if source.columns and choice.binarize != "none":
        raise UsageError(f"--binarize {choice.binarize} is of grey levels, and {name} is a table")
    data = split(source, Binarization(choice.binarize), limit=choice.limit)
    for part, rows in (("training", data.train), ("test", data.test)):
        assert rows.labels is not None
        if (rows.labels == UNLABELED).all():
            raise DataError(f"{name}: none of the {len(rows)} {part} rows has a class")
    return data


def classifier_of(choice: Choice, settings: VAE, features: VAE) -> Classifier:
    """The classifier that was chosen: `settings` are those of its densities, `features` M1's."""
    if choice.model == "bayes":
        return VAEClassifier(settings, samples=choice.samples)
    return SemiSupervisedVAE(
        settings,
        model=choice.model,
        features=settings if choice.model == "m1" else features,
        classification=choice.classification,
    )


def learn(classifier: Classifier, data: Dataset, seen: Labels) -> float:
    """Fit to the training rows with these labels; the seconds that it took.

    Bayes' rule learns from the rows with a label alone.
    """
    begun = time.perf_counter()
    rows = data.train
    if isinstance(classifier, VAEClassifier):
        known = np.flatnonzero(seen != UNLABELED)
        rows, seen = rows.pick(known), seen[known]
    classifier.fit(_given(data.source, rows), _named(data.source, seen))
    return time.perf_counter() - begun


def judged(classifier: Classifier, source: Source, rows: Rows) -> dict[str, Any]:
    """How often it is right on rows with a label, with its standard error, and what it takes for
    what.

        s = sqrt(a (1 - a) / N)

    The confusion table has a row for each true class and a column for each predicted one.
    """
    from sklearn.metrics import confusion_matrix  # late: it imports pandas

    assert rows.labels is not None
    rows = rows.pick(np.flatnonzero(rows.labels != UNLABELED))
    assert rows.labels is not None
    truth, known = _named(source, rows.labels), classifier.classes_
    found = classifier.predict(_given(source, rows))
    if truth.dtype.kind != "i" or known.dtype.kind != "i":  # some have names: 1 is "1" then
        truth, found, known = truth.astype(str), found.astype(str), known.astype(str)
    accuracy = float((found == truth).mean())
    classes = np.union1d(known, truth)
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
    settings: Mapping[str, Any],
    features: Mapping[str, Any],
    *,
    out: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Learn from training rows, and say how often the classifier is right on test rows.

    `settings` are parameters of a `VAE`, as are `features`, of M1.
    """
    if out is not None and choice.model == "m1":
        raise UsageError("--out keeps bayes, m2 and m1+m2: the classifier of m1 is scikit-learn's")
    data = labeled_data(name, choice)
    # An empty cell of a table was not observed.
    more: dict[str, Any] = {"allow_nan": bool(data.source.missing), "random_state": choice.seed}
    classifier = classifier_of(choice, VAE(**settings, **more), VAE(**features, **more))
    assert data.train.labels is not None
    seen = keep_labels(data.train.labels, choice.labels, choice.seed)
    known = int((seen != UNLABELED).sum())
    report(f"{name}: {len(seen)} training rows, {known} with a label, model {choice.model}")
    seconds = learn(classifier, data, seen)
    about: dict[str, Any] = {"data": name, "label": choice.label, "binarize": choice.binarize}
    about |= {"model": choice.model, "rows": len(seen), "labels": known, "seed": choice.seed}
    about |= {"scale": data.source.scale, "seconds": seconds, "run": out and str(out)}
    about |= judged(classifier, data.source, data.test)
    if out is not None:
        classifier.save(out)
        replace_atomically(out / ABOUT, to_json(about))
    return about


def predicted(folder: Path, name: str, target: Path | None) -> dict[str, Any]:
    """The classes that a saved classifier gives to rows: to a .csv, and how many of each.

    A named set is read at its test rows, a file whole; where rows have labels, they say how often
    the classes are right.
    """
    kinds: dict[str, type[Classifier]] = {
        kind.__name__: kind for kind in (VAEClassifier, SemiSupervisedVAE)
    }
    kind = kind_of(folder)
    if kind not in kinds:
        raise ModelFileError(f"{folder} holds a {kind[:30]}, which is no classifier")
    classifier = kinds[kind].load(folder)
    source, rows = _new_rows(classifier, name, _About.of(folder))
    log_proba = classifier.predict_log_proba(_given(source, rows))
    best = log_proba.argmax(axis=1)
    classes = [str(label) for label in classifier.classes_.tolist()]
    if target is not None:
        both = zip(best, np.exp(log_proba), strict=True)
        cells = ([classes[k], *map(number, probabilities)] for k, probabilities in both)
        write_csv(target, ["class", *(f"p({label})" for label in classes)], cells)
    counts = np.bincount(best, minlength=len(classes)).tolist()
    report = {"run": str(folder), "data": name, "rows": len(rows), "out": target and str(target)}
    report |= {"counts": dict(zip(classes, counts, strict=True))}
    labeled = rows.labels is not None and bool((rows.labels != UNLABELED).any())
    return report | (judged(classifier, source, rows) if labeled else {})


class _About(BaseModel):
    """What a kept classifier must know of the rows that it learned from."""

    model_config = ConfigDict(extra="ignore", strict=True)

    label: str | None = None
    binarize: Literal["none", "threshold"] = "none"
    scale: float = 1.0

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Of a classifier that `aevb classify` kept, or the usual one of another's."""
        file = folder / ABOUT
        if not file.exists():
            return cls()
        try:
            return cls(**read_json(file))
        except ValidationError as error:
            raise ModelFileError(f"{file} is damaged ({reason(error)}): learn again") from error


def _new_rows(classifier: Classifier, name: str, about: _About) -> tuple[Source, Rows]:
    """Rows to classify, as the classifier saw those of its training, and the source of them."""
    binarize = Binarization(about.binarize)
    if name in NAMES:
        source = open_source(name)
        return source, split(source, binarize).test
    columns = classifier.columns_ or (Column("", "real"),) * classifier.n_features_in_
    source = open_source(name, like=columns, label=about.label).at_scale(about.scale)
    return source, all_rows(source, binarize)


def _given(source: Source, rows: Rows) -> Source:
    """Rows for an estimator: of a table with its columns, else numbers in the model's units."""
    if not source.columns:
        return replace(read_values(rows.all().numpy(), like=()), name=source.name)
    values = source.values[rows.index]
    missing = int(np.isnan(values).sum()) if source.missing else 0
    return replace(source, values=values, labels=None, splits=None, missing=missing)


def _named(source: Source, labels: Labels) -> NDArray[Any]:
    """Labels as a person calls them: the names of classes, where they have some."""
    if not source.classes:
        return labels
    return np.array([UNLABELED if k == UNLABELED else source.classes[k] for k in labels], object)


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
