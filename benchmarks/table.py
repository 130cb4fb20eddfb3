"""The table of `README.md`, made from `results.json` so that it cannot differ from it.

python benchmarks/table.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- made by table.py -->", "<!-- until here -->"


def number(value: float, unit: str) -> str:
    text = f"{value:.2f}" if unit in ("x", "x time", "s") else f"{value:.0f}"
    return f"{text} {unit.split()[0]}" if unit != "x time" else f"{text} x"


def row(line: Mapping[str, Any]) -> str:
    value, unit, target = line["value"], line["unit"], line["target"]
    spread = f"{number(line['low'], unit)} to {number(line['high'], unit)}"
    goal = ""
    if target is not None:
        met = value >= target if line["better"] == "higher" else value <= target
        sign = "at least" if line["better"] == "higher" else "at most"
        goal = f"{sign} {target:g}: {'met' if met else 'missed'}"
    cells = (line["label"], line["against"], number(value, unit), spread, goal)
    return f"| {' | '.join(cells)} |"


def rounded(value: float) -> str:
    """A rate in about three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rates(found: Mapping[str, Any]) -> list[str]:
    """Absolute rates and final bounds of a comparison, in one sentence each."""
    if "rates" not in found:
        return []
    speeds = [f"{name} {rounded(rate['value'])}" for name, rate in found["rates"].items()]
    bounds = [f"{name} {bound:.2f}" for name, bound in found["bounds"].items()]
    text = f"- {found['label']}, {found['unit']}: {'; '.join(speeds)}."
    return [text + f" Nats on the held-out rows afterwards: {'; '.join(bounds)}."]


def table(results: Mapping[str, Any]) -> str:
    """The machine, the lines of all workloads, and the absolute rates."""
    at = results["machine"]
    pins = ", ".join(f"{name} {version}" for name, version in sorted(results["versions"].items()))
    workloads = results["workloads"].values()
    lines = [row(line) for found in workloads for line in found.get("lines", [])]
    absolute = [text for found in workloads for text in rates(found)]
    gone = [
        f"- not run, {found['label']}: {name}: {why}."
        for found in workloads
        for name, why in found.get("missing", {}).items()
    ]
    head = f"On {at['threads']} core{'s' * (at['threads'] > 1)} of an {at['processor']}; {pins}."
    columns = ["| what | beside | median | over rounds | target |", "|---|---|---|---|---|"]
    return "\n".join([head, "", *columns, *lines, "", *absolute, *gone])


def write_table(results: Mapping[str, Any], path: Path = HERE / "README.md") -> None:
    """Put the table between the two marks of the page."""
    text = path.read_text()
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    path.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}")


if __name__ == "__main__":
    write_table(json.loads((HERE / "results.json").read_text()))
