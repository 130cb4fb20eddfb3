"""Examples per second of the compiled step and of its eager twin, alternating in one run.

The paper's model of MNIST, 784-500-20-500-784, tanh, Bernoulli, L = 1, Adam, data resident, for
M = 100 and 500; random bits stand in for images. Run it on a machine with nothing else to do:

    python benchmarks/step.py [--threads N] [--rounds R]
"""

import argparse
import json
import platform
import time

import numpy as np
import torch

import aevb
from aevb.data import Rows
from aevb.posterior import Batch


def learner(compiled: bool) -> aevb.AEVB:
    torch.manual_seed(0)
    model = aevb.Model(aevb.standard_normal(20), aevb.bernoulli(aevb.MLP(20, [500], 784)))
    posterior = aevb.mean_field(aevb.MLP(784, [500], 40))
    return aevb.AEVB(model, posterior, compiled=compiled)


def examples_per_second(step: aevb.AEVB, state: object, rows: Rows, m: int, steps: int) -> float:
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for t in range(steps):
        positions = rng.integers(0, len(rows), m)
        batch = Batch(rows.batch(positions, t), torch.from_numpy(positions))
        step.step(state, batch, torch.randn(1, m, 20))
    return m * steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    values = (np.random.default_rng(0).random((10_000, 784)) < 0.13).astype(np.uint8)
    rows = Rows(values, np.arange(len(values)), (784,))
    result: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "cores": torch.get_num_threads(),
        "torch": torch.__version__,
        "threads": arguments.threads,
    }
    for m in (100, 500):
        speeds: dict[str, list[float]] = {"eager": [], "compiled": []}
        runs = {name: learner(name == "compiled") for name in speeds}
        states = {name: run.init() for name, run in runs.items()}
        for name, run in runs.items():
            examples_per_second(run, states[name], rows, m, 20)
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                speeds[name].append(examples_per_second(run, states[name], rows, m, 40_000 // m))
        medians = {name: float(np.median(values)) for name, values in speeds.items()}
        ratios = [c / e for c, e in zip(speeds["compiled"], speeds["eager"], strict=True)]
        result[f"M={m}"] = {
            **{name: round(speed) for name, speed in medians.items()},
            "compiled / eager": round(float(np.median(ratios)), 2),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
