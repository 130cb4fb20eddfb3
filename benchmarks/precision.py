"""Whether bfloat16 products end where float32 ends: held-out bounds after equal epochs.

    python benchmarks/precision.py [binarized-mnist] [frey-face] [table] [--seeds N] [--json FILE]

For each set and seed a run of `aevb train` at its defaults in both precisions, then `aevb evaluate`
on the test rows, in float32. The two differ by rounding alone: same seed, same start, same noise.
The difference is to be less than the spread between seeds. The table is scikit-learn's breast
cancer, 30 real columns; the image sets are read from the folder that AEVB_DATA names.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sklearn.datasets import load_breast_cancer

EPOCHS = {"binarized-mnist": 30, "frey-face": 200, "table": 200}
RESULTS = Path(__file__).parent / "precision.json"


def aevb(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "aevb.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    if done.returncode:
        raise SystemExit(answer["error"])
    return answer


def table(folder: Path) -> Path:
    data = load_breast_cancer()
    path = folder / "cancer.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([data.feature_names, *data.data])
    return path


def bounds(data: object, epochs: int, precision: str, seed: int, folder: Path) -> dict[str, float]:
    run = folder / f"{precision}-{seed}"
    about = ["--epochs", epochs, "--precision", precision, "--seed", seed, "--step", "compiled"]
    aevb("train", data, *about, "--out", run)
    result = aevb("evaluate", run, "--samples", 100)
    return {name: float(result[name]["mean"]) for name in ("elbo", "importance")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", default=list(EPOCHS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    asked = parser.parse_args()
    results = json.loads(asked.json.read_text()) if asked.json.exists() else {}
    for name in asked.names:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            data = table(folder) if name == "table" else name
            found = {
                precision: [
                    bounds(data, EPOCHS[name], precision, seed, folder)["elbo"]
                    for seed in range(asked.seeds)
                ]
                for precision in ("float32", "bfloat16")
            }
        differences = [b - a for a, b in zip(found["float32"], found["bfloat16"], strict=True)]
        results[name] = {
            "epochs": EPOCHS[name],
            **{k: [round(v, 3) for v in values] for k, values in found.items()},
            "difference": round(fmean(differences), 3),
            "spread": round(stdev(found["float32"]), 3),
        }
        print(json.dumps({name: results[name]}), flush=True)
        asked.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
