"""The numbers of a run in words: a table for the terminal, and the README of its folder."""

from collections.abc import Mapping
from typing import Any

from aevb.storage import RunFolder


def evaluation_table(report: Mapping[str, Any]) -> str:
    """The report of `score` as lines for a person."""
    estimates = report["estimates"]
    lines = [f"{report['data']}, {report['n']} rows, binarize {report['binarize']}"]
    if report.get("refine") is not None:
        lines[0] += f", each posterior refined by {report['refine']} steps"
    bounds = [found for found in estimates if found["method"] == "elbo"]
    for found in estimates:
        if found not in bounds:
            lines.append(line(SIDES[found["direction"]], found, _circumstances(found)))
    if "elbo" in report:
        lines += [
            line("evidence lower bound", report["elbo"], "nats"),
            row("  reconstruction", report["reconstruction"], "nats"),
            row("  KL(q || p)", report["kl"], f"nats; {_found(report['kl_by'])}"),
        ]
    for sandwich in report["sandwiches"]:
        low, high = sandwich["bounds"]
        crossed = ": they cross, one of them cannot be relied on" if sandwich["crossed"] else ""
        by = " and ".join(dict.fromkeys(sandwich["methods"]))
        note = f"and {high:.2f} nats, by {by} on {sandwich['data']}{crossed}"
        lines.append(row("log p(x), between", low, note))
    if report["bits_per_dimension"] is not None:
        side = {"lower": ", at most", "upper": ", at least", "exact": ""}[report["direction"]]
        lines.append(row(f"bits per dimension{side}", report["bits_per_dimension"], "bits"))
    lines += _dimensions(report)
    remarks = [
        f"note on {found['method']}: {text}" for found in estimates for text in _remarks(found)
    ]
    return "\n".join([*lines, *dict.fromkeys(remarks)])


ADVICE = ": log p(x) may be higher, take more --samples, --proposals encoder,prior or --method ais"
SIDES = {"lower": "log p(x), at least", "upper": "log p(x), at most", "exact": "log p(x)"}


def row(name: str, value: float | None, note: str, spread: str = "") -> str:
    """A figure under its name, as every table for a person has it."""
    said = "none" if value is None else f"{value:.2f}"
    return f"{name:<28}{said:>10}{spread:<8} {note}"


def line(name: str, found: Mapping[str, Any], note: str) -> str:
    """A mean with its standard error."""
    error = found["standard_error"]
    return row(name, found["mean"], note, "" if error is None else f" ± {error:.2f}")


def _circumstances(found: Mapping[str, Any]) -> str:
    """By which method, with what, and how well it is known."""
    parts = [f"nats; {found['method']}"]
    if found["method"] in ("ais", "bidirectional"):
        parts.append(f"{found['samples']} chains of {found['temperatures']} temperatures")
    elif found["method"] == "exact":
        parts.append(f"by {found['by']}")
    else:
        parts.append(f"{found['samples']} samples")
    error = found["monte_carlo_error"]
    kind = "error" if found["method"] == "exact" else "Monte-Carlo error"
    parts.append(f"{kind} {'unknown' if error is None else f'{error:.3f}'}")
    if found["method"] != "exact":
        effective = found["effective_sample_size"]
        parts.append(f"effective {'unknown' if effective is None else f'{effective:.0f}'}")
    if found["method"] == "bidirectional":
        parts.append(f"{found['data']} rows")
    return ", ".join(parts)


def _remarks(found: Mapping[str, Any]) -> list[str]:
    """What one must have read before the number is used."""
    tails = found["pareto_k"]
    advice = ADVICE if found["direction"] == "lower" else ""
    remarks = list(found["remarks"])
    if tails is not None and tails["verdict"] in ("doubtful", "unreliable"):
        remarks.append(
            f"{tails['verdict']}: the weights of {100 * tails['share_above']:.0f} % of the rows "
            f"have tails too heavy for their errors (Pareto k above {tails['limit']:.2f}){advice}"
        )
    return remarks


def _dimensions(report: Mapping[str, Any]) -> list[str]:
    """What the latent dimensions do."""
    error, lines = report["reconstruction_error"], []
    if error is not None:
        lines.append(row("reconstruction error", error, "squared, per datum"))
    lines.append(f"{'active units':<28}{report['active_units']:>10} of {report['latent_dim']}")
    by_dimension = report["kl_per_dimension"]
    if by_dimension is not None and None not in by_dimension:
        ranked = sorted(by_dimension, reverse=True)
        shown = " ".join(f"{value:.2f}" for value in ranked[:20])
        lines.append(f"{'KL by dimension':<28}{shown}{' ...' if len(ranked) > 20 else ''}")
    return lines


def _found(by: str) -> str:
    return "in closed form" if by == "closed form" else "estimated by samples"


def card(folder: RunFolder, trained: Mapping[str, Any], evaluated: Mapping[str, Any] | None) -> str:
    """The run's README: data, settings, numbers."""
    config = folder.config()
    facts, settings = config["data"], config["settings"]
    rows = facts["rows"]
    lines = [
        f"# A variational auto-encoder of {facts['name']}",
        "",
        f"Data: {facts['name']}, {rows['train']} training, {rows['validation']} validation and "
        f"{rows['test']} test rows of shape {tuple(facts['shape'])} (split: {facts['split']}); "
        f"binarize: {facts['binarize']}; fingerprint {facts['fingerprint']}.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in settings.items() if value is not None),
        "",
        f"Trained for {trained['epochs']} epochs; the model kept is that of epoch "
        f"{trained['best_epoch']}.",
        "",
        "| nats per datum | bound | reconstruction | KL |",
        "|---|---|---|---|",
    ]
    for name in ("train", "validation"):
        parts = trained[name]
        if parts is not None:
            cells = (parts[key] for key in ("elbo", "reconstruction", "kl"))
            shown = ("" if cell is None else f"{cell:.3f}" for cell in cells)
            lines.append(f"| {name} | {' | '.join(shown)} |")
    if evaluated is not None:
        lines += ["", "```", evaluation_table(evaluated), "```"]
    return "\n".join(lines) + "\n"
