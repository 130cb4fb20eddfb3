"""Estimators of log p(x) against one another, on models of static MNIST of 2 to 50 dimensions.

    python benchmarks/estimators.py [RUN ...] [--rows 1000] [--out FOLDER]

Each model is `aevb train binarized-mnist` with the options below, and each estimate `aevb evaluate`
with those beside it, on the first rows of the test set, the same for all: differences between
estimates have a far smaller error than the numbers. What is there already is not computed again;
the table is printed at the end and kept in estimators.json.
Needs `binarized_mnist/` in the folder that AEVB_DATA names (static binarization).
"""

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

RESULTS = Path(__file__).with_name("estimators.json")
NETWORK = ("--activation", "tanh", "--threads", "1")
RUNS = {
    "2": ("--hidden", "200", "--epochs", "60"),
    "3": ("--hidden", "200", "--epochs", "60"),
    "10": ("--hidden", "200,200", "--epochs", "60"),
    "50": ("--hidden", "200,200", "--epochs", "100"),
}
"""By their latent dimensions."""
FEW = {
    "importance, 5,000": ("importance", "--samples", "5000"),
    "importance, 100,000": ("importance", "--samples", "100000"),
    "importance, 100,000, a tenth from the prior": (
        *("importance", "--samples", "100000"),
        *("--proposals", "encoder,prior"),
    ),
    "ais from the encoder, 16 x 100": ("ais",),
    "ais from the prior, 16 x 100": ("ais", "--start", "prior"),
    "hmc, 1,000": ("hmc",),
    "exact": ("exact",),
}
MANY = {
    "importance, 5,000": ("importance", "--samples", "5000"),
    "importance, 5,000, fitted to each datum": (
        *("importance", "--samples", "5000"),
        *("--proposals", "fitted"),
    ),
    "ais from the encoder, 16 x 100": ("ais",),
    "ais from the encoder, 16 x 500": ("ais", "--temperatures", "500"),
    "ais from the prior, 16 x 500": ("ais", "--start", "prior", "--temperatures", "500"),
    "bidirectional from the encoder, 16 x 100": ("bidirectional",),
    "bidirectional from the encoder, 16 x 500": ("bidirectional", "--temperatures", "500"),
    "bidirectional from the prior, 16 x 500": (
        *("bidirectional", "--start", "prior"),
        *("--temperatures", "500"),
    ),
}
ASKED = {"2": FEW, "3": FEW, "10": MANY, "50": MANY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", help=f"of {', '.join(RUNS)}; all when left out")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("runs/estimators"))
    options = parser.parse_args()
    for run in options.runs or RUNS:
        folder = options.out / run
        if not (folder / "model.safetensors").exists():
            size = ("--latent-dim", run, "--out", str(folder), "--force")
            aevb("train", "binarized-mnist", *NETWORK, *RUNS[run], *size)
        for name in ASKED[run]:
            result(run, name, folder, options.rows)
    table()


def result(run: str, name: str, folder: Path, rows: int) -> None:
    """One estimate, unless it is there."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    key = f"{run} dimensions, {rows} rows, {name}"
    if key in kept:
        return
    values = folder / f"{name}.npy"
    began = time.monotonic()
    method, *options = ASKED[run][name]
    how = ("--data-limit", str(rows), "--values", str(values))
    report = aevb("evaluate", str(folder), "--method", method, *options, *how)
    first = np.load(folder / f"{next(iter(ASKED[run]))}.npy")
    gain = np.load(values) - first if report["data"] != "simulated" else None
    kept[key] = {
        "run": run,
        "rows": rows,
        "name": name,
        "estimates": report["estimates"],
        "sandwiches": report["sandwiches"],
        "gain": None if gain is None else gain.mean(),
        "gain_error": None if gain is None else gain.std() / rows**0.5,
        "seconds": time.monotonic() - began,
        "machine": _machine(),
    }
    RESULTS.write_text(json.dumps(kept, indent=0) + "\n")
    print(f"{key}: {report['mean']:.2f}, {kept[key]['seconds']:.0f} s", flush=True)


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


def aevb(*arguments: str) -> dict:
    """A command of aevb, and what it printed as JSON."""
    done = subprocess.run(["aevb", *arguments, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def table() -> None:
    """Every estimate with its errors, and how far above the first it lies, row by row."""
    print("| model | estimate | log p(x) | Monte-Carlo error | above the first | seconds |")
    print("|---|---|---|---|---|---|")
    for found in json.loads(RESULTS.read_text()).values():
        numbers = " to ".join(f"{e['mean']:.2f}" for e in found["estimates"])
        error = max(e["monte_carlo_error"] or 0.0 for e in found["estimates"])
        gain = found["gain"]
        above = "" if gain is None else f"{gain:+.2f} ± {found['gain_error']:.2f}"
        print(
            f"| {found['run']} dimensions, {found['rows']} rows | {found['name']} | {numbers} | "
            f"{error:.3f} | {above} | {found['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
