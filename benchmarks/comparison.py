"""How a comparison is made: its data, its lines, and aevb beside its peers in turns.

A line is one number with its spread and its target: {"label", "against", "value", "low", "high",
"unit", "better", "target"}; the table and the figure are made of lines.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from peers import NAMES, alternate, prepared

Result = dict[str, Any]
Line = dict[str, Any]
Targets = Mapping[tuple[str, str], float]
FLOAT32, BFLOAT16, TWIN = "aevb float32", "aevb bfloat16", "aevb, not compiled"
PRECISIONS = {FLOAT32: "float32", BFLOAT16: "bfloat16"}


@dataclass
class Bench:
    """How to measure, and where the data of the comparison lie."""

    peers: Sequence[str]
    rounds: int
    threads: int
    small: bool
    folder: Path
    device: str = "cpu"

    @property
    def rows(self) -> int:
        """Of training, in an epoch."""
        return 1000 if self.small else 50_000 if self.device == "cuda" else 10_000

    @cached_property
    def data(self) -> dict[str, str]:
        """Files of zeros and ones from a logistic model of 12 factors, training and held out."""
        rng = np.random.default_rng(0)
        loadings = 0.8 * rng.standard_normal((12, 784))
        base = rng.normal(-2.0, 1.0, 784)
        paths = {}
        for name, rows in (("data", self.rows), ("held", 2000)):
            logits = rng.standard_normal((rows, 12)) @ loadings + base
            bits = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
            paths[name] = str(self.folder / f"{name}.npy")
            np.save(paths[name], bits.astype(np.uint8))
        return paths

    def spec(self, task: str, **more: Any) -> Result:
        about = {"task": task, "threads": self.threads, "device": self.device}
        return {**about, **self.data, **more}

    def epochs(self, many: int) -> int:
        return 1 if self.small or self.device == "cuda" else many

    def asked(self, having: Sequence[str]) -> list[str]:
        return [name for name in having if name in self.peers]


def spread(values: Sequence[float]) -> Result:
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}


def line(
    label: str,
    against: str,
    values: Sequence[float],
    unit: str,
    target: float | None = None,
    better: str = "higher",
) -> Line:
    numbers = {k: float(f"{v:.4g}") for k, v in spread(values).items()}
    about = {"unit": unit, "better": better, "target": target}
    return {"label": label, "against": against, **numbers, **about}


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def compare(
    bench: Bench,
    label: str,
    having: Sequence[str],
    targets: Targets,
    spec: Result,
    units: int,
    per_unit: float,
) -> Result:
    """aevb beside its peers, in turns; training at both precisions, and uncompiled too."""
    specs: dict[str, tuple[str, Result]] = {"aevb": ("aevb", spec)}
    specs |= {NAMES[name]: (name, spec) for name in bench.asked(having)}
    kinds = {"aevb": label}
    if spec["task"] == "train":
        single = {**spec, "precision": "float32"}
        specs |= {FLOAT32: ("aevb", single), TWIN: ("aevb", {**single, "choice": "eager"})}
        kinds = {"aevb": f"{label}, default", FLOAT32: f"{label}, float32"}
    if spec["task"] == "evidence":
        specs[BFLOAT16] = ("aevb", {**spec, "precision": "bfloat16"})
        kinds = {"aevb": f"{label}, default (float32)", BFLOAT16: f"{label}, bfloat16"}
    with prepared(specs) as (workers, answers, missing):
        rates = alternate(workers, dict.fromkeys(workers, units), bench.rounds)
        bounds = {k: round(worker.ask("bound")["bound"], 3) for k, worker in workers.items()}
        memory = {k: round(w.memory().get("VmHWM", 0.0)) for k, w in workers.items()}
    lines = []
    for ours, text in kinds.items():
        precision = PRECISIONS.get(ours, "default")
        for theirs in (name for name in (*NAMES.values(), TWIN) if {name, ours} <= rates.keys()):
            target = targets.get((precision, theirs))
            values = ratios(rates[ours], rates[theirs])
            lines.append(line(text, theirs, values, "x", target))
    return {
        "label": label,
        "unit": "images/s",
        "rates": {
            k: {part: round(v * per_unit, 1) for part, v in spread(values).items()}
            for k, values in rates.items()
        },
        "bounds": bounds,
        "peak_memory_mb": memory,
        "preparation_seconds": {k: round(a["seconds"], 1) for k, a in answers.items()},
        "choices": {k: a["choice"] for k, a in answers.items()},
        "missing": missing,
        "lines": lines,
    }


def targets_of(default: Sequence[float | None], float32: float | None = None) -> Targets:
    """Targets at the default precision beside NumPyro, pythae, Pyro, eager; of float32."""
    order = (NAMES["numpyro"], NAMES["pythae"], NAMES["pyro"], NAMES["eager"])
    pairs = zip(order, default, strict=False)
    found = {("default", name): value for name, value in pairs if value is not None}
    return found | ({("float32", order[0]): float32} if float32 is not None else {})
