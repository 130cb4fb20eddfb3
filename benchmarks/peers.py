"""The peers: an environment for each, made from the package registry, and workers that run in them.

Each peer of `requirements/` gets `.bench/NAME/`, made once with `python -m venv` and pip; torch
comes first and pinned, so that no peer chooses a build of it. aevb, and plain PyTorch beside it,
run in the interpreter that runs this.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".bench"
NAMES = {"numpyro": "NumPyro", "pyro": "Pyro", "pythae": "pythae", "eager": "PyTorch, eager"}
PAUSE = 0.3
"""Seconds between two turns, in which the threads of the last worker fall asleep."""


class WorkerError(Exception):
    """What a worker answered when it could not do what it was asked."""


def interpreter(name: str) -> str:
    """The python that runs a worker of this name."""
    if not (HERE / "requirements" / f"{name}.txt").exists():
        return sys.executable
    folder = "Scripts" if os.name == "nt" else "bin"
    return str(ENVIRONMENTS / name / folder / "python")


def install(name: str) -> None:
    """Make the environment of a peer, unless it is there with these requirements."""
    wanted = HERE / "requirements" / f"{name}.txt"
    made = ENVIRONMENTS / name / "requirements.txt"
    if not wanted.exists() or (made.exists() and made.read_text() == wanted.read_text()):
        return
    print(f"installing {name} into {ENVIRONMENTS.name}/{name}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(made.parent)], check=True)
    pip = [interpreter(name), "-m", "pip", "install", "--quiet"]
    for line in wanted.read_text().split():
        if line.startswith("torch=="):
            subprocess.run([*pip, line], check=True)
    subprocess.run([*pip, "--requirement", str(wanted)], check=True)
    shutil.copy(wanted, made)


def environment(threads: int, **more: str) -> dict[str, str]:
    """The variables of a worker's process."""
    counts = {f"{kind}_NUM_THREADS": str(threads) for kind in ("OMP", "MKL", "OPENBLAS")}
    return {**os.environ, **counts, **more}


class Worker:
    """A worker process; what it prints goes to `.bench/log/NAME.txt`."""

    def __init__(self, name: str, threads: int, **variables: str) -> None:
        self.name, self.born = name, time.perf_counter()
        log = ENVIRONMENTS / "log" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        script = HERE / "workers" / f"{name}_worker.py"
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [interpreter(name), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(threads, **variables),
            )

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """One request and its answer; WorkerError where it has none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **more}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the process ended; see .bench/log/{self.name}.txt")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def run(self, units: int) -> float:
        """Seconds for so many units."""
        return float(self.ask("run", units=units)["seconds"])

    def memory(self) -> dict[str, float]:
        """Resident memory in MB: its peak, and now the anonymous and the file-backed part."""
        fields = ("VmHWM", "RssAnon", "RssFile", "RssShmem")
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return {}
        pairs = [line.split(":", 1) for line in lines]
        return {k: int(v.split()[0]) * 1024 / 1e6 for k, v in pairs if k in fields}

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[str, float]]:
        """The peaks of `memory` while the block runs, looked at every 20 ms."""
        peaks: dict[str, float] = {}
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                for name, value in self.memory().items():
                    peaks[name] = max(peaks.get(name, 0.0), value)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield peaks
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@contextlib.contextmanager
def prepared(
    specs: Mapping[str, tuple[str, Mapping[str, Any]]],
) -> Iterator[tuple[dict[str, Worker], dict[str, dict[str, Any]], dict[str, str]]]:
    """Workers by the name of their line, each (worker's name, spec), prepared one after another.

    Gives the workers, what each answered, and a sentence for each that could not be prepared.
    """
    workers: dict[str, Worker] = {}
    answers: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    try:
        for line, (name, spec) in specs.items():
            worker = Worker(name, int(spec["threads"]), JAX_PLATFORMS=spec["device"])
            try:
                answers[line] = worker.ask("prepare", spec=dict(spec))
                workers[line] = worker
            except WorkerError as error:
                missing[line] = str(error)
                worker.close()
                print(f"  {line}: {error}", file=sys.stderr, flush=True)
        yield workers, answers, missing
    finally:
        for worker in workers.values():
            worker.close()


def alternate(
    workers: Mapping[str, Worker], units: Mapping[str, int], rounds: int
) -> dict[str, list[float]]:
    """Units per second of each worker in each round; one computes at a time, the order turns."""
    rates: dict[str, list[float]] = {line: [] for line in workers}
    order = list(workers)
    for k in range(rounds):
        turn = k % max(len(order), 1)
        for line in order[turn:] + order[:turn]:
            time.sleep(PAUSE)
            rates[line].append(units[line] / workers[line].run(units[line]))
    return rates


def versions(names: Sequence[str]) -> dict[str, str]:
    """The pins of the peers that were run."""
    pins = {}
    for name in names:
        path = HERE / "requirements" / f"{name}.txt"
        for line in path.read_text().split() if path.exists() else []:
            package, _, version = line.partition("==")
            pins[package] = version
    return pins
