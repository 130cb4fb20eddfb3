"""Jobs: each done once, beside one another, whatever is stopped, killed or fails in between."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs_probe
import pytest

from aevb.errors import TrainingError, UsageError
from aevb.reproduce import How, Job, run_all
from aevb.storage import RunFolder

TESTS = Path(__file__).parent
ONE, TWO = How(1), How(2)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def squares(log, numbers, work=jobs_probe.square):
    return [Job(f"n{n}", {"n": n, "log": str(log)}, work) for n in numbers]


def ran(log):
    return sorted(int(line) for line in log.read_text().split())


def test_each_job_is_done_once_and_its_record_is_what_is_kept(tmp_path, log):
    jobs = squares(log, (2, 3))
    first = run_all(jobs, tmp_path / "out", ONE)
    assert {name: record["result"]["square"] for name, record in first.items()} == {
        "n2": 4,
        "n3": 9,
    }
    assert run_all(jobs, tmp_path / "out", ONE) == first
    assert ran(log) == [2, 3]
    kept = json.loads((tmp_path / "out" / "jobs" / f"{jobs[0].key}.json").read_text())
    assert kept == first["n2"]
    assert kept["settings"] == {"n": 2, "log": str(log)}


def test_a_job_of_other_settings_is_another_job(tmp_path, log):
    first = run_all([Job("n", {"n": 2, "log": str(log)}, jobs_probe.square)], tmp_path, ONE)
    run_all([Job("n", {"n": 3, "log": str(log)}, jobs_probe.square)], tmp_path, ONE)
    again = run_all([Job("n", {"n": 2, "log": str(log)}, jobs_probe.square)], tmp_path, ONE)
    assert again == first
    assert ran(log) == [2, 3]


def test_a_job_that_fails_is_named_and_leaves_the_others(tmp_path, log):
    jobs = [*squares(log, (5,), jobs_probe.fail_until_mended), *squares(log, (2, 3))]
    with pytest.raises(TrainingError, match=r"1 of 3 jobs failed \(n5: ValueError: there is no su"):
        run_all(jobs, tmp_path / "out", ONE)
    assert ran(log) == [2, 3]
    (tmp_path / "mended").touch()
    assert run_all(jobs, tmp_path / "out", ONE)["n5"]["result"] == {"square": 25}
    assert ran(log) == [2, 3, 5]


def test_processes_that_fail_or_are_killed_are_named_and_leave_the_others(tmp_path, log):
    bad = squares(log, (5,), jobs_probe.fail_until_mended)
    jobs = [*bad, Job("victim", {}, jobs_probe.die), *squares(log, (2,))]
    with pytest.raises(TrainingError, match="2 of 3 jobs failed") as caught:
        run_all(jobs, tmp_path / "out", TWO)
    assert "n5: ValueError: there is no such number" in str(caught.value)
    assert "victim: its process was killed by signal 9" in str(caught.value)
    assert ran(log) == [2]


def test_progress_counts_what_is_done_already(tmp_path, log):
    told: list[tuple[int, int]] = []
    run_all(squares(log, (2,)), tmp_path, ONE)
    run_all(squares(log, (2, 3)), tmp_path, ONE, lambda done, total: told.append((done, total)))
    assert told == [(1500, 2000), (2000, 2000)]


def test_two_jobs_of_one_name_and_a_folder_in_use_are_refused(tmp_path, log):
    with pytest.raises(UsageError, match="two jobs have one name"):
        run_all(squares(log, (2, 2)), tmp_path, ONE)
    with (
        RunFolder(tmp_path / "out").locked(),
        pytest.raises(TrainingError, match="in use by another process"),
    ):
        run_all(squares(log, (2,)), tmp_path / "out", ONE)


def test_as_many_processes_as_there_are_cores_for_their_threads(monkeypatch):
    monkeypatch.setattr("aevb.reproduce.jobs.usable_cores", lambda: 8)
    assert [How().processes(20), How().processes(3), How(None, 3).processes(20)] == [8, 3, 2]
    assert [How(5).processes(20), How(None, 16).processes(20), How().processes(0)] == [5, 1, 1]


def results(folder):
    done = run_all(jobs_probe.long_jobs(), folder, ONE)
    return {name: record["result"] for name, record in done.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the jobs find that nothing stops."""
    return results(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_what_is_stopped_or_killed_goes_on_and_ends_as_if_it_had_not_been(whole, tmp_path, number):
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "jobs_probe.py"), str(folder)],
        env=environment() | {"SECONDS_OF_A_STEP": "0.1"},  # it is met midway, however slow
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: len(list(folder.glob("jobs/*/curve.json"))) == 2)
    if number == signal.SIGINT:  # as a terminal does: to every process of the group
        os.killpg(process.pid, number)
    else:
        process.kill()
    said, _ = process.communicate(timeout=60)
    # Processes whose parent was killed save themselves too, and let go of their folders.
    until(lambda: all(is_free(place) for place in folder.glob("jobs/*/")))
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "stopped by SIGINT, and saved: give the same command again" in said
    assert not list(folder.glob("jobs/*.json"))
    assert len(list(folder.glob("jobs/*/checkpoints/step-*"))) >= 2
    # Ctrl-C reaches the processes by the one that started them alone: not twice.
    assert not list(folder.glob(f"jobs/*/{jobs_probe.HEARS}"))
    assert results(folder) == whole


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS), *sys.path])}


def until(done, seconds=120):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_free(place):
    try:
        with RunFolder(place).locked():
            return True
    except TrainingError:
        return False
