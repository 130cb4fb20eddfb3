"""What every worker shares: the protocol, the data, the first weights. Needs numpy alone.

A worker is a process that reads one JSON object a line from stdin and answers each with one on
stdout; all else that is printed goes to stderr. Only the worker that was asked computes.

    {"do": "prepare", "spec": {...}}     build, compile, warm up   {"seconds", "choice"}
    {"do": "run", "units": n}            n epochs, images, steps   {"seconds"}
    {"do": "bound"}                      on the held-out rows      {"bound"}, nats per datum
    {"do": "save", "path": file}         the weights of an MLP     {}
"""

import gzip
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

WIDTH = 784
IMAGE = (1, 28, 28)
PROBE_ROWS = 2000
"""How many rows the candidates of a worker are compared on before it takes the fastest."""


@dataclass(frozen=True)
class Spec:
    """What a worker is to do; the same for all workers of a comparison but precision and choice.

    `data` and `held` are .npy files of zeros and ones, or "mnist". `choice` names one of the
    worker's candidates; without one all are tried and the fastest is taken. `warm` runs the first
    unit, with all that is compiled at it, before the clock starts.
    """

    task: str
    data: str
    held: str
    threads: int
    hidden: tuple[int, ...] = (500,)
    channels: tuple[int, ...] = ()
    latents: int = 20
    batch: int = 100
    iwae: bool = False
    samples: int = 1
    rate: float = 1e-3
    precision: str = "default"
    device: str = "cpu"
    weights: str | None = None
    choice: str | None = None
    warm: bool = True
    rows: int | None = None

    def layers(self, net: str) -> list[int]:
        """The widths of an MLP from its input to its output."""
        if net == "encoder":
            return [WIDTH, *self.hidden, 2 * self.latents]
        return [self.latents, *reversed(self.hidden), WIDTH]


class Task(Protocol):
    """What was prepared."""

    def run(self, units: int) -> None: ...

    def bound(self) -> float: ...


Maker = Callable[[Spec], Task]
Weights = dict[str, NDArray[np.float32]]


def first_weights(spec: Spec) -> Weights:
    """The weights that every MLP starts from: those of a file, or Glorot's law and zero biases.

    Shapes: "encoder.0.weight" (out, in) and "encoder.0.bias" (out,), ..., as torch has them.
    """
    if spec.weights is not None:
        with np.load(spec.weights) as archive:
            return dict(archive)
    rng = np.random.default_rng(0)
    weights: Weights = {}
    for net in ("encoder", "decoder"):
        for k, (n_in, n_out) in enumerate(pairwise(spec.layers(net))):
            most = (6 / (n_in + n_out)) ** 0.5
            weights[f"{net}.{k}.weight"] = rng.uniform(-most, most, (n_out, n_in)).astype("f4")
            weights[f"{net}.{k}.bias"] = np.zeros(n_out, "f4")
    return weights


def train_rows(spec: Spec) -> NDArray[np.uint8]:
    """The training rows, (N, 784) zeros and ones."""
    return (mnist("train") if spec.data == "mnist" else np.load(spec.data))[: spec.rows]


@lru_cache
def held_rows(spec: Spec) -> NDArray[np.uint8]:
    """The rows that bounds are reported on."""
    return mnist("t10k")[:2000] if spec.held == "mnist" else np.load(spec.held)


def mnist(part: str) -> NDArray[np.uint8]:
    """MNIST, 1 where a pixel is above one half; from the folder that AEVB_DATA names."""
    path = Path(os.environ["AEVB_DATA"]) / "mnist" / f"{part}-images-idx3-ubyte.gz"
    grey = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
    return (grey > 127).astype(np.uint8).reshape(-1, WIDTH)


def fastest(candidates: Mapping[str, Maker], units: int = 1) -> Maker:
    """A maker that makes the candidate asked for, or else the fastest of them on a few rows."""

    def make(spec: Spec) -> Task:
        choice = spec.choice or _fastest_name(candidates, spec, units)
        task = candidates[choice](spec)
        if spec.warm:
            task.run(1)
        task.choice = choice
        return task

    return make


def _fastest_name(candidates: Mapping[str, Maker], spec: Spec, units: int) -> str:
    if len(candidates) == 1:
        return next(iter(candidates))
    rows = max(spec.batch, PROBE_ROWS // spec.batch * spec.batch)
    seconds = {}
    for name, maker in candidates.items():
        try:
            task = maker(replace(spec, rows=rows))
            task.run(1)
            start = time.perf_counter()
            task.run(units)
            seconds[name] = time.perf_counter() - start
        except Exception as error:
            print(f"{name} does not run: {error}", file=sys.stderr)
    print(f"candidates, seconds: {seconds}", file=sys.stderr)
    return min(seconds, key=seconds.__getitem__)


def serve(makers: Mapping[str, Maker]) -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not be taken for answers
    task: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                task, answer = _prepare(makers, request["spec"])
            else:
                answer = _answer(task, request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


def _prepare(makers: Mapping[str, Maker], given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    start = time.perf_counter()
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    spec = Spec(**lists)
    task = makers[spec.task](spec)
    choice = getattr(task, "choice", "")
    return task, {"seconds": time.perf_counter() - start, "choice": choice}


def _answer(task: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    if request["do"] == "run":
        start = time.perf_counter()
        task.run(request["units"])
        return {"seconds": time.perf_counter() - start}
    if request["do"] == "bound":
        return {"bound": task.bound()}
    if request["do"] == "save":
        np.savez(request["path"], **task.weights())
        return {}
    raise ValueError(f"unknown request {request['do']}")
