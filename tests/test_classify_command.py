"""`aevb classify` and `aevb predict`: accuracy that can be counted again, files, refusals."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_iris

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
    some = np.where(np.arange(85) % 2, labels, -1)  # rows without a class are none to choose from
    seen = keep_labels(some, 12, 0)
    assert (seen >= 0).sum() == 12
    assert (seen[::2] == -1).all()
    assert sorted(np.bincount(seen[seen >= 0])) == [2, 5, 5]
    with pytest.raises(UsageError, match="the 42 training rows"):
        keep_labels(some, 43, 0)


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


def test_new_rows_in_bytes_are_read_as_the_training_rows_were(capsys, tmp_path):
    kept, digits = tmp_path / "kept", load_digits().data
    for i, treatment in enumerate(("none", "threshold")):
        kept = tmp_path / str(i)
        options = [*SMALL, "--binarize", treatment, "--out", kept]
        assert run(capsys, "classify", "digits", *options)[1] == 0
        said = []
        for x in (digits / 16, digits, digits.astype(np.uint8)):
            np.save(tmp_path / "rows.npy", x)
            said.append(run(capsys, "predict", kept, tmp_path / "rows.npy")[0]["counts"])
        assert said[0] == said[1] == said[2]
        assert min(said[0].values()) < 1700


KINDS = np.array(["setosa", "versicolor", "virginica"])


def flowers(path, *, rows=slice(None), kind=True, unknown=()):
    """Irises as a table with a column of text, and the kind of each but of those not known."""
    X, y = load_iris(return_X_y=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["length", "width", *(["kind"] if kind else []), "petal", "breadth", "size"]
        )
        for n in range(len(X))[rows]:
            said = [] if not kind else ["" if n in unknown else KINDS[y[n]]]
            size = "large" if X[n, 0] > 5.8 else "small"
            writer.writerow([*X[n, :2], *said, *X[n, 2:], size])
    return path


@pytest.mark.parametrize("model", ["bayes", "m1", "m2", "m1+m2"])
def test_a_column_of_a_table_says_the_class(capsys, tmp_path, model):
    table = flowers(tmp_path / "irises.csv", unknown=range(0, 150, 10))
    options = ["--epochs", 60, "--lr", 0.02, "--features-dim", 2, "--features-hidden", 16]
    small = ["--latent-dim", 1, "--hidden", 16, "--samples", 20]
    report, code = run(
        *(capsys, "classify", table, "--label", "kind", "--model", model, *small, *options)
    )
    assert code == 0
    assert report["classes"] == KINDS.tolist()
    assert report["rows"] == 120
    assert 90 < report["labels"] < 120  # an empty cell is a row without a class
    assert report["test_rows"] <= 15
    assert report["accuracy"] > 0.7


def test_a_kept_classifier_of_a_table_takes_it_with_and_without_the_class(capsys, tmp_path):
    kept = tmp_path / "kept"
    options = ["--epochs", 60, "--lr", 0.02, "--latent-dim", 1, "--hidden", 16]
    table = flowers(tmp_path / "irises.csv")
    assert run(capsys, "classify", table, "--label", "kind", *options, "--out", kept)[1] == 0
    said, code = run(capsys, "sample", kept)
    assert code == 4
    assert said["error"].endswith("is a classifier, of a run for each part: aevb predict takes it")
    said, code = run(capsys, "predict", kept, table, "--out", tmp_path / "all.csv")
    assert code == 0
    with (tmp_path / "all.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["class", *(f"p({kind})" for kind in KINDS)]
    truth = KINDS[load_iris().target]
    found = np.array([row[0] for row in rows])
    assert said["accuracy"] == pytest.approx((found == truth).mean())
    assert said["accuracy"] > 0.8
    # The same rows without their class, and a few of one kind alone, with every text in its place.
    bare = flowers(tmp_path / "bare.csv", kind=False, rows=slice(0, 20))
    report, code = run(capsys, "predict", kept, bare, "--out", tmp_path / "bare-out.csv")
    assert code == 0
    assert "accuracy" not in report
    assert report["rows"] == 20
    with (tmp_path / "bare-out.csv").open(newline="") as stream:
        again = list(csv.reader(stream))[1:]
    np.testing.assert_allclose(
        *(np.array([row[1:] for row in some], float) for some in (again, rows[:20])), atol=1e-9
    )
    # Another table is none of its own.
    report, code = run(capsys, "predict", kept, "digits")
    assert code == 3
    assert "digits: expected 5 columns as the model was fitted on, found 64" in report["error"]


def test_a_class_may_be_one_of_many_texts(capsys, tmp_path):
    rows = "".join(f"{i % 150}.5,{i % 7}.25,species {i % 150:03d}\n" for i in range(600))
    (tmp_path / "t.csv").write_text("x,y,kind\n" + rows)
    options = ["--epochs", 1, "--latent-dim", 1, "--hidden", 4, "--model", "m1"]
    report, code = run(capsys, "classify", tmp_path / "t.csv", "--label", "kind", *options)
    assert (code, len(report["classes"])) == (0, 150), report
    report, code = run(capsys, "train", tmp_path / "t.csv", "--out", tmp_path / "run")
    assert code == 3
    assert "column 3 ('kind'): the column holds text with 150 different values" in report["error"]


def test_a_column_is_called_by_its_number_where_there_is_no_header(capsys, tmp_path):
    X, y = load_iris(return_X_y=True)
    np.save(tmp_path / "rows.npy", np.column_stack([X[:, :2], y + 1, X[:, 2:]]))
    options = ["--epochs", 60, "--lr", 0.02, "--latent-dim", 1, "--hidden", 16]
    kept = tmp_path / "kept"
    report, code = run(
        capsys, "classify", tmp_path / "rows.npy", "--label", 3, *options, "--out", kept
    )
    assert code == 0
    assert report["classes"] == ["1", "2", "3"]
    whole, _ = run(capsys, "predict", kept, tmp_path / "rows.npy")
    np.save(tmp_path / "bare.npy", X)
    bare, _ = run(capsys, "predict", kept, tmp_path / "bare.npy")
    assert whole["accuracy"] > 0.7
    assert bare["counts"] == whole["counts"]
    assert "accuracy" not in bare


def test_a_folder_for_each_class_says_the_class(capsys, tmp_path):
    x, y = load_digits(return_X_y=True)
    for n in np.flatnonzero(y < 2)[:120]:
        folder = tmp_path / "digits" / ["zero", "one"][y[n]]
        folder.mkdir(parents=True, exist_ok=True)
        picture = np.minimum(x[n].reshape(8, 8) * 16, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{n}.png")
    kept = tmp_path / "kept"
    report, code = run(
        *(capsys, "classify", tmp_path / "digits", *SMALL, "--likelihood", "gaussian"),
        *("--epochs", 30, "--lr", 0.01, "--out", kept),
    )
    assert code == 0
    assert report["classes"] == ["one", "zero"]
    again, code = run(capsys, "predict", kept, tmp_path / "digits")
    assert code == 0
    assert again["test_rows"] == 120
    assert again["accuracy"] > 0.9


def test_grey_levels_are_cut_again_as_they_were_when_it_learned(capsys, tmp_path):
    kept = tmp_path / "kept"
    options = (*SMALL, "--binarize", "threshold")
    first, _ = run(capsys, "classify", "digits", *options, "--out", kept)
    again, code = run(capsys, "predict", kept, "digits")
    assert code == 0
    assert again["confusion"] == first["confusion"]
    (kept / "classification.json").write_text('{"binarize": "sometimes"}')
    report, code = run(capsys, "predict", kept, "digits")
    assert code == 4
    assert "classification.json is damaged" in report["error"]


def test_what_is_no_class_is_said_in_a_sentence(capsys, tmp_path):
    table = flowers(tmp_path / "irises.csv")
    headless = tmp_path / "headless.csv"
    headless.write_text("1.5,2,1\n" * 20)
    few = flowers(tmp_path / "few.csv", unknown={*range(150)} - {2, 3, 51, 52})
    alone = tmp_path / "alone.csv"
    alone.write_text("kind\n" + "a\nb\n" * 10)
    unsaid = flowers(tmp_path / "unsaid.csv", unknown=range(150))
    days = tmp_path / "days.csv"
    days.write_text("x,day\n" + "".join(f"{i}.5,20240{i % 4}01\n" for i in range(40)))
    far = tmp_path / "far.npy"
    np.save(
        far, np.where(np.arange(80).reshape(40, 2) == 7, np.inf, np.arange(80).reshape(40, 2) % 4)
    )
    words = tmp_path / "words.npy"
    np.save(words, np.array([["1.5", "a"], ["2.5", "b"]] * 20))
    for arguments, sentence in [
        ((days, "--label", "day"), "whole numbers up to 16,777,216, found 2.024e+07 in line 2"),
        ((far, "--label", "2"), "expected classes, texts or whole numbers"),
        ((words, "--label", "2"), "expected real numbers, found text"),
        ((table,), "say by --label which column"),
        ((table, "--label", "petals"), "no column is called 'petals'"),
        (
            (table, "--label", "length"),
            "expected classes, texts or whole numbers up to 16,777,216, found 5.1 in line 2",
        ),
        ((headless, "--label", "kind"), "which of the columns 1 to 3 holds the class"),
        ((headless, "--label", "4"), "which of the columns 1 to 3 holds the class"),
        ((headless, "--label", "3"), "expected 2 to 1000 classes, found 1"),
        ((unsaid, "--label", "kind"), "expected 2 to 1000 classes, found 0"),
        ((alone, "--label", "kind"), "column 1 ('kind') is the only one"),
        ((few, "--label", "kind"), "none of the 15 test rows has a class"),
        ((tmp_path / "none.csv", "--label", "kind"), "does not exist"),
    ]:
        report, code = run(capsys, "classify", *arguments)
        assert (code, sentence in report["error"]) == (3, True), report
    for arguments, sentence in [
        (("digits", "--label", "kind"), "a label is a column of a table in a file"),
        ((table, "--label", "kind", "--binarize", "threshold"), "is of grey levels"),
        ((table, "--label", "kind", "--labels", 1000), "training rows that have one, found 1000"),
    ]:
        report, code = run(capsys, "classify", *arguments)
        assert (code, sentence in report["error"]) == (2, True), report


def test_a_person_gets_a_table(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["classify", "digits", *SMALL, "--quiet"])
    said = capsys.readouterr().out
    assert said.startswith("accuracy ")
    assert "true \\ found" in said


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["classify", "rows.csv"], 3, "rows.csv does not exist"),
        (["classify", "digits", "--labels", "4"], 2, "--labels must lie between"),
        (["classify", "digits", "--model", "m1", "--out", "OUT/x"], 2, "--out keeps bayes"),
        (["classify", "digits", "--out", "OUT"], 2, "exists already"),
        (["predict", "OUT", "digits"], 4, "index.json does not exist: name a folder that `aevb c"),
        (["predict", "OUT", "digits", "--out", "x.txt"], 2, "must end in .csv"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(capsys, tmp_path, arguments, code, sentence):
    arguments = [str(a).replace("OUT", str(tmp_path)) for a in arguments]
    report, found = run(capsys, *arguments)
    assert found == code
    assert sentence in report["error"]
