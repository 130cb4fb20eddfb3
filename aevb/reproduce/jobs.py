"""Independent jobs: several at once in processes of their own, each done once and for all.

    jobs/KEY/          where a job works: its checkpoints, what it has measured so far
    jobs/KEY.json      its name, settings, result and seconds, written whole once it is done

KEY is the name and a checksum of the settings: a job of other settings is another job, and what is
done stays done, whatever is asked for next. A job that was stopped or killed is given the same
folder again.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from aevb.errors import AevbError, Interrupted, TrainingError, UsageError
from aevb.files import replace_atomically
from aevb.machine import usable_cores
from aevb.storage import RunFolder
from aevb.storage.files import read_json, sha256, to_json, writing

logger = logging.getLogger("aevb")

Share = Callable[[float], None]
"""Told the share of a job that is done, between 0 and 1."""
Work = Callable[[Mapping[str, Any], Path, Share], dict[str, Any]]
"""A job's settings, its folder, and whom to tell, to its result, ready for JSON."""
UNITS = 1000
"""Parts of a job, as progress counts them."""
SECONDS_BETWEEN_SHARES = 0.2


@dataclass(frozen=True)
class Job:
    """A piece of work with a name, all that decides its result as JSON, and the function for it.

    `work` is a function of a module, so that another process finds it.
    """

    name: str
    settings: Mapping[str, Any]
    work: Work

    @property
    def key(self) -> str:
        """The name with a checksum of the settings."""
        return f"{self.name}-{sha256(to_json(dict(self.settings)))[:8]}"


@dataclass(frozen=True)
class How:
    """How many jobs at once (as many as there are cores), and the threads of each."""

    at_once: int | None = None
    threads: int = 1

    def processes(self, jobs: int) -> int:
        """So many at once of so many jobs."""
        most = max(1, usable_cores() // self.threads) if self.at_once is None else self.at_once
        return max(1, min(most, jobs))


USUAL = How()


def run_all(
    jobs: Sequence[Job],
    folder: Path,
    how: How = USUAL,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Do what is not done of the jobs, and return the record of each by its name.

    A record is {"name", "settings", "result", "seconds"}. One job at a time runs in this process.
    Errors: TrainingError where jobs fail, which names them, once all others are done;
    TrainingError where another process works in the folder; Interrupted after SIGINT or SIGTERM,
    once every job has saved itself.
    """
    if len({job.name for job in jobs}) < len(jobs):
        raise UsageError("two jobs have one name: give each its own")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).locked():
        waiting = [job for job in jobs if not _record(folder, job).exists()]
        shares = _Shares(jobs, waiting, progress)
        many = how.processes(len(waiting)) > 1
        failures = (_in_processes if many else _one_by_one)(waiting, folder, how, shares)
        if failures:
            said = "; ".join(f"{name}: {sentence}" for name, sentence in failures.items())
            raise TrainingError(
                f"{len(failures)} of {len(jobs)} jobs failed ({said}); the others are kept in "
                f"{folder}: mend what failed, and give the same command again"
            )
        return {job.name: read_json(_record(folder, job)) for job in jobs}


def _record(folder: Path, job: Job) -> Path:
    return folder / "jobs" / f"{job.key}.json"


class _Shares:
    """The shares of all jobs as one count, for a bar."""

    def __init__(
        self,
        jobs: Sequence[Job],
        waiting: Sequence[Job],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        names = {job.name for job in waiting}
        self.done = {job.name: 0.0 if job.name in names else 1.0 for job in jobs}
        self.progress = progress
        self.over = len(jobs) - len(waiting)

    def tell(self, name: str, share: float) -> None:
        self.done[name] = share
        if self.progress is not None:
            self.progress(round(UNITS * sum(self.done.values())), UNITS * len(self.done))

    def finish(self, name: str, sentence: str | None) -> None:
        """A job is over, well or with a sentence that says why not."""
        self.tell(name, 1.0)
        self.over += 1
        logger.info(f"{name}: {sentence or 'done'} ({self.over} of {len(self.done)})")


def _do(job: Job, folder: Path, share: Share) -> None:
    """Do a job, and put its record where it marks the job as done."""
    place = folder / "jobs" / job.key
    place.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    result = job.work(job.settings, place, share)
    content = {
        "name": job.name,
        "settings": dict(job.settings),
        "result": result,
        "seconds": time.perf_counter() - started,
    }
    with writing(place):
        replace_atomically(_record(folder, job), to_json(content))


def _one_by_one(waiting: Sequence[Job], folder: Path, how: How, shares: _Shares) -> dict[str, str]:
    """The jobs in this process; the sentence of each that fails."""
    failures = {}
    with _threads(how.threads):
        for job in waiting:
            try:
                _do(job, folder, partial(shares.tell, job.name))
            except Interrupted as stop:
                raise _stopped(stop.exit_code - 128) from stop
            except Exception as error:
                failures[job.name] = _sentence(error)
            shares.finish(job.name, failures.get(job.name))
    return failures


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sentence(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    text = said[0] if said else "no message"
    return text if isinstance(error, AevbError) else f"{type(error).__name__}: {text}"


def _stopped(number: int) -> Interrupted:
    name = signal.Signals(number).name
    return Interrupted(
        f"stopped by {name}, and saved: give the same command again to go on", number
    )


# -- processes ------------------------------------------------------------------------------------


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    said: str | None = None


def _in_processes(
    waiting: Sequence[Job], folder: Path, how: How, shares: _Shares
) -> dict[str, str]:
    """The jobs in processes of their own, so many at once; the sentence of each that fails."""
    queue, running = deque(waiting), dict[Connection, _Running]()
    failures: dict[str, str] = {}
    with _signals() as asked:
        try:
            while (queue or running) and not asked:
                while queue and len(running) < how.processes(len(waiting)):
                    job = queue.popleft()
                    told, process = _start(job, folder, how.threads)
                    running[told] = _Running(job, process)
                ready = wait(list(running), timeout=1.0)
                for told in [one for one in running if one in ready]:
                    _listen(told, running, shares, failures)
        finally:
            _end([one.process for one in running.values()], asked)
    if asked:
        raise _stopped(asked[0])
    return failures


def _start(job: Job, folder: Path, threads: int) -> tuple[Connection, BaseProcess]:
    # A fork would take over the locks of threads that it does not have.
    context = multiprocessing.get_context("spawn")
    told, tells = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(job, folder, threads, tells), name=job.name)
    # It inherits that SIGINT is blocked: Ctrl-C goes to all, and this process says when to stop.
    # The tracker of resources comes first: where a process starts it, it lets SIGINT in again, and
    # the second signal, this process's, would be taken for one who does not wait for the saving.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    tells.close()  # the end of the process is the end of the pipe
    return told, process


def _end(processes: Sequence[BaseProcess], asked: Sequence[int]) -> None:
    """Let each save itself and end; at once where that is asked for a second time."""
    for process in processes:
        process.terminate()
    while alive := [process for process in processes if process.is_alive()]:
        alive[0].join(0.2)
        if len(asked) > 1:
            for process in alive:
                process.kill()


def _listen(
    told: Connection, running: dict[Connection, _Running], shares: _Shares, failures: dict[str, str]
) -> None:
    """Take what a process says: a share, the sentence of a failure, or that it has ended."""
    one = running[told]
    try:
        said = told.recv()
    except EOFError:
        del running[told]
        told.close()
        one.process.join()
        code = one.process.exitcode
        if code and one.said is None:
            one.said = f"its process was killed by signal {-code}" if code < 0 else f"exit {code}"
        if one.said is not None:
            failures[one.job.name] = one.said
        shares.finish(one.job.name, one.said)
        return
    if isinstance(said, float):
        shares.tell(one.job.name, said)
    else:
        one.said = said


def _serve(job: Job, folder: Path, threads: int, tells: Connection) -> None:
    """What a process does: one job, and to say how far it is, or why it failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    last = 0.0

    def share(done: float) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_SHARES:
            last = time.monotonic()
            tells.send(float(done))

    with _threads(threads):
        try:
            _do(job, folder, share)
        except (KeyboardInterrupt, Interrupted):
            os._exit(130)
        except Exception as error:
            tells.send(_sentence(error))
    tells.close()


def _end_with_parent() -> None:
    """Stop, as if asked to, where the process that started this one was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM noted in a list, in place of ending the program."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {n: signal.signal(n, lambda number, frame: asked.append(number)) for n in numbers}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
