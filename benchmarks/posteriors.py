"""Posteriors, priors and layers on MNIST at an equal budget: log p(x) of test images.

    python benchmarks/posteriors.py [NAME ...] [--seeds 0 1 2] [--rows 2000] [--out FOLDER]

Every run is `aevb train binarized-mnist` with the same networks, steps and warm-up (below), one
seed after the other; then `aevb evaluate --samples 5000` on the first rows of the test set, the
same for all, so that differences between runs have a far smaller error than the numbers. What is
there already is not computed again; the table is printed at the end and kept in posteriors.json.
Needs `binarized_mnist/` in the folder that AEVB_DATA names (static binarization).
"""

import argparse
import json
import platform
import subprocess
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "posteriors.json"
COMMON = (
    *("--latent-dim", "40", "--hidden", "300,300", "--epochs", "100"),
    *("--warmup-steps", "10000", "--threads", "1"),
)
RUNS = {
    "diagonal Gaussian": (),
    "full covariance": ("--posterior", "full-covariance"),
    "inverse autoregressive": ("--posterior", "iaf"),
    "mixture prior": ("--prior", "mixture"),
    "VampPrior": ("--prior", "vamp"),
    "two layers, upwards": ("--layers", "2"),
    "two layers, ladder": ("--layers", "2", "--posterior", "ladder"),
}
BASE = "diagonal Gaussian"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}; all when left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/posteriors"))
    options = parser.parse_args()
    for seed in options.seeds:
        for name in [BASE, *(options.names or list(RUNS)[1:])]:
            result(name, seed, options.rows, options.out)
    table(options.rows)


def result(name: str, seed: int, rows: int, out: Path) -> None:
    """Train and evaluate one run, unless its numbers are there."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    key = f"{name}, seed {seed}, {rows} rows"
    if key in kept:
        return
    folder = out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    if not (folder / "model.safetensors").exists():
        asked = ("--seed", str(seed), "--out", str(folder), "--force")
        run("train", "binarized-mnist", *COMMON, *RUNS[name], *asked)
    values = folder / "values.npy"
    report = run(
        *("evaluate", str(folder), "--samples", "5000", "--data-limit", str(rows)),
        *("--values", str(values), "--threads", "1"),
    )
    base = out / f"{BASE.replace(' ', '-')}-{seed}" / "values.npy"
    gain = np.load(values) - np.load(base)  # the base is the first of each seed
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[key] = {
        "name": name,
        "seed": seed,
        "rows": rows,
        "log_p": report["mean"],
        "elbo": report["elbo"]["mean"],
        "active_units": report["active_units"],
        "gain": gain.mean(),
        "gain_error": gain.std() / rows**0.5,
        "machine": platform.processor() or platform.machine(),
    }
    RESULTS.write_text(json.dumps(kept, indent=0) + "\n")
    print(f"{key}: {report['mean']:.2f}", flush=True)


def run(*arguments: str) -> dict:
    """A command of aevb, and what it printed as JSON."""
    done = subprocess.run(["aevb", *arguments, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def table(rows: int) -> None:
    """Means over seeds, their spread, and the difference to the base, seed by seed."""
    kept = [r for r in json.loads(RESULTS.read_text()).values() if r["rows"] == rows]
    print("| run | seeds | log p(x), at least | their spread | against diagonal | ELBO | active |")
    print("|---|---|---|---|---|---|---|")
    for name in RUNS:
        own = [r for r in kept if r["name"] == name]
        if not own:
            continue
        means = [r["log_p"] for r in own]
        gain = np.mean([r["gain"] for r in own])
        error = np.mean([r["gain_error"] for r in own])
        print(
            f"| {name} | {len(own)} | {np.mean(means):.2f} | "
            f"{min(means):.2f} to {max(means):.2f} | "
            f"{gain:+.2f} ± {error:.2f} | {np.mean([r['elbo'] for r in own]):.2f} | "
            f"{', '.join(str(r['active_units']) for r in own)} |"
        )


if __name__ == "__main__":
    main()
