"""The numbers of a run in words: a table for the terminal, and the README of its folder."""

from collections.abc import Mapping
from typing import Any

from aevb.storage import RunFolder


def evaluation_table(report: Mapping[str, Any]) -> str:
    """The report of `score` as lines for a person."""
    importance, elbo = report["importance"], report["elbo"]
    by_dimension = report["kl_per_dimension"]

    def line(name: str, value: float, error: float | None, note: str) -> str:
        spread = f" ± {error:.2f}" if error is not None else ""
        return f"{name:<28}{value:>10.2f}{spread:<8} {note}"

    monte_carlo = importance["monte_carlo_error"]
    lines = [
        f"{report['data']}, {report['n']} rows, binarize {report['binarize']}",
        line(
            "log p(x), at least",
            importance["mean"],
            importance["standard_error"],
            f"nats; importance, {report['samples']} samples, Monte-Carlo error "
            f"{'unknown' if monte_carlo is None else f'{monte_carlo:.3f}'}, "
            f"effective {importance['effective_sample_size']:.0f}",
        ),
        line("evidence lower bound", elbo["mean"], elbo["standard_error"], "nats"),
        line("  reconstruction", report["reconstruction"], None, "nats"),
        line("  KL(q || p)", report["kl"], None, f"nats; {_found(report['kl_by'])}"),
        line("bits per dimension, at most", importance["bits_per_dimension"], None, "bits"),
        line("reconstruction error", report["reconstruction_error"], None, "squared, per datum"),
        f"{'active units':<28}{report['active_units']:>10} of {report['latent_dim']}",
    ]
    if by_dimension is not None:
        ranked = sorted(by_dimension, reverse=True)
        shown = " ".join(f"{value:.2f}" for value in ranked[:20])
        lines.append(f"{'KL by dimension':<28}{shown}{' ...' if len(ranked) > 20 else ''}")
    return "\n".join(lines)


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
            lines.append(
                f"| {name} | {parts['elbo']:.3f} | {parts['reconstruction']:.3f} | "
                f"{parts['kl']:.3f} |"
            )
    if evaluated is not None:
        lines += ["", "```", evaluation_table(evaluated), "```"]
    return "\n".join(lines) + "\n"
