"""Real processes that are stopped and killed, at any call that writes, resume exactly."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import command, outcome

PROBE = Path(__file__).with_name("resume_probe.py")
DIGITS = ["train", "digits", "--hidden", "16", "--latent-dim", "2", "--patience", "300"]


def stop(command, number, when):
    """Start a command, send it a signal as soon as `when()` holds; its exit code and stderr."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not when():
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    return process.returncode, said.decode()


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """Runs of a small table, each with a list of points at which to kill it, None for not at all.

    Returns the exit codes and stderr; and the folder, the outcome and the points of the whole run.
    """
    folder = tmp_path_factory.mktemp("driven")
    np.save(folder / "rows.npy", np.random.default_rng(0).integers(0, 2, (40, 6)))
    options = "--hidden 4 --latent-dim 2 --epochs 4 --batch-size 16 --lr 0.3 --patience 3 --quiet"

    def drive(runs, sent=signal.SIGKILL):
        job = {
            "arguments": ["train", str(folder / "rows.npy"), *options.split()],
            "runs": {str(folder / name): points for name, points in runs.items()},
            "report": str(folder / "points.json"),
            "signal": sent,
        }
        process = subprocess.run(
            [sys.executable, str(PROBE)],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        statuses = json.loads(process.stdout.splitlines()[-1])
        return [os.waitstatus_to_exitcode(status) for status in statuses], process.stderr

    assert drive({"whole": [None]})[0] == [0]
    points = json.loads((folder / "points.json").read_text())
    return drive, folder, outcome(folder / "whole"), points


def hits(points, name):
    return [i for i, point in enumerate(points, start=1) if point == name]


def test_a_command_that_is_stopped_saves_itself_says_so_and_resumes_exactly(drive):
    run, folder, expected, points = drive
    codes, said = run({"stopped": [hits(points, "step")[2], None]}, signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM, 0]
    assert "aevb: stopped by SIGTERM at step 3 of 8, and saved" in said
    assert str(folder / "stopped") in said
    assert "Traceback" not in said
    assert outcome(folder / "stopped") == expected


def test_kills_at_epoch_boundaries_and_inside_saves_leave_no_trace(drive):
    run, folder, expected, points = drive
    boundary, flushes = hits(points, "append_metrics"), hits(points, "fsync")
    renames, steps = hits(points, "rename"), hits(points, "step")
    assert len(boundary) == 4
    assert len(steps) == 8
    draw = random.Random(2)
    chosen = [boundary[1] + 1, steps[2], renames[-1], draw.choice(flushes)]
    chosen += [draw.choice(hits(points, "replace")), hits(points, "unlink")[-1]]
    chosen += [hits(points, "rmdir")[-1], len(points)]  # every point of all is among the slow tests
    runs = {f"at-{n}": [n, None] for n in chosen}
    assert run(runs)[0] == [-signal.SIGKILL, 0] * len(runs)
    for name in runs:
        assert outcome(folder / name) == expected, name


def test_a_run_that_is_killed_over_and_over_ends_the_same(drive):
    run, folder, expected, points = drive
    draw = random.Random(3)
    kills = [draw.randint(1, len(points) // 2) for _ in range(12)]
    codes, _ = run({"again": [*kills, None]})
    assert codes.count(-signal.SIGKILL) >= 5
    assert set(codes) <= {0, -signal.SIGKILL}
    assert outcome(folder / "again") == expected


@pytest.mark.slow
def test_a_kill_at_any_point_whatever_leaves_no_trace(drive):
    run, folder, expected, points = drive
    runs = {f"every-{n}": [n, None] for n in range(1, len(points) + 1)}
    assert run(runs)[0] == [-signal.SIGKILL, 0] * len(points)
    for name in runs:
        assert outcome(folder / name) == expected, name


@pytest.mark.slow
def test_a_command_killed_at_many_moments_ends_the_same(tmp_path):
    options = [*DIGITS, "--epochs", "300", "--optimizer", "adagrad", "--binarize", "epoch"]
    assert command(*options, "--quiet", "--out", str(tmp_path / "whole")) == 0
    run = tmp_path / "run"
    resuming = [sys.executable, "-m", "aevb.cli", *options, "--out", str(run), "--resume"]
    draw = random.Random(4)
    for attempt in range(10):
        until = time.monotonic() + draw.uniform(0, 8)
        number = signal.SIGTERM if attempt % 2 else signal.SIGKILL
        stop(resuming, number, lambda until=until: time.monotonic() > until)
    assert command(*options, "--quiet", "--out", str(run), "--resume") == 0
    assert outcome(run) == outcome(tmp_path / "whole")
