"""What is compared: each workload makes its workers, lets them take turns, and gives its lines."""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from comparison import Bench, Line, Result, Targets, compare, line, ratios, targets_of
from peers import NAMES, PAUSE, Worker, WorkerError, alternate, environment, interpreter, prepared

MAPPED_BYTES = 20_000_000_000
LEAST_BOUND = -105.0
MOST_EPOCHS = 40
COLD = "TORCHINDUCTOR_CACHE_DIR"
KEPT = "aevb, compiled, code kept"
ALL = ("numpyro", "pyro", "pythae", "eager")


def _train(
    label: str,
    targets: Targets,
    having: Sequence[str],
    epochs: int,
    bench: Bench,
    **more: Any,
) -> Result:
    spec = bench.spec("train", **more)
    units = bench.epochs(epochs)
    return compare(bench, label, having, targets, spec, units, bench.rows)


train_100 = partial(_train, "training, M = 100", targets_of((1.5, 3.5, 3.5, 3.0), 1.0), ALL, 4)
train_500 = partial(_train, "training, M = 500", targets_of((2.0,)), ALL, 4, batch=500)
two_layer = partial(
    _train,
    "two layers, IWAE K = 5",
    {},
    ALL,
    2,
    hidden=(200, 200),
    latents=50,
    iwae=True,
    samples=5,
)
convolutional = partial(
    _train,
    "convolutional, M = 100",
    targets_of((4.0, None, None, 2.0)),
    ("numpyro", "eager"),
    1,
    channels=(32, 64),
)


def evidence(bench: Bench) -> Result:
    """log p(x) by importance sampling under one trained model, the same for all."""
    trained = bench.folder / "trained.npz"
    with prepared({"aevb": ("aevb", bench.spec("train"))}) as (workers, _, _):
        workers["aevb"].run(bench.epochs(20))
        workers["aevb"].ask("save", path=str(trained))
    samples = 200 if bench.small else 5000
    spec = bench.spec("evidence", weights=str(trained), samples=samples)
    targets = targets_of((2.0, 9.0))
    label, images = f"log p(x), K = {samples}", 10 if bench.small else 50
    if bench.device == "cuda":
        images = 1000
    return compare(bench, label, ("numpyro", "pythae"), targets, spec, images, 1.0)


def startup(bench: Bench) -> Result:
    """Whole processes: the bare interpreter, imports, --help; then the time to a first step."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import aevb": [sys.executable, "-c", "import aevb"],
        "aevb --help": [sys.executable, "-m", "aevb.cli", "--help"],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    modules = {"numpyro": "numpyro", "pyro": "pyro", "pythae": "pythae.models"}
    for name in bench.asked(list(modules)):
        commands[f"import {modules[name]}"] = [interpreter(name), "-c", f"import {modules[name]}"]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(bench.rounds + 1):  # the first is for the disk's cache
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(
                command, check=True, stdout=subprocess.DEVNULL, env=environment(bench.threads)
            )
            seconds[name].append(time.perf_counter() - start)
    targets = {"import aevb": 0.1, "aevb --help": 0.3}
    lines = [
        line(name, "", values[1:], "s", targets.get(name), "lower")
        for name, values in seconds.items()
    ]
    return {"label": "start-up", "lines": lines + _first_steps(bench)}


def _first_steps(bench: Bench) -> list[Line]:
    """From the start of a process to the end of its first step; compiled ones from no cache."""
    choices: dict[str, tuple[str, str | None]] = {
        "aevb, eager": ("aevb", "eager"),
        "aevb, compiled": ("aevb", "compiled"),
    }
    fixed = {
        "numpyro": "TraceMeanField_ELBO, compiled step",
        "pyro": "TraceMeanField_ELBO, 1 thread",
        "pythae": "BaseTrainer, 1 thread",
        "eager": "DataLoader, 1 thread",
    }
    choices |= {NAMES[name]: (name, fixed[name]) for name in bench.asked(ALL)}
    lines = []
    for name, (worker, choice) in choices.items():
        spec = bench.spec("train", choice=choice, warm=False, rows=100)
        values = []
        for _ in range(min(bench.rounds, 3)):
            with tempfile.TemporaryDirectory() as cache:
                process = Worker(worker, bench.threads, **{COLD: cache})
                try:
                    process.ask("prepare", spec=spec)
                    process.run(1)
                    values.append(time.perf_counter() - process.born)
                finally:
                    process.close()
        lines.append(line("time to the first step", name, values, "s", None, "lower"))
    return lines


def memory(bench: Bench) -> Result:
    """Peaks: of every worker after training, and of aevb on a file far larger than the memory."""
    specs: dict[str, tuple[str, Result]] = {"aevb": ("aevb", bench.spec("train"))}
    specs |= {NAMES[name]: (name, bench.spec("train")) for name in bench.asked(ALL)}
    lines = []
    with prepared(specs) as (workers, _, missing):
        for name, worker in workers.items():
            worker.run(1)
            peak = worker.memory()["VmHWM"]
            target = 500.0 if name == "aevb" else None
            lines.append(line("peak memory, training", name, [peak], "MB", target, "lower"))
    return {"label": "memory", "missing": missing, "lines": lines + _mapped(bench)}


def _mapped(bench: Bench) -> list[Line]:
    """The same steps on a small resident file and on a sparse one of 20 GB."""
    steps = 50 if bench.small else 500
    peaks = {}
    for name, size in (("small", 10_000_000), ("mapped", MAPPED_BYTES)):
        path = bench.folder / f"{name}.npy"
        np.lib.format.open_memmap(path, "w+", np.uint8, (size // 784, 784))
        worker = Worker("aevb", bench.threads)
        try:
            with worker.watched() as peaks[name]:
                worker.ask("prepare", spec={**bench.spec("mapped"), "data": str(path)})
                worker.run(steps)
        finally:
            worker.close()
            path.unlink()
    kinds = {"VmHWM": "all", "RssAnon": "anonymous", "RssFile": "file-backed"}
    return [
        line(
            "20 GB file: peak above a small one",
            kind,
            [peaks["mapped"].get(key, 0.0) - peaks["small"].get(key, 0.0)],
            "MB",
            500.0 if key == "VmHWM" else None,
            "lower",
        )
        for key, kind in kinds.items()
    ]


def target(bench: Bench) -> Result:
    """From the start of a process to a test bound of -105 nats on MNIST, bytes cut at one half.

    M = 100, Adam at 1e-3 and 20 latents for all; looked at after every epoch on 2,000 test images.
    aevb runs eager; compiled, from an empty cache of the compiler; and compiled with the code that
    an earlier run of this machine kept, as all but the first have it. The best one is compared.
    """
    folder = os.environ.get("AEVB_DATA")
    if folder is None or not (Path(folder) / "mnist").is_dir():
        return {"label": "time to a bound", "missing": {"MNIST": "AEVB_DATA has no mnist/"}}
    rows = 2000 if bench.small else None
    at = {"data": "mnist", "held": "mnist", "rows": rows}
    choices = _choices(bench)
    seconds: dict[str, list[float]] = {name: [] for name in choices}
    ends: dict[str, Result] = {}
    for _ in range(bench.rounds):
        for name, (worker, choice) in choices.items():
            spec = {**bench.spec("train", choice=choice, warm=False), **at}
            with tempfile.TemporaryDirectory() as cache:
                if name == KEPT:
                    _reach(bench, worker, {**spec, "rows": 1000}, cache, 1)
                taken, ends[name] = _reach(bench, worker, spec, cache, bench.epochs(MOST_EPOCHS))
            seconds[name].append(taken)
    peers = {name: seconds[name] for name in seconds if not name.startswith("aevb")}
    own = [name for name in seconds if name.startswith("aevb")]
    first = min(own, key=lambda name: statistics.median(seconds[name]))
    label = f"time to a test bound of {LEAST_BOUND:g}"
    lines = [line(label, name, v, "s", None, "lower") for name, v in seconds.items()]
    if peers:
        second = min(peers, key=lambda name: statistics.median(peers[name]))
        values = ratios(peers[second], seconds[first])
        lines.append(line(f"{label}, {first}", f"{second} (best)", values, "x", 1.5))
    return {"label": "time to a bound", "ends": ends, "lines": lines}


def _choices(bench: Bench) -> dict[str, tuple[str, str]]:
    """Each peer's fastest candidate, found beforehand, outside the time."""
    specs = {NAMES[name]: (name, bench.spec("train")) for name in bench.asked(ALL)}
    with prepared(specs) as (workers, answers, _):
        found = {name: (workers[name].name, answers[name]["choice"]) for name in workers}
    own = {"aevb, eager": ("aevb", "eager"), "aevb, compiled": ("aevb", "compiled")}
    own[KEPT] = ("aevb", "compiled")
    return {**own, **found}


def _reach(bench: Bench, name: str, spec: Result, cache: str, most: int) -> tuple[float, Result]:
    """Seconds to the bound, or through so many epochs."""
    worker = Worker(name, bench.threads, **{COLD: cache})
    try:
        worker.ask("prepare", spec=spec)
        epochs, bound = 0, -math.inf
        while bound < LEAST_BOUND and epochs < most:
            worker.run(1)
            epochs, bound = epochs + 1, worker.ask("bound")["bound"]
        taken = time.perf_counter() - worker.born
    finally:
        worker.close()
    if bound < LEAST_BOUND and most == MOST_EPOCHS:
        raise WorkerError(f"{name} stands at {bound:.2f} nats after {epochs} epochs")
    return taken, {"epochs": epochs, "bound": round(bound, 2)}


GROWTHS: Mapping[str, Result] = {
    "10 x the data": {"data": "many"},
    "10 x the latents": {"latents": 200},
    "10 x the samples": {"samples": 10},
    "10 x the batch": {"batch": 1000},
}


def growth(bench: Bench) -> Result:
    """Time per row when something grows tenfold, over the time per row before."""
    many = bench.folder / "many.npy"
    np.save(many, np.tile(np.load(bench.data["data"]), (10, 1)))
    lines = []
    for label, change in GROWTHS.items():
        grown = {k: str(many) if v == "many" else v for k, v in change.items()}
        specs = {
            f"{name}{size}": (name, {**bench.spec("train"), **more})
            for name in ("aevb", *bench.asked(["numpyro"]))
            for size, more in (("", {}), (" grown", grown))
        }
        with prepared(specs) as (workers, _, _):
            units = dict.fromkeys(workers, 1)
            rates = alternate(workers, units, bench.rounds)
        factor = 10 if "data" in change else 1
        for name in ("aevb", *bench.asked(["numpyro"])):
            values = [v / factor for v in ratios(rates[name], rates[f"{name} grown"])]
            who = NAMES.get(name, name)
            lines.append(line(f"{label}: time per row", who, values, "x time", None, "lower"))
    return {"label": "growth", "lines": lines}


def products(bench: Bench) -> Result:
    """The matrix products of a step alone, as a share of the step."""
    lines = []
    choices = {}
    for batch, goal in ((100, 60.0), (500, 75.0)):
        for precision in ("default", "float32"):
            more = {"batch": batch, "precision": precision}
            specs = {
                "products": ("products", bench.spec("products", **more)),
                "step": ("aevb", bench.spec("train", **more)),
            }
            with prepared(specs) as (workers, answers, _):
                epochs = bench.epochs(4)
                rows = bench.rows
                units = {"products": epochs * rows // batch, "step": epochs}
                rates = alternate(workers, units, bench.rounds)
            steps = [rate * rows / batch for rate in rates["step"]]
            shares = [100 * s for s in ratios(steps, rates["products"])]
            label = f"products' share of a step, M = {batch}"
            choices[f"M = {batch}, {precision}"] = answers["products"]["choice"]
            lines.append(line(label, precision, shares, "%", goal))
    return {"label": "products", "choices": choices, "lines": lines}


@contextmanager
def burning() -> Iterator[None]:
    """Beside one process that only burns time."""
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(PAUSE)
        yield
    finally:
        burner.kill()
        burner.wait()


def busy(bench: Bench) -> Result:
    """Training beside one process that only burns time, as a share of the quiet speed.

    A run that begins beside it sees that a core is taken; one that began before it does not.
    """
    units, specs = bench.epochs(4), {"aevb": ("aevb", bench.spec("train"))}
    shares: dict[str, list[float]] = {"begun beside it": [], "begun before it": []}
    with ExitStack() as stack:
        first = stack.enter_context(prepared(specs))[0]["aevb"]
        with burning():
            second = stack.enter_context(prepared(specs))[0]["aevb"]
        for _ in range(bench.rounds):
            time.sleep(PAUSE)
            quiet = first.run(units)
            with burning():
                shares["begun beside it"].append(100 * quiet / second.run(units))
                shares["begun before it"].append(100 * quiet / first.run(units))
    label = f"speed beside a busy process, threads: {bench.threads}"
    goals = {"begun beside it": 40.0}
    lines = [line(label, k, values, "%", goals.get(k)) for k, values in shares.items()]
    return {"label": "busy", "lines": lines}


WORKLOADS: Mapping[str, Callable[[Bench], Result]] = {
    "train-100": train_100,
    "train-500": train_500,
    "two-layer": two_layer,
    "convolutional": convolutional,
    "evidence": evidence,
    "startup": startup,
    "memory": memory,
    "target": target,
    "growth": growth,
    "products": products,
    "busy": busy,
}
