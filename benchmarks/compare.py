"""aevb beside its peers, in one alternating run; the results go to results.json and the table.

    python benchmarks/compare.py [WORKLOAD...] [--peers numpyro,pyro,pythae,eager] [--rounds R]
                                 [--threads N] [--json FILE] [--small] [--device cpu|cuda]

Workloads: train-100, train-500, two-layer, convolutional, evidence, startup, memory, target,
growth, products, busy; all of them without a name. Each peer is installed once, into `.bench/`.
Run it on a machine with nothing else to do. `--small` takes tiny sizes, to see that all runs, and
writes no table. `--device cuda` puts training and evidence on a GPU; name a file for its results.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from comparison import Bench
from peers import HERE, NAMES, WorkerError, install, versions
from table import write_table
from workloads import WORKLOADS

from aevb.machine import usable_cores

RESULTS = HERE / "results.json"


def keep_to(threads: int) -> None:
    """Hold this process and all that it starts to so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def machine(threads: int) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return {"processor": model, "cores": usable_cores(), "threads": threads}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD")
    parser.add_argument("--peers", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args()
    asked.peers = [name for name in asked.peers.split(",") if name]
    for name in (*asked.workloads, *asked.peers):
        if name not in WORKLOADS and name not in NAMES:
            parser.error(f"expected one of {', '.join((*WORKLOADS, *NAMES))}, found {name}")
    return asked


def main() -> None:
    asked = arguments()
    keep_to(asked.threads)
    for name in asked.peers:
        install(name)
    results: dict[str, Any] = json.loads(asked.json.read_text()) if asked.json.exists() else {}
    results["machine"] = machine(asked.threads)
    own = {"python": platform.python_version(), "torch": version("torch")}
    pins = versions(asked.peers)
    results["versions"] = results.get("versions", {}) | pins | own | {"numpy": version("numpy")}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # what workers leave goes with it, compiled steps too
        how = (asked.peers, asked.rounds, asked.threads, asked.small, Path(folder), asked.device)
        bench = Bench(*how)
        for name in asked.workloads or WORKLOADS:
            print(name, file=sys.stderr, flush=True)
            try:
                found = WORKLOADS[name](bench)
            except WorkerError as error:
                found = {"label": name, "missing": {"all": str(error)}}
            results.setdefault("workloads", {})[name] = found
            print(json.dumps(found, indent=1), flush=True)
            if not asked.small:
                asked.json.write_text(json.dumps(results, indent=1) + "\n")
    if not asked.small and asked.json == RESULTS:
        write_table(results)


if __name__ == "__main__":
    main()
