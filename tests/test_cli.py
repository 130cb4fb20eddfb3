"""The command line: results on stdout, progress on stderr, one sentence and a code for errors."""

import re
import subprocess
import sys
from inspect import signature

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import typer
from helpers import TRAIN, call, good, printed, refused

import aevb
from aevb import cli
from aevb.errors import ModelFileError
from aevb.storage import RunFolder, checkpoints
from aevb.workflow import scores
from aevb.workflow.reports import CONTAMINATION

COMMANDS = list(typer.main.get_command(cli.app).commands)
ROWS = 180
"""Test rows of digits."""


# --- help ----------------------------------------------------------------------------------------


def test_what_is_usual_is_so_in_python_too():
    def usual(command, name):
        options = typer.main.get_command(cli.app).commands[command].params
        return next(option.default for option in options if option.name == name)

    def of(kind, name):
        return signature(kind).parameters[name].default

    assert usual("score", "contamination") == of(aevb.VAEDetector, "contamination") == CONTAMINATION
    weight = usual("classify", "classification")
    assert weight == of(aevb.SemiSupervisedVAE, "classification")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    text = printed(command, "--help")
    assert text.startswith(f"Usage: aevb {command}")
    assert "--json" in text
    assert len(text.split("\n\n")[1].strip()) > 20


def test_help_lists_every_command():
    listed = printed("--help").split("Commands:")[1]
    assert re.findall(r"^  ([a-z]+)  ", listed, re.MULTILINE) == COMMANDS


HELP = """
import sys, time
from aevb import cli
try:
    cli.main(["--help"])
except SystemExit as error:
    heavy = {"torch", "numpy", "pydantic", "matplotlib", "sklearn"} & sys.modules.keys()
    print(error.code, sorted(heavy), file=sys.stderr)
    print(time.process_time(), file=sys.stderr)
"""


def test_help_answers_at_once_and_imports_nothing_heavy():
    process = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=True
    )
    verdict, seconds = process.stderr.splitlines()
    assert verdict == "0 []"
    assert float(seconds) < 1.5
    assert process.stdout.startswith("Usage: aevb")


def test_without_a_command_help_is_shown():
    _, out, err = call()
    assert "Commands:" in out + err


# --- train ---------------------------------------------------------------------------------------


def test_train_prints_the_object_that_was_agreed(tmp_path):
    result = good(*TRAIN, "--epochs", 3, "--out", tmp_path / "run", "--seed", 5)
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


def test_progress_goes_to_stderr_and_the_result_to_stdout(tmp_path):
    code, out, err = call(*TRAIN, "--epochs", 3, "--out", tmp_path / "a")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'a'}: 3 epochs, training bound")
    assert "epoch 3/3  validation bound" in err
    assert "epoch" not in out.replace("3 epochs", "")
    code, quiet, err = call(*TRAIN, "--epochs", 3, "--out", tmp_path / "b", "--quiet")
    assert err == ""
    assert quiet == out.replace(str(tmp_path / "a"), str(tmp_path / "b"))


def test_training_is_the_same_at_every_call_and_differs_by_seed(digits, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        options = ["--epochs", 4, "--seed", seed, "--quiet", "--out", tmp_path / name]
        printed(*TRAIN, *options)
    weights = (digits / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights


def test_digits_are_the_data_where_none_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for expected in ("runs/digits", "runs/digits-2"):
        options = ["--hidden", 4, "--latent-dim", 2, "--epochs", 1, "--quiet"]
        assert printed("train", *options).startswith(f"{expected}: 1 epoch, ")
        assert RunFolder(tmp_path / expected).settings().data == "digits"
    (tmp_path / "images" / "of").mkdir(parents=True)
    for i in range(12):
        plt.imsave(tmp_path / "images" / f"{i}.png", np.random.default_rng(i).random((8, 8)))
    assert printed("train", "images/of/..", *options).startswith("runs/images: ")
    monkeypatch.chdir(tmp_path / "images")  # a run among the images would be read with them
    said = "runs/images would lie in the folder of the data: name another with --out"
    assert said in refused(2, "train", ".", *options)
    assert not (tmp_path / "images" / "runs").exists()


OPTIONS = [
    {"likelihood": "gaussian", "network": "convolutional", "hidden": "4,8", "samples": 3}
    | {"posterior": "full-covariance", "objective": "iwae", "optimizer": "adagrad"},
    {"posterior": "per-datum", "free_bits": 0.1, "beta": 0.5, "lr": 0.05, "clip": 1.0}
    | {"binarize": "threshold", "weight_prior": "normal", "precision": "float64", "step": "eager"},
]


@pytest.mark.parametrize("given", OPTIONS, ids=["images", "binary"])
def test_options_reach_the_run_and_its_folder(tmp_path, given):
    words = {"hidden": "4", "epochs": 1, "latent_dim": 2, "data_limit": 100, "threads": 1} | given
    options = [
        part for name, value in words.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    good("train", "digits", *options, "--out", tmp_path)
    settings = RunFolder(tmp_path).settings()
    by_default = {"likelihood": "gaussian", "binarize": "none", "precision": "float32"}
    implied = {"likelihood": "bernoulli"} if "binarize" in given else {}
    expected = by_default | words | implied
    expected["hidden"] = tuple(map(int, words["hidden"].split(",")))
    assert {name: getattr(settings, name) for name in expected} == expected
    assert good("evaluate", tmp_path, "--samples", 2, "--data-limit", 5)["n"] == 5
    code, _ = RunFolder(tmp_path).load()
    assert next(code.parameters()).dtype == getattr(torch, expected["precision"])


def test_a_run_is_not_touched_without_being_asked(copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    sentence = refused(2, *TRAIN, "--epochs", "4", "--out", copy)
    assert "--resume" in sentence
    assert "--force" in sentence
    sentence = refused(2, *TRAIN, "--epochs", "9", "--out", copy, "--resume")
    assert "--epochs 9 differs from the 4" in sentence
    after = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    assert before == after


def test_resuming_a_finished_run_changes_nothing(copy):
    before = (copy / "model.safetensors").read_bytes()
    result = good("train", "--out", copy, "--resume")
    assert result["epochs"] == 4
    assert (copy / "model.safetensors").read_bytes() == before


def test_force_replaces_a_run_and_leaves_other_files(copy):
    (copy / "notes.txt").write_text("the user's")
    printed(*TRAIN, "--epochs", 1, "--seed", 3, "--out", copy, "--force", "--quiet")
    assert len(RunFolder(copy).history()) == 1
    assert RunFolder(copy).settings().seed == 3
    assert (copy / "notes.txt").read_text() == "the user's"


def test_the_users_own_files_are_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("my project")
    for more in ([], ["--resume"], ["--force"]):
        sentence = refused(2, *TRAIN, "--epochs", "1", "--out", tmp_path, *more)
        assert "README.md" in sentence
    assert (tmp_path / "README.md").read_text() == "my project"


def test_a_usage_error_leaves_nothing_in_the_way(tmp_path):
    options = [*TRAIN, "--epochs", "2", "--out", tmp_path / "runs" / "run"]
    sentence = refused(2, *options, "--warmup-steps", "30")
    assert not (tmp_path / "runs").exists()
    assert "warm-up of 30 steps" in sentence
    assert "30 steps (2 epochs of 15)" in sentence
    printed(*options, "--warmup-steps", "29", "--quiet")


def test_a_smaller_data_limit_is_a_subset_drawn_once(tmp_path):
    runs = []
    for name in ("a", "b"):
        options = ["--epochs", 1, "--data-limit", 100, "--out", tmp_path / name]
        runs.append(good(*TRAIN, *options)["train"])
        assert RunFolder(tmp_path / name).config()["data"]["rows"]["train"] == 100
        assert len(RunFolder(tmp_path / name).dataset().train) == 100
    assert runs[0] == runs[1]


# --- a run that fails ----------------------------------------------------------------------------


def test_a_run_that_is_not_finite_says_where_and_what_to_try(tmp_path):
    options = [*TRAIN, "--epochs", "2", "--optimizer", "sgd", "--lr", "1e6", "--force"]
    sentence = refused(1, *options, "--quiet", "--out", tmp_path / "run")
    step = re.search(r"not finite at step (\d+) \(epoch 1\)", sentence)
    assert 1 <= int(step[1]) <= 15
    assert "--lr" in sentence
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(ModelFileError, match="has not saved a model yet"):
        RunFolder(tmp_path / "run").load()


def test_a_run_that_is_not_finite_keeps_a_good_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "checkpoint_seconds", 0)
    options = ["--epochs", "2", "--optimizer", "sgd", "--lr", "30", "--lr-schedule", "constant"]
    said = refused(1, *TRAIN, *options, "--force", "--out", tmp_path)
    step = int(re.search(r"not finite at step (\d+)", said)[1])
    assert step > 1
    assert f"the last good checkpoint is kept in {tmp_path}" in said
    found = checkpoints.newest(tmp_path / "checkpoints", pytest.fail)
    assert 1 <= found.facts["t"] < step
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())
    assert not (tmp_path / "model.safetensors").exists()


# --- errors --------------------------------------------------------------------------------------

USAGE = {
    "unknown option": (["--colour", "red"], "--colour"),
    "option without a value": (["--epochs"], "--epochs"),
    "no epochs": (["--epochs", "0"], "--epochs: input should be greater than or equal to 1"),
    "text for epochs": (["--epochs", "many"], "'--epochs'"),
    "another name": (["--prior", "vamps"], "did you mean vamp? There are standard-normal"),
    "text for widths": (["--hidden", "abc"], "'abc'"),
    "no units": (["--hidden", "0"], "--hidden: input should be greater than or equal to 1"),
    "unknown likelihood": (["--likelihood", "cauchy"], "'cauchy' is not known: choose one of"),
    "unknown posterior": (["--posterior", "flow"], "'flow' is not known: choose one of"),
    "unknown objective": (["--objective", "mse"], "'mse' is not known: choose one of"),
    "unknown optimizer": (["--optimizer", "lion"], "'lion' is not known: choose one of"),
    "unknown schedule": (["--lr-schedule", "zigzag"], "'zigzag' is not known: choose one of"),
    "unknown activation": (["--activation", "step"], "'step' is not known: choose one of"),
    "unknown algorithm": (["--algorithm", "magic"], "'magic' is not known: choose one of"),
    "one sample to weigh": (["--algorithm", "reweighted-wake-sleep"], "add --samples 5"),
    "widths of a map": (["--network", "linear", "--hidden", "500"], "no hidden layers, found 500"),
    "a map bent": (["--network", "linear", "--activation", "elu"], "elu says nothing to --network"),
    "unknown binarization": (["--binarize", "twice"], "'twice'"),
    "unknown precision": (["--precision", "float8"], "'float8'"),
    "warm-up too long": (["--epochs", "2", "--warmup-steps", "30"], "would not finish"),
    "no learning rate": (["--lr", "0"], "--lr"),
    "a learning rate that is no number": (["--lr", "nan"], "--lr"),
    "a seed below zero": (["--seed", "-1"], "--seed"),
    "a seed too large": (["--seed", str(2**64)], "--seed"),
    "one class": (["--likelihood", "categorical", "--classes", "1"], "classes must be at least 2"),
    "free bits of another bound": (
        ["--objective", "iwae", "--free-bits", "1"],
        "--free-bits needs",
    ),
}


@pytest.mark.parametrize("name", USAGE)
def test_options_that_cannot_be_obeyed_are_a_usage_error(tmp_path, name):
    options, said = USAGE[name]
    assert said in refused(2, "train", "digits", "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run" / "config.json").exists()


def test_resuming_needs_the_name_of_the_folder():
    assert "--out" in refused(2, "train", "digits", "--resume")


def test_an_unknown_command_is_a_usage_error():
    assert "'trian'" in refused(2, "trian")


def test_a_table_cannot_be_convolved(numbers, tmp_path):
    options = ["--network", "convolutional", "--out", tmp_path / "run"]
    assert "choose mlp" in refused(2, "train", numbers[0], *options)


def test_bad_data_are_named(numbers, digits, tmp_path):
    out = ["--out", tmp_path / "run"]
    assert "nosuchset" in refused(3, "train", "nosuchset", *out)
    assert str(tmp_path / "no.npy") in refused(3, "train", tmp_path / "no.npy", *out)
    assert "nosuchset" in refused(3, "data", "nosuchset")
    grey = ["--likelihood", "bernoulli", "--binarize", "none"]
    sentence = refused(3, "train", "digits", *grey, *out)
    assert re.search(r"zeros and ones, found [\d.]+ in row \d+, column \d+", sentence)
    assert "binarize" in sentence
    sentence = refused(3, "encode", digits, numbers[0])
    assert "rows of 5 numbers, the model is of rows of 64" in sentence
    assert "counts" in refused(3, "train", numbers[0], "--likelihood", "poisson", *out)
    damaged = tmp_path / "rows.csv"
    damaged.write_text("1,2\n3,x\n")
    assert "line 2, column 2" in refused(3, "train", damaged, *out)
    assert not (tmp_path / "run" / "config.json").exists()


def test_codes_of_another_width_are_refused(digits, tmp_path):
    np.save(tmp_path / "codes.npy", np.zeros((4, 3)))
    sentence = refused(3, "decode", digits, tmp_path / "codes.npy")
    assert sentence.endswith("codes.npy: expected codes of shape (N, 2), found (4, 3)")


def test_rows_beyond_the_end_are_refused(digits):
    assert "row 181 was asked for" in refused(2, "interpolate", digits, "--to", ROWS + 1)
    assert "--from" in refused(2, "interpolate", digits, "--from", 0)


@pytest.mark.parametrize("command", ["evaluate", "sample", "reconstruct", "encode", "plot"])
def test_what_is_no_run_is_refused(tmp_path, command):
    assert "does not exist: name a folder" in refused(4, command, tmp_path / "nowhere")
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
def test_a_damaged_model_is_refused(copy, name):
    DAMAGES[name](copy)
    assert str(copy) in refused(4, "sample", copy)


def test_a_model_saved_from_python_can_be_sampled_and_says_what_it_lacks(tmp_path):
    model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [3], 5)))
    aevb.save(tmp_path / "mine", model, aevb.mean_field(aevb.MLP(5, [3], 4)))
    printed("sample", tmp_path / "mine", "--out", tmp_path / "samples.npy")
    assert np.load(tmp_path / "samples.npy").shape == (64, 5)
    for command in (["evaluate"], ["encode"], ["sample", "--out", tmp_path / "s.png"]):
        name, *options = command
        assert "saved from Python" in refused(4, name, tmp_path / "mine", *options)


def test_an_output_that_cannot_be_written_is_one_sentence(digits, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "samples.npy"
    assert f"{path} cannot be written" in refused(2, "sample", digits, "--out", path)
    assert "cannot be written" in refused(1, *TRAIN, "--out", tmp_path / "file")


def test_what_nobody_foresaw_is_one_sentence_too(digits, monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(scores, "score", fail)
    sentence = refused(1, "evaluate", digits)
    assert sentence == "ZeroDivisionError: first line (--debug shows where)"


def test_ctrl_c_is_one_sentence(digits, monkeypatch):
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


def test_an_error_of_a_process_is_one_line(tmp_path):
    command = [sys.executable, "-m", "aevb.cli", "evaluate", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (process.returncode, process.stdout) == (4, "")
    assert re.fullmatch(r"aevb: .* holds no run, .*\n", process.stderr)


def test_a_mistyped_folder_is_not_resumed(tmp_path):
    assert "no run to resume" in refused(2, "train", "--resume", "--out", tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_no_summary_of_a_command_is_cut_in_the_list_of_them():
    listed = printed("--help")
    assert "..." not in listed.split("Commands:")[1]
