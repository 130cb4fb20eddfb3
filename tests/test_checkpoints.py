"""Checkpoints, the run folder and its lock: a kill at any moment leaves a whole one behind."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from crafted import flipped, nothing, put, replaced
from zoo.pairs import small

import aevb
from aevb.errors import ModelFileError, TrainingError
from aevb.files import replace_atomically
from aevb.storage import RunFolder, checkpoints
from aevb.storage.files import to_json

BIAS = "posterior.conditional.network.head.bias"


# --- checkpoints ---------------------------------------------------------------------------------


def tensors(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "parameters/a": torch.randn(3, 4, generator=generator),
        "totals": torch.randn(5, generator=generator, dtype=torch.float64),
        "buffers/n": torch.tensor(step),
        "transposed": torch.randn(3, 4, generator=generator).T,
    }


def keep(folder, *steps):
    for step in steps:
        checkpoints.save(folder, step, tensors(step), {"t": step, "epoch": step // 2})


def same(found, step):
    expected = tensors(step)
    return (
        found.facts == {"t": step, "epoch": step // 2}
        and found.tensors.keys() == expected.keys()
        and all(torch.equal(found.tensors[k], v) for k, v in expected.items())
        and all(found.tensors[k].dtype == v.dtype for k, v in expected.items())
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_come_back_and_two_are_kept(tmp_path):
    assert checkpoints.newest(tmp_path / "none", pytest.fail) is None
    for step in range(1, 5):
        keep(tmp_path, step)
        assert same(checkpoints.newest(tmp_path, pytest.fail), step)
    assert names(tmp_path) == ["step-000000003", "step-000000004"]
    assert same(checkpoints.load(tmp_path / "step-000000003"), 3)


def test_a_step_can_be_saved_again(tmp_path):
    keep(tmp_path, 3)
    checkpoints.save(tmp_path, 3, {"a": torch.ones(2)}, {"t": 3})
    assert torch.equal(checkpoints.newest(tmp_path, pytest.fail).tensors["a"], torch.ones(2))
    assert names(tmp_path) == ["step-000000003"]


def exchanged(former):
    manifest = json.loads(former)
    return to_json(dict(zip(manifest, reversed(manifest.values()), strict=True)))


def hollow(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def flatten(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.write_text("no folder")


TENSORS, FACTS, MANIFEST = "state.safetensors", "state.json", "manifest.json"
damage_tensors = put(TENSORS, flipped(-1))
DAMAGES = {
    "tensors": damage_tensors,
    "facts": put(FACTS, to_json({"t": 99, "epoch": 1})),
    "manifest": put(MANIFEST, lambda former: former[: len(former) // 2]),
    "manifest exchanged": put(MANIFEST, exchanged),
    "manifest empty": put(MANIFEST, b"{}"),
    "no tensors": replaced(TENSORS, nothing),
    "no facts": replaced(FACTS, nothing),
    "no manifest": replaced(MANIFEST, nothing),
    "empty folder": hollow,
    "a file": flatten,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_and_the_one_before_is_loaded(tmp_path, name):
    keep(tmp_path, 1, 2)
    DAMAGES[name](tmp_path / "step-000000002")
    said = []
    assert same(checkpoints.newest(tmp_path, said.append), 1)
    assert len(said) == 1
    assert f"{tmp_path / 'step-000000002'} is damaged: " in said[0]
    assert "\n" not in said[0]


@pytest.mark.parametrize("name", DAMAGES)
def test_where_all_are_damaged_there_is_none(tmp_path, name):
    keep(tmp_path, 1, 2)
    for step in (1, 2):
        DAMAGES[name](tmp_path / f"step-00000000{step}")
    said = []
    assert checkpoints.newest(tmp_path, said.append) is None
    assert len(said) == 2
    keep(tmp_path, 1)
    assert same(checkpoints.newest(tmp_path, pytest.fail), 1)


def test_a_damaged_checkpoint_is_never_kept_in_place_of_a_good_one(tmp_path):
    keep(tmp_path, 4, 9)
    damage_tensors(tmp_path / "step-000000009")
    checkpoints.newest(tmp_path, lambda sentence: None)
    keep(tmp_path, 6)
    damage_tensors(tmp_path / "step-000000006")
    assert same(checkpoints.newest(tmp_path, lambda sentence: None), 4)


def test_leftovers_are_never_loaded_and_removed_by_the_next_holder(tmp_path):
    run = RunFolder(tmp_path)
    folder = tmp_path / "checkpoints"
    keep(folder, 1)
    for name in (".step-000000002.tmp", ".step-000000001.tmp"):
        shutil.copytree(folder / "step-000000001", folder / name)
    (folder / ".state.json.tmp").write_text("{")
    (tmp_path / ".model.safetensors.tmp").write_text("half")
    (tmp_path / "notes.tmp").write_text("the user's")
    assert same(run.newest_checkpoint(pytest.fail), 1)
    with run.locked():
        assert names(folder) == ["step-000000001"]
        assert "notes.tmp" in names(tmp_path)
        assert ".model.safetensors.tmp" not in names(tmp_path)


# --- saving is atomic ----------------------------------------------------------------------------

POINTS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


class Killed(BaseException):
    """What no `except Exception` and no `ignore_errors` holds up, as a kill is."""


class Failing:
    """From its n-th call on, everything that writes a folder fails; a flush also tears its file."""

    def __init__(self, monkeypatch, at, error):
        self.calls, self.at, self.error = 0, at, error
        for name in POINTS:
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def wrap(self, name, call):
        def failing(*arguments, **named):
            self.calls += 1
            if self.at is not None and self.calls >= self.at:
                if name == "fsync" and self.calls == self.at:
                    self.tear(arguments[0])
                raise self.error
            return call(*arguments, **named)

        return failing

    @staticmethod
    def tear(handle):
        with suppress(OSError):  # a folder
            os.ftruncate(handle, os.fstat(handle).st_size // 2)


def calls_of(monkeypatch, action):
    with monkeypatch.context() as patch:
        counter = Failing(patch, None, None)
        action()
    return counter.calls


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [FULL, Killed()], ids=["full disk", "kill"])
@pytest.mark.parametrize("before", [(), (3,), (1, 2), (1, 3)], ids=str)
def test_a_save_that_fails_anywhere_leaves_a_whole_checkpoint(tmp_path, monkeypatch, before, error):
    trial = tmp_path / "trial"
    keep(trial, *before)
    total = calls_of(monkeypatch, lambda: keep(trial, 3))
    assert total >= 8  # three files, their folder, the rename, the pointer
    ended = set()
    for at in range(1, total + 1):
        folder = tmp_path / str(at)
        keep(folder, *before)
        with monkeypatch.context() as patch, suppress(type(error)):
            Failing(patch, at, error)
            keep(folder, 3)
        checkpoints.clear_unfinished(folder)
        found = checkpoints.newest(folder, lambda sentence: None)
        known = [*before, 3]
        if found is None:
            assert before == ()
        else:
            assert any(same(found, step) for step in known), at
            ended.add(found.facts["t"])
        keep(folder, 4)  # what was left behind is not in the way
        assert same(checkpoints.newest(folder, pytest.fail), 4)
        assert len([name for name in names(folder) if name.startswith("step-")]) <= 2
    assert 3 in ended


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"former")
    total = calls_of(monkeypatch, lambda: replace_atomically(file, b"new content"))
    seen = []
    for at in range(1, total + 1):
        file.write_bytes(b"former")
        with monkeypatch.context() as patch:
            Failing(patch, at, FULL)
            with pytest.raises(OSError, match="No space"):
                replace_atomically(file, b"new content")
        seen.append(file.read_bytes())
    assert set(seen) == {b"former", b"new content"}
    assert seen[0] == b"former"


def test_a_file_that_many_write_is_always_a_whole_one(tmp_path):
    file = tmp_path / "file"
    contents = {bytes([digit]) * 5000 for digit in b"0123"}

    def write(content):
        for _ in range(50):
            replace_atomically(file, content)
            assert file.read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_one_sentence_that_names_the_run(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    model, posterior = small()
    actions = [
        lambda: run.save_checkpoint(1, tensors(1), {}),
        lambda: run.save_weights(model, posterior),
        lambda: run.write_config(model, posterior, {}),
        lambda: run.write_card("card"),
    ]
    for action in actions:
        with monkeypatch.context() as patch:
            Failing(patch, 1, FULL)
            with pytest.raises(TrainingError) as caught:
                action()
        assert "No space left" in str(caught.value)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parameters_that_are_not_finite_are_never_written(saved, value):
    run, before = RunFolder(saved), (saved / "model.safetensors").read_bytes()
    model, posterior = small()
    posterior.conditional.network.head.bias.data[0] = value
    with pytest.raises(TrainingError, match=BIAS):
        run.save_weights(model, posterior)
    with pytest.raises(TrainingError, match=BIAS):
        aevb.save(saved, model, posterior)
    with pytest.raises(TrainingError, match="parameters/a"):
        run.save_checkpoint(1, {"parameters/a": torch.tensor([0.0, value])}, {})
    assert (saved / "model.safetensors").read_bytes() == before
    assert run.newest_checkpoint(pytest.fail) is None


# --- the run folder ------------------------------------------------------------------------------


def test_metrics_skip_a_torn_line_and_name_a_damaged_one(tmp_path):
    run = RunFolder(tmp_path)
    assert run.history() == []
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "elbo": -1 / 3})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 4, "el')
    assert [record["epoch"] for record in run.history()] == [1, 2, 3]
    run.keep_epochs(2)
    assert run.history() == [{"epoch": 1, "elbo": -1 / 3}, {"epoch": 2, "elbo": -1 / 3}]
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n\0\0\0\n')
    with pytest.raises(ModelFileError, match=r"metrics\.jsonl, line 2"):
        run.history()


def test_clearing_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path)
    model, posterior = small()
    run.write_config(model, posterior, {})
    run.save_weights(model, posterior)
    run.append_metrics({"epoch": 1})
    run.write_card("card")
    keep(tmp_path / "checkpoints", 1)
    (tmp_path / "notes.txt").write_text("the user's")
    run.clear()
    assert names(tmp_path) == ["notes.txt"]
    assert not run.exists


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.touch()])
def test_a_folder_without_a_run_is_refused(tmp_path, make):
    make(tmp_path / "run")
    with pytest.raises(ModelFileError, match=str(tmp_path / "run")):
        RunFolder(tmp_path / "run").require()


def test_a_folder_saved_from_python_says_what_it_lacks(saved):
    run = RunFolder(saved).require()
    run.load()
    for ask in (run.settings, run.dataset, lambda: run.rows(None), lambda: run.shape):
        with pytest.raises(ModelFileError, match="saved from Python"):
            ask()


# --- the lock ------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from aevb.storage import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_kept_out_until_the_holder_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(TrainingError, match="in use by another process"):
                hold(tmp_path)
        finally:
            holder.send_signal(signal.SIGKILL)
        holder.wait()
    hold(tmp_path)


def hold(folder):
    with RunFolder(folder).locked():
        assert folder.is_dir()


def test_a_lock_is_exclusive_reentrant_and_let_go_of(tmp_path):
    run = RunFolder(tmp_path)
    with run.locked():
        with run.locked():
            pass
        with pytest.raises(TrainingError, match="in use"):
            hold(tmp_path)
    hold(tmp_path)


def test_a_lock_is_let_go_of_when_its_work_fails(tmp_path):
    def work():
        with RunFolder(tmp_path).locked():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    hold(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be written"):
        hold(tmp_path / "file" / "run")


def test_a_folder_that_another_process_has_just_made_is_left_to_it(tmp_path, monkeypatch):
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.locked():
        monkeypatch.setattr(Path, "exists", lambda path: False)  # as it was a moment ago
        with pytest.raises(TrainingError, match="in use"), second.locked():
            pass
        monkeypatch.undo()
        assert (tmp_path / "run").is_dir()


def test_a_folder_in_which_nothing_was_begun_is_not_left_behind(tmp_path):
    with pytest.raises(TrainingError, match="refused"), RunFolder(tmp_path / "run").locked():
        raise TrainingError("refused")
    assert not (tmp_path / "run").exists()
