"""The command line: results on stdout, progress on stderr, one sentence and a code for errors."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import aevb
from aevb import cli
from aevb.errors import ModelFileError
from aevb.evaluation import batches
from aevb.storage import RunFolder, checkpoints
from aevb.workflow import scores, training
from aevb.workflow.pictures import KINDS

COMMANDS = [
    "train",
    "evaluate",
    "check",
    "gradients",
    "classify",
    "predict",
    "sample",
    "reconstruct",
    "encode",
    "decode",
    "interpolate",
    "traverse",
    "impute",
    "denoise",
    "score",
    "plot",
    "report",
    "export",
    "data",
    "reproduce",
]
TRAIN = ["train", "digits", "--hidden", "8", "--latent-dim", "2"]
ROWS = 180
"""Test rows of digits."""


@pytest.fixture
def good(call):
    """The stdout of a command that must succeed."""

    def run(*arguments):
        code, out, err = call(*arguments)
        assert code == 0, err
        return out

    return run


@pytest.fixture
def objects(good):
    """The object that a command prints with --json, alone on stdout, with nothing on stderr."""

    def run(*arguments):
        out = good(*arguments, "--json")
        assert out.count("\n") == 1
        return json.loads(out)

    return run


@pytest.fixture
def refused(call):
    """The sentence of a command that must fail with a code, the same with --json and without."""

    def run(expected, *arguments):
        code, out, err = call(*arguments)
        assert (code, out) == (expected, ""), err
        *_, last = err.splitlines()
        assert last.startswith("aevb: ")
        sentence = last.removeprefix("aevb: ")
        code, out, err = call(arguments[0], "--json", *arguments[1:])
        assert code == expected
        assert json.loads(out) == {"error": sentence, "exit_code": expected}
        assert err == ""
        return sentence

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A trained run, not to be changed."""
    run = tmp_path_factory.mktemp("cli") / "digits"
    return trained(run, *TRAIN, "--epochs", "4")


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A user's table of numbers, and a run trained on it."""
    folder = tmp_path_factory.mktemp("cli")
    rows = np.random.default_rng(0).normal(size=(60, 5))
    np.savetxt(folder / "rows.csv", rows, delimiter=",", fmt="%.9g")
    options = ["--hidden", "4", "--latent-dim", "3", "--epochs", "2"]
    run = trained(folder / "run", "train", str(folder / "rows.csv"), *options)
    return folder / "rows.csv", run


def trained(run, *arguments):
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "--quiet", "--out", str(run)])
    assert caught.value.code == 0
    return run


@pytest.fixture
def copy(digits, tmp_path):
    """A copy of the trained run, to be damaged."""
    return shutil.copytree(digits, tmp_path / "copy")


def aevb_process(*arguments):
    command = [sys.executable, "-m", "aevb.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def read(path):
    if path.suffix == ".npy":
        return np.load(path)
    return np.loadtxt(path, delimiter=",", ndmin=2)


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(good, command):
    text = good(command, "--help")
    assert text.startswith(f"Usage: aevb {command}")
    assert "--json" in text
    assert len(text.split("\n\n")[1].strip()) > 20


def test_help_lists_every_command(good):
    listed = good("--help").split("Commands:")[1]
    assert re.findall(r"^  ([a-z]+)  ", listed, re.MULTILINE) == COMMANDS


HELP = """
import sys, time
start = time.perf_counter()
from aevb import cli
try:
    cli.main(["--help"])
except SystemExit as error:
    heavy = {"torch", "numpy", "pydantic", "matplotlib", "sklearn"} & sys.modules.keys()
    print(error.code, sorted(heavy), file=sys.stderr)
    print(time.perf_counter() - start, file=sys.stderr)
"""


def test_help_answers_at_once_and_imports_nothing_heavy():
    process = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=True
    )
    verdict, seconds = process.stderr.splitlines()
    assert verdict == "0 []"
    assert float(seconds) < 1.5
    assert process.stdout.startswith("Usage: aevb")


def test_without_a_command_help_is_shown(call):
    _, out, err = call()
    assert "Commands:" in out + err


# --- train ---------------------------------------------------------------------------------------


def test_train_prints_the_object_that_was_agreed(objects, tmp_path):
    result = objects(*TRAIN, "--epochs", 3, "--out", tmp_path / "run", "--seed", 5)
    assert result["run"] == str(tmp_path / "run")
    assert result["epochs"] == 3
    assert result["precision"] == "float32"
    assert result["seed"] == 5
    assert result["threads"] == torch.get_num_threads()
    assert result["rows_per_second"] > 0
    assert 0 <= result["overhead"] <= 1
    for part in ("train", "validation"):
        numbers = result[part]
        assert numbers["elbo"] == pytest.approx(numbers["reconstruction"] - numbers["kl"])
    history = RunFolder(tmp_path / "run").history()
    best = max(record["validation"]["elbo"] for record in history)
    assert result["validation"]["elbo"] == best
    assert len(history) == 3


def test_a_run_folder_holds_what_was_agreed(digits):
    found = {path.name for path in digits.iterdir()}
    expected = {"model.safetensors", "config.json", "README.md", "metrics.jsonl", "checkpoints"}
    assert expected <= found
    card = (digits / "README.md").read_text()
    for fact in ("digits", "1437 training", "180 validation", "| latent_dim | 2 |", "4 epochs"):
        assert fact in card
    best = max(record["validation"]["elbo"] for record in RunFolder(digits).history())
    assert f"{best:.3f}" in card


def test_progress_goes_to_stderr_and_the_result_to_stdout(call, tmp_path):
    code, out, err = call(*TRAIN, "--epochs", 3, "--out", tmp_path / "a")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'a'}: 3 epochs, training bound")
    assert "epoch 3/3  validation bound" in err
    assert "epoch" not in out.replace("3 epochs", "")
    code, quiet, err = call(*TRAIN, "--epochs", 3, "--out", tmp_path / "b", "--quiet")
    assert err == ""
    assert quiet == out.replace(str(tmp_path / "a"), str(tmp_path / "b"))


def test_training_is_the_same_at_every_call_and_differs_by_seed(good, digits, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        options = ["--epochs", 4, "--seed", seed, "--quiet", "--out", tmp_path / name]
        good(*TRAIN, *options)
    weights = (digits / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights


def test_digits_are_the_data_where_none_are_named(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for expected in ("runs/digits", "runs/digits-2"):
        options = ["--hidden", 4, "--latent-dim", 2, "--epochs", 1, "--quiet"]
        assert good("train", *options).startswith(f"{expected}: 1 epochs")
        assert RunFolder(tmp_path / expected).settings().data == "digits"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"likelihood": "gaussian", "binarize": "none"}),
        (["--binarize", "threshold"], {"likelihood": "bernoulli", "binarize": "threshold"}),
        (["--likelihood", "gaussian"], {"likelihood": "gaussian", "binarize": "none"}),
        (["--network", "convolutional", "--hidden", "4,8"], {"hidden": (4, 8)}),
        (["--posterior", "full-covariance"], {"posterior": "full-covariance"}),
        (["--posterior", "per-datum"], {"posterior": "per-datum"}),
        (["--objective", "iwae", "--samples", "3"], {"objective": "iwae", "samples": 3}),
        (["--optimizer", "adagrad", "--lr", "0.05"], {"optimizer": "adagrad", "lr": 0.05}),
        (["--precision", "float64"], {"precision": "float64"}),
        (["--free-bits", "0.1", "--beta", "0.5"], {"free_bits": 0.1, "beta": 0.5}),
        (["--threads", "1", "--step", "eager"], {"threads": 1, "step": "eager"}),
        (["--weight-prior", "normal", "--clip", "1"], {"weight_prior": "normal", "clip": 1.0}),
    ],
    ids=str,
)
def test_options_reach_the_run_and_its_folder(objects, tmp_path, options, expected):
    options = ["--hidden", "4", "--latent-dim", "2", "--epochs", "1", *options]
    objects("train", "digits", "--data-limit", 100, *options, "--out", tmp_path)
    settings = RunFolder(tmp_path).settings()
    assert {name: getattr(settings, name) for name in expected} == expected
    report = objects("evaluate", tmp_path, "--samples", 2, "--data-limit", 5)
    assert report["n"] == 5
    code, _ = RunFolder(tmp_path).load()
    dtype = torch.float64 if "float64" in options else torch.float32
    assert next(code.parameters()).dtype == dtype


def test_a_run_is_not_touched_without_being_asked(refused, copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    sentence = refused(2, *TRAIN, "--epochs", "4", "--out", copy)
    assert "--resume" in sentence
    assert "--force" in sentence
    sentence = refused(2, *TRAIN, "--epochs", "9", "--out", copy, "--resume")
    assert "--epochs 9 differs from the 4" in sentence
    after = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    assert before == after


def test_resuming_a_finished_run_changes_nothing(objects, copy):
    before = (copy / "model.safetensors").read_bytes()
    result = objects("train", "--out", copy, "--resume")
    assert result["epochs"] == 4
    assert (copy / "model.safetensors").read_bytes() == before


def test_force_replaces_a_run_and_leaves_other_files(good, copy):
    (copy / "notes.txt").write_text("the user's")
    good(*TRAIN, "--epochs", 1, "--seed", 3, "--out", copy, "--force", "--quiet")
    assert len(RunFolder(copy).history()) == 1
    assert RunFolder(copy).settings().seed == 3
    assert (copy / "notes.txt").read_text() == "the user's"


def test_the_users_own_files_are_not_overwritten(refused, tmp_path):
    (tmp_path / "README.md").write_text("my project")
    for more in ([], ["--resume"], ["--force"]):
        sentence = refused(2, *TRAIN, "--epochs", "1", "--out", tmp_path, *more)
        assert "README.md" in sentence
    assert (tmp_path / "README.md").read_text() == "my project"


def test_a_usage_error_leaves_nothing_in_the_way(refused, good, tmp_path):
    options = [*TRAIN, "--epochs", "2", "--out", tmp_path / "runs" / "run"]
    sentence = refused(2, *options, "--warmup-steps", "30")
    assert not (tmp_path / "runs").exists()
    assert "warm-up of 30 steps" in sentence
    assert "30 steps (2 epochs of 15)" in sentence
    good(*options, "--warmup-steps", "29", "--quiet")


def test_a_smaller_data_limit_is_a_subset_drawn_once(objects, tmp_path):
    runs = []
    for name in ("a", "b"):
        options = ["--epochs", 1, "--data-limit", 100, "--out", tmp_path / name]
        runs.append(objects(*TRAIN, *options)["train"])
        assert RunFolder(tmp_path / name).config()["data"]["rows"]["train"] == 100
        assert len(RunFolder(tmp_path / name).dataset().train) == 100
    assert runs[0] == runs[1]


# --- a run that fails ----------------------------------------------------------------------------


def test_a_run_that_is_not_finite_says_where_and_what_to_try(refused, tmp_path):
    options = [*TRAIN, "--epochs", "2", "--optimizer", "sgd", "--lr", "1e6", "--force"]
    sentence = refused(1, *options, "--quiet", "--out", tmp_path / "run")
    step = re.search(r"not finite at step (\d+) \(epoch 1\)", sentence)
    assert 1 <= int(step[1]) <= 15
    assert "--lr" in sentence
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(ModelFileError, match="has not saved a model yet"):
        RunFolder(tmp_path / "run").load()


def test_a_run_that_is_not_finite_keeps_a_good_checkpoint(call, tmp_path, monkeypatch):
    plan_of = training.plan_of

    def eager(settings):
        return dataclasses.replace(plan_of(settings), checkpoint_seconds=0)

    monkeypatch.setattr(training, "plan_of", eager)
    run = tmp_path / "run"
    options = ["--epochs", "2", "--optimizer", "sgd", "--lr", "30", "--lr-schedule", "constant"]
    code, _, err = call(*TRAIN, *options, "--out", run)
    assert code == 1
    step = int(re.search(r"not finite at step (\d+)", err)[1])
    assert step > 1
    assert f"the last good checkpoint is kept in {run}" in err
    found = checkpoints.newest(run / "checkpoints", pytest.fail)
    assert 1 <= found.facts["t"] < step
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())
    assert not (run / "model.safetensors").exists()


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


def test_evaluate_prints_the_object_that_was_agreed(objects, digits):
    report = objects("evaluate", digits, "--samples", 30)
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
    bound = objects("evaluate", digits, "--samples", 30, "--method", "elbo")
    assert bound["method"] == "elbo"
    assert bound["mean"] == report["elbo"]["mean"]


def test_the_table_for_people_has_the_numbers_of_the_object(good, objects, digits):
    report = objects("evaluate", digits, "--samples", 10)
    text = good("evaluate", digits, "--samples", 10)
    assert f"{report['mean']:.2f} ± {report['standard_error']:.2f}" in text
    assert f"{report['elbo']['mean']:.2f}" in text
    assert "10 samples" in text
    assert text in (digits / "README.md").read_text()


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
@pytest.mark.parametrize("method", ["importance", "elbo"])
def test_the_values_of_each_datum_have_the_printed_mean(objects, digits, tmp_path, suffix, method):
    path = tmp_path / f"values{suffix}"
    report = objects(
        "evaluate", digits, "--samples", 5, "--method", method, "--values", path, "--seed", 4
    )
    values = read(path)
    assert values.shape == (ROWS, 1)
    assert report["values"] == str(path)
    assert values.mean() == pytest.approx(report["mean"], rel=1e-8)
    error = values.std(ddof=1) / np.sqrt(ROWS)
    assert error == pytest.approx(report["standard_error"], rel=1e-6)


def test_an_evaluation_depends_on_its_seed_and_split_alone(objects, digits):
    def mean(*options):
        return objects("evaluate", digits, "--samples", 3, *options)["mean"]

    assert mean() == mean()
    assert mean("--data-limit", 20) == mean("--data-limit", 20)
    others = [mean("--seed", 1), mean("--split", "validation"), mean("--data-limit", 20)]
    assert len({mean(), *others}) == 4


def test_one_sample_has_no_monte_carlo_error(objects, good, digits):
    options = ["--samples", 1, "--data-limit", 1]
    report = objects("evaluate", digits, *options)
    assert report["monte_carlo_error"] is None
    assert report["standard_error"] is None
    assert "unknown" in good("evaluate", digits, *options)


def test_evaluate_refuses_a_file_it_cannot_write_before_it_works(refused, digits, monkeypatch):
    monkeypatch.setattr(scores, "score", lambda *a, **k: pytest.fail("worked first"))
    assert ".npy or .csv" in refused(2, "evaluate", digits, "--values", "values.txt")


def test_several_methods_stand_side_by_side(objects, good, digits):
    options = ["--method", "elbo,ais,exact", "--temperatures", 5, "--data-limit", 4]
    report = objects("evaluate", digits, *options)
    assert [found["method"] for found in report["estimates"]] == ["elbo", "ais", "exact"]
    assert (report["method"], report["mean"]) == ("elbo", report["estimates"][0]["mean"])
    assert report["estimates"][1]["samples"] == 16
    assert report["estimates"][1]["temperatures"] == 5
    (sandwich,) = report["sandwiches"]
    assert sandwich["methods"] == ["ais", "exact"]
    assert sandwich["bounds"][0] <= sandwich["bounds"][1] + 0.5
    text = good("evaluate", digits, *options)
    assert "ais, 16 chains of 5 temperatures" in text
    assert "exact, by quadrature" in text
    assert f"and {sandwich['bounds'][1]:.2f} nats, by ais and exact on digits test" in text


def test_both_sides_on_rows_of_the_model(objects, good, digits):
    options = ["--method", "bidirectional", "--temperatures", 5, "--data-limit", 4]
    report = objects("evaluate", digits, *options, "--start", "prior", "--samples", 2)
    lower, upper = report["estimates"]
    assert (lower["direction"], upper["direction"]) == ("lower", "upper")
    assert lower["data"] == "simulated"
    assert lower["start"] == "prior"
    assert lower["samples"] == 2
    assert "simulated rows" in good("evaluate", digits, *options)


def test_an_evaluation_says_when_its_weights_cannot_be_trusted(good, objects, digits):
    options = ["--samples", 200, "--proposals", "encoder,prior", "--data-limit", 20]
    report = objects("evaluate", digits, *options)
    assert report["estimates"][0]["proposals"] == {"encoder": 180, "prior": 20}
    assert report["pareto_k"]["limit"] == pytest.approx(1 - 1 / np.log10(200))
    text = good("evaluate", digits, *options)
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
def test_an_evaluation_that_makes_no_sense_is_refused(refused, digits, options, sentence):
    assert sentence in refused(2, "evaluate", digits, *options)


def test_a_stopped_evaluation_goes_on_and_leaves_nothing_behind(
    refused, objects, copy, monkeypatch
):
    options = ["--method", "ais", "--temperatures", 4, "--data-limit", 6, "--samples", 2]
    whole = objects("evaluate", copy, *options)
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
    report = objects("evaluate", copy, *options)
    assert report["mean"] == pytest.approx(whole["mean"], abs=1e-4)
    assert not (copy / "unfinished").exists()
    # what an earlier evaluation said of the same weights stays beside it
    objects("evaluate", copy, "--samples", 3)
    objects("evaluate", copy, *options)
    assert RunFolder(copy).evaluation()["importance"]["samples"] == 3


# --- codes and pictures --------------------------------------------------------------------------

DELIVERIES = {
    "sample": (["--n", "12"], "samples.npy", (12, 64)),
    "reconstruct": ([], "reconstructions.npy", (ROWS, 64)),
    "encode": ([], "codes.npy", (ROWS, 2)),
    "interpolate": (["--from", "3", "--to", "9", "--steps", "5"], "interpolation.npy", (5, 64)),
}


@pytest.mark.parametrize("command", DELIVERIES)
def test_arrays_go_into_the_run_or_where_they_are_asked_for(objects, good, copy, tmp_path, command):
    options, default, shape = DELIVERIES[command]
    told = objects(command, copy, *options)
    assert told == {"out": str(copy / default), "shape": list(shape)}
    array = np.load(copy / default)
    assert array.shape == shape
    assert np.isfinite(array).all()
    for suffix in (".npy", ".csv"):
        path = tmp_path / "deep" / "er" / f"array{suffix}"
        assert good(command, copy, *options, "--out", path) == f"{path}: {shape[0]} x {shape[1]}\n"
        assert np.allclose(read(path), array, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("command", ["sample", "reconstruct", "interpolate"])
def test_pictures_are_drawn_on_request(good, digits, tmp_path, command):
    path = tmp_path / "picture.png"
    more = ["--data-limit", 10] if command == "reconstruct" else []
    good(command, digits, *more, "--out", path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_codes_are_no_picture(refused, digits, tmp_path):
    assert "codes are numbers" in refused(2, "encode", digits, "--out", tmp_path / "codes.png")
    assert not (tmp_path / "codes.png").exists()


def test_an_unknown_suffix_is_refused(refused, digits, tmp_path):
    assert ".npy, .csv" in refused(2, "sample", digits, "--out", tmp_path / "samples.txt")


def test_encode_then_decode_is_reconstruct(good, digits, tmp_path):
    codes, decoded, direct = (tmp_path / name for name in ("codes.npy", "decoded.npy", "r.npy"))
    good("encode", digits, "--out", codes)
    good("decode", digits, codes, "--out", decoded)
    good("reconstruct", digits, "--out", direct)
    assert np.allclose(np.load(decoded), np.load(direct), atol=1e-6)
    good("interpolate", digits, "--from", 3, "--to", 9, "--out", tmp_path / "line.npy")
    line = np.load(tmp_path / "line.npy")
    assert np.allclose(line[[0, -1]], np.load(direct)[[2, 8]], atol=1e-6)


def test_samples_follow_the_seed_and_draws_lie_in_the_space_of_the_data(good, digits, tmp_path):
    def sample(*options):
        good("sample", digits, "--n", 4, "--out", tmp_path / "s.npy", *options)
        return np.load(tmp_path / "s.npy")

    assert np.array_equal(sample(), sample())
    assert not np.array_equal(sample(), sample("--seed", 1))
    drawn = sample("--draw")
    assert not np.array_equal(sample(), drawn)
    assert np.array_equal(drawn, sample("--draw"))
    good(*TRAIN, "--binarize", "threshold", "--epochs", 1, "--quiet", "--out", tmp_path / "run")
    good("sample", tmp_path / "run", "--draw", "--out", tmp_path / "s.npy")
    assert set(np.unique(np.load(tmp_path / "s.npy"))) == {0.0, 1.0}


def test_a_data_limit_is_the_same_rows_at_every_call(good, digits, tmp_path):
    codes = []
    for name in ("a.npy", "b.npy", "all.npy"):
        limit = [] if name == "all.npy" else ["--data-limit", 7]
        good("encode", digits, "--out", tmp_path / name, *limit)
        codes.append(np.load(tmp_path / name))
    assert np.array_equal(codes[0], codes[1])
    assert codes[0].shape == (7, 2)
    nearest = np.abs(codes[2][None] - codes[0][:, None]).max(-1).min(1)
    assert (nearest < 1e-5).all()


IMAGES = [kind for kind in KINDS if kind != "pairs"]
"""The pictures of a run of images with two latent dimensions."""


@pytest.mark.parametrize("kind", ["curve", "rows", "cloud"])
def test_one_picture_is_drawn_where_it_is_asked_for(objects, digits, tmp_path, kind):
    path = tmp_path / ("a.gif" if kind == "cloud" else "a.png")
    assert objects("plot", digits, kind, "--out", path) == {"figures": [str(path)]}
    assert path.read_bytes().startswith(b"GIF89a" if kind == "cloud" else b"\x89PNG")


def test_all_pictures_land_in_the_run(good, copy):
    written = good("plot", copy).split()
    names = [f"{kind}.{'gif' if kind == 'cloud' else 'png'}" for kind in IMAGES]
    assert written == [str(copy / "figures" / name) for name in names]
    assert all((copy / "figures" / name).stat().st_size > 1000 for name in names)


def test_all_pictures_or_a_sentence(refused, digits, tmp_path):
    (tmp_path / "file").write_text("")
    sentence = refused(2, "plot", digits, "--out", tmp_path / "file" / "figures")
    assert "cannot be written" in sentence


def test_a_manifold_needs_two_dimensions(refused, objects, table, tmp_path):
    _, run = table
    assert "two latent dimensions" in refused(2, "plot", run, "manifold")
    drawn = objects("plot", run, "--out", tmp_path)["figures"]
    kinds = [path.rsplit("/", 1)[1].partition(".")[0] for path in drawn]
    assert kinds == [k for k in KINDS if k not in ("samples", "manifold", "training")]


# --- the user's own files ------------------------------------------------------------------------


@pytest.fixture(params=[".npy", ".npz", ".csv"])
def file(request, table, tmp_path):
    """The table in each format."""
    rows = read(table[0])
    path = tmp_path / f"mine{request.param}"
    if request.param == ".csv":
        return shutil.copy(table[0], path)
    np.save(path, rows) if request.param == ".npy" else np.savez(path, x=rows)
    return path


def test_files_of_every_format_train_and_encode_alike(objects, good, table, file, tmp_path):
    options = ["--hidden", "4", "--latent-dim", "3", "--epochs", "2"]
    result = objects("train", file, *options, "--out", tmp_path / "run")
    assert result["likelihood"] == "gaussian"
    bound = RunFolder(table[1]).history()[-1]["train"]["elbo"]
    last = RunFolder(tmp_path / "run").history()[-1]["train"]["elbo"]
    assert last == pytest.approx(bound, rel=1e-4)
    good("encode", table[1], file, "--out", tmp_path / "codes.npy")
    good("encode", table[1], table[0], "--out", tmp_path / "expected.npy")
    codes = np.load(tmp_path / "codes.npy")
    assert codes.shape == (60, 3)
    assert np.allclose(codes, np.load(tmp_path / "expected.npy"), atol=1e-5)


def test_pictures_of_a_table_are_drawn_too(good, table, tmp_path):
    good("sample", table[1], "--out", tmp_path / "samples.png")
    good("reconstruct", table[1], "--out", tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_new_rows_are_binarized_as_the_runs_own(good, tmp_path):
    rows = np.random.default_rng(0).random((30, 4))
    np.save(tmp_path / "grey.npy", rows)
    np.save(tmp_path / "binary.npy", (rows > 0.5).astype(np.uint8))
    options = ["--binarize", "threshold", "--hidden", 3, "--latent-dim", 2, "--epochs", 1]
    good("train", tmp_path / "grey.npy", *options, "--quiet", "--out", tmp_path / "run")
    assert RunFolder(tmp_path / "run").settings().likelihood == "bernoulli"
    for name in ("grey", "binary"):
        path = tmp_path / f"{name}.npy"
        good("encode", tmp_path / "run", path, "--out", tmp_path / f"{name}-codes.npy")
    codes = [np.load(tmp_path / f"{name}-codes.npy") for name in ("grey", "binary")]
    assert np.array_equal(*codes)


def test_data_that_changed_since_training_are_refused(refused, good, tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 4))
    path, run = tmp_path / "rows.npy", tmp_path / "run"
    np.save(path, rows)
    options = ["--hidden", 3, "--latent-dim", 2, "--epochs", 1, "--quiet", "--out", run]
    good("train", path, *options)
    np.save(path, rows + 1)
    assert "has changed since" in refused(3, "evaluate", run)
    assert "has changed since" in refused(3, "train", path, "--out", run, "--resume")
    path.unlink()
    assert str(path) in refused(3, "evaluate", run)


def test_data_lists_the_sets_and_describes_one(objects, good, table):
    rows = objects("data")["data"]
    assert {"digits", "mnist", "frey-face", "omniglot"} <= {row["name"] for row in rows}
    text = good("data")
    assert all(row["name"] in text for row in rows)
    facts = objects("data", "digits")
    assert (facts["rows"], facts["shape"]) == (1797, "1x8x8")
    assert facts["train"] + facts["validation"] + facts["test"] == 1797
    assert facts["likelihood"] in good("data", "digits")
    facts = objects("data", table[0])
    assert (facts["rows"], facts["shape"], facts["likelihood"]) == (60, "5", "gaussian")


# --- errors --------------------------------------------------------------------------------------

USAGE = {
    "unknown option": (["--colour", "red"], "--colour"),
    "option without a value": (["--epochs"], "--epochs"),
    "no epochs": (["--epochs", "0"], "--epochs: input should be greater than or equal to 1"),
    "text for epochs": (["--epochs", "many"], "'--epochs'"),
    "text for widths": (["--hidden", "abc"], "'abc'"),
    "no units": (["--hidden", "0"], "at least 1 unit"),
    "unknown likelihood": (["--likelihood", "cauchy"], "'cauchy' is not known: choose one of"),
    "unknown posterior": (["--posterior", "flow"], "'flow' is not known: choose one of"),
    "unknown objective": (["--objective", "mse"], "'mse' is not known: choose one of"),
    "unknown optimizer": (["--optimizer", "lion"], "'lion' is not known: choose one of"),
    "unknown schedule": (["--lr-schedule", "zigzag"], "'zigzag' is not known: choose one of"),
    "unknown activation": (["--activation", "step"], "'step' is not known: choose one of"),
    "unknown algorithm": (["--algorithm", "magic"], "'magic' is not known: choose one of"),
    "one sample to weigh": (["--algorithm", "reweighted-wake-sleep"], "add --samples 5"),
    "unknown binarization": (["--binarize", "twice"], "'twice'"),
    "unknown precision": (["--precision", "float8"], "'float8'"),
    "warm-up too long": (["--epochs", "2", "--warmup-steps", "30"], "would not finish"),
    "no learning rate": (["--lr", "0"], "--lr"),
    "a learning rate that is no number": (["--lr", "nan"], "--lr"),
    "a seed below zero": (["--seed", "-1"], "--seed"),
    "a seed too large": (["--seed", str(2**64)], "--seed"),
    "one class": (
        ["--likelihood", "categorical", "--classes", "1"],
        "classes must be at least 2",
    ),
    "free bits of another objective": (
        ["--objective", "iwae", "--free-bits", "1"],
        "--free-bits needs",
    ),
}


@pytest.mark.parametrize("name", USAGE)
def test_options_that_cannot_be_obeyed_are_a_usage_error(refused, tmp_path, name):
    options, said = USAGE[name]
    assert said in refused(2, "train", "digits", "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run" / "config.json").exists()


def test_resuming_needs_the_name_of_the_folder(refused):
    assert "--out" in refused(2, "train", "digits", "--resume")


def test_an_unknown_command_is_a_usage_error(refused):
    assert "'trian'" in refused(2, "trian")


def test_a_table_cannot_be_convolved(refused, table, tmp_path):
    options = ["--network", "convolutional", "--out", tmp_path / "run"]
    assert "choose mlp" in refused(2, "train", table[0], *options)


def test_bad_data_are_named(refused, call, table, digits, tmp_path):
    out = ["--out", tmp_path / "run"]
    assert "nosuchset" in refused(3, "train", "nosuchset", *out)
    assert str(tmp_path / "no.npy") in refused(3, "train", tmp_path / "no.npy", *out)
    assert "nosuchset" in refused(3, "data", "nosuchset")
    grey = ["--likelihood", "bernoulli", "--binarize", "none"]
    sentence = refused(3, "train", "digits", *grey, *out)
    assert re.search(r"zeros and ones, found [\d.]+ in row \d+, column \d+", sentence)
    assert "binarize" in sentence
    sentence = refused(3, "encode", digits, table[0])
    assert "rows of 5 numbers, the model is of rows of 64" in sentence
    assert "counts" in refused(3, "train", table[0], "--likelihood", "poisson", *out)
    damaged = tmp_path / "rows.csv"
    damaged.write_text("1,2\n3,x\n")
    assert "row 2, column 2" in refused(3, "train", damaged, *out)
    assert not (tmp_path / "run" / "config.json").exists()


def test_codes_of_another_width_are_refused(refused, digits, tmp_path):
    np.save(tmp_path / "codes.npy", np.zeros((4, 3)))
    sentence = refused(2, "decode", digits, tmp_path / "codes.npy")
    assert "(N, 2)" in sentence
    assert "(4, 3)" in sentence


def test_rows_beyond_the_end_are_refused(refused, digits):
    assert "row 181 was asked for" in refused(2, "interpolate", digits, "--to", ROWS + 1)
    assert "--from" in refused(2, "interpolate", digits, "--from", 0)


@pytest.mark.parametrize("command", ["evaluate", "sample", "reconstruct", "encode", "plot"])
def test_what_is_no_run_is_refused(refused, tmp_path, command):
    assert "is no folder" in refused(4, command, tmp_path / "nowhere")
    assert "holds no run" in refused(4, command, tmp_path)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[10] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "weights cut off": lambda run: (run / "model.safetensors").write_bytes(b"\0" * 20),
    "a flipped byte in the header": lambda run: flipped(run / "model.safetensors"),
    "no weights": lambda run: (run / "model.safetensors").unlink(),
    "config cut off": lambda run: (run / "config.json").write_text('{"format": 4'),
    "config of another version": lambda run: (run / "config.json").write_text('{"format": 7}'),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_refused(refused, copy, name):
    DAMAGES[name](copy)
    assert str(copy) in refused(4, "sample", copy)


def test_a_model_saved_from_python_can_be_sampled_and_says_what_it_lacks(refused, good, tmp_path):
    model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [3], 5)))
    aevb.save(tmp_path / "mine", model, aevb.mean_field(aevb.MLP(5, [3], 4)))
    good("sample", tmp_path / "mine", "--out", tmp_path / "samples.npy")
    assert np.load(tmp_path / "samples.npy").shape == (64, 5)
    for command in (["evaluate"], ["encode"], ["sample", "--out", tmp_path / "s.png"]):
        name, *options = command
        assert "saved from Python" in refused(4, name, tmp_path / "mine", *options)


def test_an_output_that_cannot_be_written_is_one_sentence(refused, digits, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "samples.npy"
    assert f"{path} cannot be written" in refused(2, "sample", digits, "--out", path)
    assert "cannot be written" in refused(1, *TRAIN, "--out", tmp_path / "file")


def test_what_nobody_foresaw_is_one_sentence_too(refused, digits, monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(scores, "score", fail)
    sentence = refused(1, "evaluate", digits)
    assert sentence == "ZeroDivisionError: first line (--debug shows where)"


def test_ctrl_c_is_one_sentence(refused, digits, monkeypatch):
    def fail(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(scores, "score", fail)
    assert refused(130, "evaluate", digits) == "interrupted"


def test_debug_shows_the_traceback(capfd, tmp_path):
    for arguments in (["--debug", "sample", tmp_path], ["sample", tmp_path, "--debug"]):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert caught.value.code == 4
        assert out == ""
        assert "Traceback (most recent call last)" in err
        assert err.splitlines()[-1].startswith("aevb: ")


# --- real processes ------------------------------------------------------------------------------


def test_the_command_works_as_a_process(digits, tmp_path):
    process = aevb_process(
        "encode", digits, "--data-limit", 3, "--json", "--out", tmp_path / "c.npy"
    )
    assert process.returncode == 0
    assert json.loads(process.stdout) == {"out": str(tmp_path / "c.npy"), "shape": [3, 2]}
    assert process.stderr == ""


def test_an_error_of_a_process_is_one_line(tmp_path):
    process = aevb_process("evaluate", tmp_path)
    assert process.returncode == 4
    assert process.stdout == ""
    assert re.fullmatch(r"aevb: .* holds no run: .*\n", process.stderr)


def test_a_mistyped_folder_is_not_resumed(refused, tmp_path):
    assert "no run to resume" in refused(2, "train", "--resume", "--out", tmp_path / "typo")
    assert not (tmp_path / "typo").exists()
