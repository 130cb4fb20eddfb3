"""Draw `figure.png` from `results.json`: how many times as fast as each peer aevb was.

    python benchmarks/figure.py [--json FILE] [--out FILE]

A bar is the median over rounds, the thin line on it the least and the most, the tick a target.
"""

import argparse
import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aevb.plots.style import (
    DPI,
    FAINT,
    INK,
    SMALL,
    TRAINING,
    VALIDATION,
    calm_axes,
    own_axes,
    own_legend,
    quiet_title,
)

HERE = Path(__file__).resolve().parent
COLORS = {"default": TRAINING, "float32": VALIDATION}
WIDTH, ROW, GAP = 5.0, 0.26, 0.55


def speeds(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ratios of speeds, each with its group (the workload) and precision."""
    found = []
    for workload in results["workloads"].values():
        for line in workload.get("lines", []):
            if line["unit"] == "x":
                group, _, detail = line["label"].rpartition(", ")
                plain = detail not in COLORS
                kind = "default" if plain else detail
                name = line["label"] if plain else group
                found.append({**line, "group": name, "precision": kind})
    return found


def bars(ax: Axes, lines: list[dict[str, Any]]) -> None:
    """A row for each peer, headed by its workload; a bar in it for each precision."""
    y, labels = 0.0, []
    for group, members in groupby(lines, key=lambda line: line["group"]):
        y += GAP
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        ax.text(0.0, y, group, fontsize=SMALL, color=INK, va="center", weight="bold", bbox=behind)
        rows: dict[str, list[dict[str, Any]]] = {}
        for line in members:
            rows.setdefault(line["against"], []).append(line)
        for peer, pair in rows.items():
            y += 1.0
            labels.append((y, peer))
            for k, line in enumerate(pair):
                _bar(ax, y + 0.4 * (k - (len(pair) - 1) / 2), line)
        y += GAP + 0.3
    ax.set_yticks([place for place, _ in labels], [peer for _, peer in labels], fontsize=SMALL)
    ax.set_ylim(y, 0.0)


def _bar(ax: Axes, y: float, line: dict[str, Any]) -> None:
    ax.barh(y, line["value"], 0.36, color=COLORS[line["precision"]])
    ax.plot([line["low"], line["high"]], [y, y], color=INK, linewidth=0.8)
    if line["target"] is not None:
        ax.plot([line["target"]] * 2, [y - 0.24, y + 0.24], color=INK, linewidth=1.6)


def draw(results: Mapping[str, Any]) -> Figure:
    lines = speeds(results)
    rows = {(line["group"], line["against"]) for line in lines}
    groups = {line["group"] for line in lines}
    ax = own_axes(None, WIDTH, ROW * (len(rows) + 1.4 * len(groups)) + 0.2)
    calm_axes(ax, "times as fast as the peer", "")
    ax.axvline(1.0, color=FAINT, linewidth=1.0, zorder=0)
    bars(ax, lines)
    for name, color in COLORS.items():
        ax.barh([0.0], [0.0], color=color, label=f"aevb, {name} precision")
    ax.plot([], [], color=INK, linewidth=1.6, label="target")
    quiet_title(ax, "aevb beside its peers", pad=20.0)
    own_legend(ax, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, default=HERE / "results.json")
    parser.add_argument("--out", type=Path, default=HERE / "figure.png")
    asked = parser.parse_args()
    figure = draw(json.loads(asked.json.read_text()))
    figure.savefig(asked.out, dpi=DPI, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
