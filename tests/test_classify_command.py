"""`aevb classify` and `aevb predict`: accuracy that can be counted again, files, refusals."""

import csv
import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from aevb.cli import main
from aevb.errors import UsageError
from aevb.workflow.classify import keep_labels

SMALL = ["--latent-dim", "2", "--hidden", "16", "--epochs", "3"]


def run(capsys, *arguments):
    """What a command prints, as JSON, and its exit code."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out), end.value.code


def test_labels_are_kept_in_even_shares():
    labels = np.repeat([0, 1, 2], [50, 30, 5])
    for count in (3, 10, 15, 40, 85):
        seen = keep_labels(labels, count, seed=1)
        kept = seen >= 0
        assert kept.sum() == count
        assert (seen[kept] == labels[kept]).all()
        shares = np.bincount(seen[kept], minlength=3)
        most = np.minimum(np.bincount(labels), shares.max())
        assert (most - shares <= 1).all()
    assert (keep_labels(labels, 10, 1) == keep_labels(labels, 10, 1)).all()
    assert (keep_labels(labels, 10, 1) != keep_labels(labels, 10, 2)).any()
    assert keep_labels(labels, None, 0) is labels
    for wrong in (2, 86):
        with pytest.raises(UsageError, match="--labels must lie between the 3 classes and the 85"):
            keep_labels(labels, wrong, 0)


@pytest.mark.parametrize("model", ["bayes", "m1", "m2", "m1+m2"])
def test_every_model_is_judged_on_test_rows(capsys, model):
    features = ["--features-dim", "3", "--features-hidden", "16"]
    report, code = run(
        capsys, "classify", "digits", "--model", model, "--labels", 200, *SMALL, *features
    )
    assert code == 0
    assert (report["labels"], report["test_rows"]) == (200, 180)
    table = np.array(report["confusion"])
    assert table.shape == (10, 10)
    assert report["accuracy"] == pytest.approx(np.trace(table) / 180)
    a = report["accuracy"]
    assert report["standard_error"] == pytest.approx((a * (1 - a) / 180) ** 0.5)


def test_a_kept_classifier_says_the_classes_of_new_rows(capsys, tmp_path):
    kept, target = tmp_path / "kept", tmp_path / "predictions.csv"
    first, code = run(capsys, "classify", "digits", *SMALL, "--out", kept)
    assert code == 0
    again, code = run(capsys, "predict", kept, "digits", "--out", target)
    assert code == 0
    assert again["accuracy"] == first["accuracy"]
    assert again["confusion"] == first["confusion"]
    with target.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["class", *(f"p({k})" for k in range(10))]
    assert len(rows) == 180
    for row in rows:
        p = np.array(row[1:], float)
        assert p.sum() == pytest.approx(1, abs=1e-6)
        assert int(row[0]) == p.argmax()
    # A file of the same rows, in the units that the model saw.
    np.save(tmp_path / "rows.npy", load_digits().data[:20] / 16)
    report, code = run(capsys, "predict", kept, tmp_path / "rows.npy")
    assert code == 0
    assert sum(report["counts"].values()) == 20
    assert "accuracy" not in report


def test_a_person_gets_a_table(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["classify", "digits", *SMALL, "--quiet"])
    said = capsys.readouterr().out
    assert said.startswith("accuracy ")
    assert "true \\ found" in said


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["classify", "rows.csv"], 3, "has no labels"),
        (["classify", "digits", "--labels", "4"], 2, "--labels must lie between"),
        (["classify", "digits", "--model", "m1", "--out", "OUT/x"], 2, "--out keeps bayes"),
        (["classify", "digits", "--out", "OUT"], 2, "exists already"),
        (["predict", "OUT", "digits"], 4, "index.json does not exist"),
        (["predict", "OUT", "digits", "--out", "x.txt"], 2, "must end in .csv"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(capsys, tmp_path, arguments, code, sentence):
    arguments = [str(a).replace("OUT", str(tmp_path)) for a in arguments]
    report, found = run(capsys, *arguments)
    assert found == code
    assert sentence in report["error"]
