"""The machine: cores that others keep busy are found; a step's freed memory is kept."""

import subprocess
import sys
from functools import partial

import pytest

from aevb import machine
from aevb.machine import Look, usable_threads


def statistics(path, busy):
    """A file as Linux has it: user nice system idle iowait irq softirq steal, in hundredths."""
    lines = [f"cpu{i} {b} 0 0 1000 7 0 0 50 0 0" for i, b in enumerate(busy)]
    path.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 5 6", "ctxt 9"]))
    return path


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    """A look taken now is one at 100 seconds, when this process has used 9."""
    monkeypatch.setattr(machine, "Look", partial(Look, at=100.0, own=9.0))


@pytest.mark.parametrize(
    ("others", "own", "idle"),
    [((0, 0), 0.0, 2), ((100, 0), 0.0, 1), ((100, 100), 0.0, 1), ((100, 100), 1.0, 1)],
)
def test_cores_that_others_keep_busy_are_not_idle(tmp_path, monkeypatch, others, own, idle):
    monkeypatch.setattr(machine, "_cores", lambda: {0, 1})
    monkeypatch.setattr(machine, "_STATISTICS", statistics(tmp_path / "stat", others))
    past = Look(at=99.0, busy=0.0, own=9.0 - own)
    assert past.idle_cores_since() == idle
    assert usable_threads(2, past) == idle
    assert usable_threads(1, past) == 1


def test_work_of_this_process_leaves_its_cores_idle(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_cores", lambda: {0, 1})
    monkeypatch.setattr(machine, "_STATISTICS", statistics(tmp_path / "stat", (100, 80)))
    past = Look(at=99.0, busy=0.0, own=7.2)
    assert past.idle_cores_since() == 2


def test_cores_of_others_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_cores", lambda: {1, 2})
    monkeypatch.setattr(machine, "_STATISTICS", statistics(tmp_path / "stat", (500, 0, 0)))
    assert Look(at=99.0, busy=0.0, own=9.0).idle_cores_since() == 2


@pytest.mark.parametrize("content", [None, "", "cpu0 what", "cpu0 1"])
def test_where_nobody_tells_all_threads_are_used(tmp_path, monkeypatch, content):
    path = tmp_path / "stat"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(machine, "_STATISTICS", path)
    monkeypatch.setattr(machine, "_cores", lambda: {0})
    past = Look(at=99.0, busy=None)
    assert past.idle_cores_since() is None
    assert usable_threads(7, past) == 7


FAULTS = """
import resource
from contextlib import nullcontext
import torch
from aevb.machine import kept_memory

def faults(context):
    with context:
        for _ in range(20):  # once without counting: the memory has to come from somewhere
            torch.ones(2_000_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(50):
            blocks = [torch.ones(2_000_000) for _ in range(3)]
            del blocks
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = faults(kept_memory())
print(kept)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's")
def test_freed_memory_is_kept_for_the_next_step():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # 50 times three blocks of 8 MB are 300,000 pages: they are asked for once or twice, not always
    assert int(done.stdout) < 20_000
