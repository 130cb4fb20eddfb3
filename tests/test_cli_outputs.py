"""What the commands print and write: evaluations, codes, pictures, runs on files of a user's."""

import shutil

import numpy as np
import pytest
from helpers import TRAIN, good, printed, refused

from aevb.evaluation import batches
from aevb.storage import RunFolder
from aevb.workflow import scores
from aevb.workflow.material import Material
from aevb.workflow.pictures import KINDS, pictures_of

ROWS = 180
"""Test rows of digits."""


def read(path):
    if path.suffix == ".npy":
        return np.load(path)
    text = path.read_text()
    return np.loadtxt(path, delimiter=",", ndmin=2, skiprows=int(text[0].isalpha()))


# --- evaluate ------------------------------------------------------------------------------------

AGREED = {
    "method",
    "samples",
    "n",
    "mean",
    "standard_error",
    "monte_carlo_error",
    "direction",
    "unit",
    "bits_per_dimension",
    "data",
    "binarize",
}


def test_evaluate_prints_the_object_that_was_agreed(digits):
    report = good("evaluate", digits, "--samples", 30)
    assert report.keys() >= AGREED
    fixed = {name: report[name] for name in ("method", "samples", "n", "direction", "unit")}
    assert fixed == {
        "method": "importance",
        "samples": 30,
        "n": ROWS,
        "direction": "lower",
        "unit": "nats",
    }
    assert report["data"] == "digits test"
    assert report["binarize"] == "none"
    assert report["bits_per_dimension"] == pytest.approx(-report["mean"] / (64 * np.log(2)))
    assert report["mean"] >= report["elbo"]["mean"]
    assert report["elbo"]["mean"] == pytest.approx(report["reconstruction"] - report["kl"])
    assert report["latent_dim"] == 2
    bound = good("evaluate", digits, "--samples", 30, "--method", "elbo")
    assert bound["method"] == "elbo"
    assert bound["mean"] == report["elbo"]["mean"]


def test_the_table_for_people_has_the_numbers_of_the_object(digits):
    report = good("evaluate", digits, "--samples", 10)
    text = printed("evaluate", digits, "--samples", 10)
    assert f"{report['mean']:.2f} ± {report['standard_error']:.2f}" in text
    assert f"{report['elbo']['mean']:.2f}" in text
    assert "10 samples" in text
    assert text in (digits / "README.md").read_text()


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
@pytest.mark.parametrize("method", ["importance", "elbo"])
def test_the_values_of_each_datum_have_the_printed_mean(digits, tmp_path, suffix, method):
    path = tmp_path / f"values{suffix}"
    report = good(
        "evaluate", digits, "--samples", 5, "--method", method, "--values", path, "--seed", 4
    )
    values = read(path)
    assert values.shape == (ROWS, 1)
    assert report["values"] == str(path)
    assert values.mean() == pytest.approx(report["mean"], rel=1e-8)
    error = values.std(ddof=1) / np.sqrt(ROWS)
    assert error == pytest.approx(report["standard_error"], rel=1e-6)


def test_an_evaluation_depends_on_its_seed_and_split_alone(digits):
    def mean(*options):
        return good("evaluate", digits, "--samples", 3, *options)["mean"]

    assert mean() == mean()
    assert mean("--data-limit", 20) == mean("--data-limit", 20)
    others = [mean("--seed", 1), mean("--split", "validation"), mean("--data-limit", 20)]
    assert len({mean(), *others}) == 4


def test_one_sample_has_no_monte_carlo_error(digits):
    options = ["--samples", 1, "--data-limit", 1]
    report = good("evaluate", digits, *options)
    assert report["monte_carlo_error"] is None
    assert report["standard_error"] is None
    assert "unknown" in printed("evaluate", digits, *options)


def test_evaluate_refuses_a_file_it_cannot_write_before_it_works(digits, monkeypatch):
    monkeypatch.setattr(scores, "score", lambda *a, **k: pytest.fail("worked first"))
    assert ".npy or .csv" in refused(2, "evaluate", digits, "--values", "values.txt")


def test_several_methods_stand_side_by_side(digits):
    options = ["--method", "elbo,ais,exact", "--temperatures", 5, "--data-limit", 4]
    report = good("evaluate", digits, *options)
    assert [found["method"] for found in report["estimates"]] == ["elbo", "ais", "exact"]
    assert (report["method"], report["mean"]) == ("elbo", report["estimates"][0]["mean"])
    assert report["estimates"][1]["samples"] == 16
    assert report["estimates"][1]["temperatures"] == 5
    (sandwich,) = report["sandwiches"]
    assert sandwich["methods"] == ["ais", "exact"]
    assert sandwich["bounds"][0] <= sandwich["bounds"][1] + 0.5
    text = printed("evaluate", digits, *options)
    assert "ais, 16 chains of 5 temperatures" in text
    assert "exact, by quadrature" in text
    assert f"and {sandwich['bounds'][1]:.2f} nats, by ais and exact on digits test" in text


def test_both_sides_on_rows_of_the_model(digits):
    options = ["--method", "bidirectional", "--temperatures", 5, "--data-limit", 4]
    report = good("evaluate", digits, *options, "--start", "prior", "--samples", 2)
    lower, upper = report["estimates"]
    assert (lower["direction"], upper["direction"]) == ("lower", "upper")
    assert lower["data"] == "simulated"
    assert lower["start"] == "prior"
    assert lower["samples"] == 2
    assert "simulated rows" in printed("evaluate", digits, *options)


def test_an_evaluation_says_when_its_weights_cannot_be_trusted(digits):
    options = ["--samples", 200, "--proposals", "encoder,prior", "--data-limit", 20]
    report = good("evaluate", digits, *options)
    assert report["estimates"][0]["proposals"] == {"encoder": 180, "prior": 20}
    assert report["pareto_k"]["limit"] == pytest.approx(1 - 1 / np.log10(200))
    text = printed("evaluate", digits, *options)
    reliable = report["pareto_k"]["verdict"] == "reliable"
    assert ("Pareto k above" in text) != reliable


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--method", "mcmc"], "'mcmc' is not known: choose of importance, elbo, ais"),
        (["--method", ","], "no method was named"),
        (["--proposals", "decoder"], "proposals are one or more of encoder, fitted, prior"),
        (["--method", "ais", "--temperatures", "1"], "--temperatures"),
        (["--temperatures", "50"], "--temperatures is for the methods ais, bidirectional"),
        (["--method", "exact", "--samples", "9"], "says nothing to exact: leave it out"),
        (["--method", "ais", "--proposals", "prior"], "--proposals is for the methods importance"),
        (["--method", "hmc", "--precision", "bfloat16"], "--precision is for the methods"),
        (["--method", "hmc", "--samples", "7"], "multiple of 4"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(digits, options, sentence):
    assert sentence in refused(2, "evaluate", digits, *options)


def test_a_stopped_evaluation_goes_on_and_leaves_nothing_behind(copy, monkeypatch):
    options = ["--method", "ais", "--temperatures", 4, "--data-limit", 6, "--samples", 2]
    whole = good("evaluate", copy, *options)
    assert not (copy / "unfinished").exists()
    monkeypatch.setattr(batches, "CELLS_AT_ONCE", {"cpu": 512})  # two rows at a time
    original = scores.estimate

    def stopped(*arguments, **given):
        def stop(done, total):
            if done == 4:
                raise KeyboardInterrupt

        return original(*arguments, **given | {"progress": stop})

    monkeypatch.setattr(scores, "estimate", stopped)
    assert refused(130, "evaluate", copy, *options) == "interrupted"
    assert len(list((copy / "unfinished").iterdir())) == 1
    monkeypatch.setattr(scores, "estimate", original)
    report = good("evaluate", copy, *options)
    assert report["mean"] == pytest.approx(whole["mean"], abs=1e-4)
    assert not (copy / "unfinished").exists()
    # what an earlier evaluation said of the same weights stays beside it
    good("evaluate", copy, "--samples", 3)
    good("evaluate", copy, *options)
    assert RunFolder(copy).evaluation()["importance"]["samples"] == 3


# --- codes and pictures --------------------------------------------------------------------------

DELIVERIES = {
    "sample": (["--n", "12"], "samples.npy", (12, 64)),
    "reconstruct": ([], "reconstructions.npy", (ROWS, 64)),
    "encode": ([], "codes.npy", (ROWS, 2)),
    "interpolate": (["--from", "3", "--to", "9", "--steps", "5"], "interpolation.npy", (5, 64)),
}


@pytest.mark.parametrize("command", DELIVERIES)
def test_arrays_go_into_the_run_or_where_they_are_asked_for(copy, tmp_path, command):
    options, default, shape = DELIVERIES[command]
    told = good(command, copy, *options)
    assert told == {"out": str(copy / default), "shape": list(shape)}
    array = np.load(copy / default)
    assert array.shape == shape
    assert np.isfinite(array).all()
    for suffix in (".npy", ".csv"):
        path = tmp_path / "deep" / "er" / f"array{suffix}"
        assert (
            printed(command, copy, *options, "--out", path) == f"{path}: {shape[0]} x {shape[1]}\n"
        )
        assert np.allclose(read(path), array, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("command", ["sample", "reconstruct", "interpolate"])
def test_pictures_are_drawn_on_request(digits, tmp_path, command):
    path = tmp_path / "picture.png"
    more = ["--data-limit", 10] if command == "reconstruct" else []
    printed(command, digits, *more, "--out", path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "option", "name", "known"),
    [
        ("sample", "--out", "x.txt", ".npy, .csv or .png"),
        ("sample", "--latent", "z.png", ".npy or .csv"),
        ("encode", "--out", "z.png", ".npy or .csv"),
        ("score", "--out", "s.png", ".csv or .npy"),
        ("evaluate", "--values", "v.txt", ".npy or .csv"),
        ("gradients", "--figure", "f.pdf", ".png"),
        ("report", "--out", "r.pdf", ".html"),
    ],
)
def test_an_unknown_suffix_is_refused_at_once(tmp_path, command, option, name, known):
    said = f"{option} {tmp_path / name} must end in {known}"
    assert refused(2, command, tmp_path / "nowhere", option, tmp_path / name) == said


def test_what_was_meant_is_said(digits, tmp_path):
    said = refused(2, "evaluate", digits, "rows.csv")
    assert said.endswith(f"`aevb score {digits} rows.csv` takes others")
    said = refused(2, "plot", digits, "all", "--out", tmp_path / "all.png")
    assert said.endswith("all.png: all pictures go into a folder, and this is the name of one")
    assert not list(tmp_path.iterdir())
    draws = tmp_path / "draws.npy"
    good("encode", digits, "--samples", 3, "--out", draws)
    said = f"{draws}: expected codes of shape (N, 2), found more axes, as `encode --samples` writes"
    assert refused(3, "decode", digits, draws).startswith(said)


def test_encode_then_decode_is_reconstruct(digits, tmp_path):
    codes, decoded, direct = (tmp_path / name for name in ("codes.npy", "decoded.npy", "r.npy"))
    printed("encode", digits, "--out", codes)
    printed("decode", digits, codes, "--out", decoded)
    printed("reconstruct", digits, "--out", direct)
    assert np.allclose(np.load(decoded), np.load(direct), atol=1e-6)
    printed("interpolate", digits, "--from", 3, "--to", 9, "--out", tmp_path / "line.npy")
    line = np.load(tmp_path / "line.npy")
    assert np.allclose(line[[0, -1]], np.load(direct)[[2, 8]], atol=1e-6)


def test_samples_follow_the_seed_and_draws_lie_in_the_space_of_the_data(digits, tmp_path):
    def sample(*options):
        printed("sample", digits, "--n", 4, "--out", tmp_path / "s.npy", *options)
        return np.load(tmp_path / "s.npy")

    assert np.array_equal(sample(), sample())
    assert not np.array_equal(sample(), sample("--seed", 1))
    drawn = sample("--draw")
    assert not np.array_equal(sample(), drawn)
    assert np.array_equal(drawn, sample("--draw"))
    printed(*TRAIN, "--binarize", "threshold", "--epochs", 1, "--quiet", "--out", tmp_path / "run")
    printed("sample", tmp_path / "run", "--draw", "--out", tmp_path / "s.npy")
    assert set(np.unique(np.load(tmp_path / "s.npy"))) == {0.0, 1.0}


def test_a_data_limit_is_the_same_rows_at_every_call(digits, tmp_path):
    codes = []
    for name in ("a.npy", "b.npy", "all.npy"):
        limit = [] if name == "all.npy" else ["--data-limit", 7]
        printed("encode", digits, "--out", tmp_path / name, *limit)
        codes.append(np.load(tmp_path / name))
    assert np.array_equal(codes[0], codes[1])
    assert codes[0].shape == (7, 2)
    nearest = np.abs(codes[2][None] - codes[0][:, None]).max(-1).min(1)
    assert (nearest < 1e-5).all()


def test_all_pictures_or_a_sentence(digits, tmp_path):
    (tmp_path / "file").write_text("")
    sentence = refused(2, "plot", digits, "--out", tmp_path / "file" / "figures")
    assert "cannot be written" in sentence


def test_a_manifold_needs_two_dimensions(numbers):
    _, folder = numbers
    assert "two latent dimensions" in refused(2, "plot", folder, "manifold")
    left_out = set(KINDS) - set(pictures_of(Material(RunFolder(folder))))
    assert left_out == {"samples", "manifold", "training"}


# --- the user's own files ------------------------------------------------------------------------


@pytest.fixture(params=[".npy", ".npz", ".csv"])
def file(request, numbers, tmp_path):
    """The table in each format."""
    rows = read(numbers[0])
    path = tmp_path / f"mine{request.param}"
    if request.param == ".csv":
        return shutil.copy(numbers[0], path)
    np.save(path, rows) if request.param == ".npy" else np.savez(path, x=rows)
    return path


def test_files_of_every_format_train_and_encode_alike(numbers, file, tmp_path):
    options = ["--hidden", "4", "--latent-dim", "3", "--epochs", "2"]
    result = good("train", file, *options, "--out", tmp_path / "run")
    assert result["likelihood"] == "gaussian"
    bound = RunFolder(numbers[1]).history()[-1]["train"]["elbo"]
    last = RunFolder(tmp_path / "run").history()[-1]["train"]["elbo"]
    assert last == pytest.approx(bound, rel=1e-4)
    printed("encode", numbers[1], file, "--out", tmp_path / "codes.npy")
    printed("encode", numbers[1], numbers[0], "--out", tmp_path / "expected.npy")
    codes = np.load(tmp_path / "codes.npy")
    assert codes.shape == (60, 3)
    assert np.allclose(codes, np.load(tmp_path / "expected.npy"), atol=1e-5)


def test_pictures_of_a_table_are_drawn_too(numbers, tmp_path):
    printed("sample", numbers[1], "--out", tmp_path / "samples.png")
    printed("reconstruct", numbers[1], "--out", tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_new_rows_are_binarized_as_the_runs_own(tmp_path):
    rows = np.random.default_rng(0).random((30, 4))
    np.save(tmp_path / "grey.npy", rows)
    np.save(tmp_path / "binary.npy", (rows > 0.5).astype(np.uint8))
    options = ["--binarize", "threshold", "--hidden", 3, "--latent-dim", 2, "--epochs", 1]
    printed("train", tmp_path / "grey.npy", *options, "--quiet", "--out", tmp_path / "run")
    assert RunFolder(tmp_path / "run").settings().likelihood == "bernoulli"
    for name in ("grey", "binary"):
        path = tmp_path / f"{name}.npy"
        printed("encode", tmp_path / "run", path, "--out", tmp_path / f"{name}-codes.npy")
    codes = [np.load(tmp_path / f"{name}-codes.npy") for name in ("grey", "binary")]
    assert np.array_equal(*codes)


def test_data_that_changed_since_training_are_refused(tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 4))
    path, run = tmp_path / "rows.npy", tmp_path / "run"
    np.save(path, rows)
    options = ["--hidden", 3, "--latent-dim", 2, "--epochs", 1, "--quiet", "--out", run]
    printed("train", path, *options)
    np.save(path, rows + 1)
    assert "has changed since" in refused(3, "evaluate", run)
    assert "has changed since" in refused(3, "train", path, "--out", run, "--resume")
    path.unlink()
    assert str(path) in refused(3, "evaluate", run)


def test_data_lists_the_sets_and_describes_one(numbers):
    rows = good("data")["data"]
    assert {"digits", "mnist", "frey-face", "omniglot"} <= {row["name"] for row in rows}
    text = printed("data")
    assert all(row["name"] in text for row in rows)
    facts = good("data", "digits")
    assert (facts["rows"], facts["shape"]) == (1797, "1x8x8")
    assert facts["train"] + facts["validation"] + facts["test"] == 1797
    assert facts["likelihood"] in printed("data", "digits")
    facts = good("data", numbers[0])
    assert (facts["rows"], facts["shape"], facts["likelihood"]) == (60, "5", "gaussian")
