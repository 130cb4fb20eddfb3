"""What a person sees of a run: a bar on a terminal, lines in a pipe, nothing if they ask so."""

import json
import logging
import os
import pty
import re
import sys
import threading

import pytest
from helpers import TRAIN, command

from aevb import progress
from aevb.storage import checkpoints


@pytest.fixture
def on_a_terminal(monkeypatch):
    """Run a command whose stderr is a terminal; what was written to it."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments, **environment):
        monkeypatch.setenv("TERM", "xterm-256color")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        master, slave = pty.openpty()
        pieces = []

        def drain():
            while True:
                try:
                    piece = os.read(master, 65536)
                except OSError:
                    return
                if not piece:
                    return
                pieces.append(piece)

        reader = threading.Thread(target=drain)
        reader.start()
        with monkeypatch.context() as patch, os.fdopen(slave, "w") as terminal:
            patch.setattr(sys, "stderr", terminal)
            code = command(*arguments)
        reader.join(timeout=10)
        os.close(master)
        assert code == 0
        return b"".join(pieces).decode()

    return run


BAR, COLOR, ESCAPE = "━", re.compile(r"\x1b\[[0-9;]*(3[0-9]|38;[0-9;]+)m"), "\x1b["


def test_a_terminal_gets_a_bar(on_a_terminal, tmp_path):
    said = on_a_terminal(*TRAIN, "--epochs", "3", "--out", str(tmp_path / "run"))
    assert BAR in said
    assert COLOR.search(said)
    assert "epoch 3/3" in said
    assert "1437 training rows" in said
    assert "train bound" not in said


def test_no_color_is_respected(on_a_terminal, tmp_path):
    options = [*TRAIN, "--epochs", "3", "--out", str(tmp_path / "run")]
    said = on_a_terminal(*options, NO_COLOR="1")
    assert BAR in said
    assert not COLOR.search(said)


def test_a_terminal_that_cannot_redraw_gets_lines(on_a_terminal, tmp_path):
    said = on_a_terminal(*TRAIN, "--epochs", "3", "--out", str(tmp_path / "run"), TERM="dumb")
    assert BAR not in said
    assert ESCAPE not in said
    assert said.count("validation bound") == 3


def test_verbose_on_a_terminal_has_both(on_a_terminal, tmp_path):
    said = on_a_terminal(*TRAIN, "--epochs", "3", "-v", "--out", str(tmp_path / "run"))
    assert BAR in said
    assert len(re.findall(r"epoch \d/3  train bound", said)) == 3


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_a_quiet_terminal_stays_empty(on_a_terminal, tmp_path, option):
    assert on_a_terminal(*TRAIN, "--epochs", "2", option, "--out", str(tmp_path / "run")) == ""


def test_a_pipe_gets_about_ten_lines_or_one_for_every_epoch(tmp_path, capfd):
    capfd.readouterr()
    assert command(*TRAIN, "--epochs", "20", "--out", str(tmp_path / "a")) == 0
    out, plain = capfd.readouterr()
    assert len(plain.splitlines()) == 11  # the data, then ten
    assert ESCAPE not in plain
    assert command(*TRAIN, "--epochs", "11", "--verbose", "--out", str(tmp_path / "b")) == 0
    _, verbose = capfd.readouterr()
    lines = [line for line in verbose.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 11
    pattern = (
        r"epoch 7/11  train bound -?[\d.]+  reconstruction -?[\d.]+  KL [\d.]+  validation bound "
        r"-?[\d.]+  reconstruction -?[\d.]+  KL [\d.]+ nats  [\d.]+ s  [\d,]+ rows/s  overhead "
        r"[\d.]+%  learning rate x [\d.]+"
    )
    assert re.fullmatch(pattern, lines[6])
    assert "threads: " in verbose
    assert "threads: " not in plain
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(("epochs", "lines"), [(1, 1), (9, 9), (19, 10), (25, 9), (1000, 10)])
def test_a_run_of_any_length_writes_about_ten_lines(capfd, epochs, lines):
    record = {"validation": {"elbo": -1.0, "reconstruction": -1.0, "kl": 0.0}, "rows_per_second": 1}
    capfd.readouterr()
    with progress.follow() as (follower,):
        follower.begin(0, epochs * 3, 3)
        for epoch in range(1, epochs + 1):
            follower.epoch(record | {"epoch": epoch})
    said = capfd.readouterr().err.splitlines()
    assert len(said) == lines
    assert said[-1].startswith(f"epoch {epochs}/{epochs} ")


def test_verbose_leaves_json_alone(tmp_path, capfd):
    capfd.readouterr()
    assert command(*TRAIN, "--epochs", "2", "-v", "--json", "--out", str(tmp_path / "run")) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["epochs"] == 2
    assert err == ""


def test_quiet_and_verbose_exclude_each_other(tmp_path, capfd):
    capfd.readouterr()
    assert command(*TRAIN, "--quiet", "--verbose", "--out", str(tmp_path / "run")) == 2
    assert capfd.readouterr().err == (
        "aevb: --quiet and --verbose exclude each other: choose one\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("quiet", [False, True])
def test_what_went_wrong_is_shown_unless_quiet(tmp_path, capfd, quiet):
    run = tmp_path / "run"
    options = [*TRAIN, "--epochs", "2", "--out", str(run)]
    assert command(*options, "--quiet") == 0
    (newest,) = (run / "checkpoints").glob("step-*")
    (newest / checkpoints.TENSORS).write_bytes(b"")
    capfd.readouterr()
    assert command(*options, "--resume", *(["--quiet"] if quiet else [])) == 0
    _, err = capfd.readouterr()
    assert (f"{newest} is damaged" in err) != quiet
    assert (err == "") == quiet


def test_the_logger_is_left_as_it_was_found():
    logger = logging.getLogger("aevb")
    before = logger.level, list(logger.handlers)
    follower = progress.follow(progress.Verbosity.VERBOSE)
    follower.__enter__()
    assert logger.level == logging.DEBUG
    assert len(logger.handlers) == len(before[1]) + 1
    error = RuntimeError("stopped")
    assert not follower.__exit__(RuntimeError, error, None)
    assert (logger.level, list(logger.handlers)) == before
