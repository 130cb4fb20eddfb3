"""The card of a model: what a person must know to use it, and the same for programs in YAML."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aevb import __version__
from aevb.model import Model
from aevb.posterior import PerDatum, Posterior
from aevb.storage.description import describe

LIBRARY = 'library_name: "aevb"'
TAGS = ("variational-autoencoder", "latent-variable-model", "density-estimation", "generative")
PAPER = "https://arxiv.org/abs/1312.6114"


@dataclass(frozen=True)
class Card:
    """What is known of a model beside its files; all but the name may be left out.

    `license` is that of the model, as the hub spells it ("apache-2.0"), `data_license` that of the
    data, in words. `numbers` are certificates, as `Certificate.as_dict()` gives them: means in nats
    per datum, with their errors. `data_facts`, `settings` and `training` are shown as tables.
    Source: Mitchell et al. (2019), "Model cards for model reporting".
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)
        >>> text = Card("A line", license="apache-2.0").text(model, model.exact_encoder())
        >>> text.splitlines()[:3]
        ['---', 'library_name: "aevb"', 'license: "apache-2.0"']
    """

    name: str
    data: str | None = None
    license: str | None = None
    data_license: str | None = None
    data_facts: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    numbers: Sequence[Mapping[str, Any]] = ()

    def text(self, model: Model, posterior: Posterior) -> str:
        """The whole README.md: front matter in YAML, then prose."""
        parts = [
            f"# {plain(self.name)}",
            f"A deep latent-variable model, trained by [Auto-Encoding Variational Bayes]({PAPER}) "
            f"with aevb {__version__}. Densities are in nats per datum; larger is better.",
            "## How to load it",
            _usage(model, posterior),
            *self._numbers_in_prose(),
            *_section("Data", self._data_in_prose()),
            *_section("Settings", _table(self.settings)),
            *_section("Training", _table(self.training)),
            "## Limits",
            _limits(model),
        ]
        matter = "\n".join(to_yaml(self._front_matter()))
        return f"---\n{matter}\n---\n\n" + "\n\n".join(parts) + "\n"

    def _front_matter(self) -> dict[str, Any]:
        """What the hub reads: everything under the names that it knows."""
        matter: dict[str, Any] = {"library_name": "aevb"}
        if self.license:
            matter["license"] = self.license
        matter["tags"] = list(TAGS)
        if self.data:
            matter["datasets"] = [self.data]
        if self.numbers:
            about = {"name": self.data or "data", "type": self.data or "data"}
            result = {
                "task": {"type": "density-estimation", "name": "Density estimation"},
                "dataset": about,
                "metrics": [_metric(number) for number in self.numbers],
            }
            matter["model-index"] = [{"name": self.name, "results": [result]}]
        return matter

    def _numbers_in_prose(self) -> list[str]:
        if not self.numbers:
            return _section("Numbers", "None were measured.")
        lines = [
            "| nats per datum | mean | standard error | Monte-Carlo error | how | on |",
            "|---|---|---|---|---|---|",
        ]
        for number in self.numbers:
            lines.append(
                f"| {plain(_title(number))} | {_decimal(number.get('mean'))} | "
                f"{_decimal(number.get('standard_error'))} | "
                f"{_decimal(number.get('monte_carlo_error'), 3)} | "
                f"{plain(number.get('method'))}, {plain(number.get('samples'))} samples | "
                f"{plain(number.get('data'))}, {plain(number.get('n'))} rows, binarize "
                f"{plain(number.get('binarize'))} |"
            )
        note = (
            "The standard error says how far a mean would move with other data of the same kind, "
            "the Monte-Carlo error how far with other noise."
        )
        return ["## Numbers", "\n".join(lines), note]

    def _data_in_prose(self) -> str:
        if not self.data:
            return ""
        license_ = (
            f"License of the data: {plain(self.data_license)}."
            if self.data_license
            else "The license of the data is not known here: ask whoever gave them."
        )
        parts = [f"Trained on {plain(self.data)}.", _table(self.data_facts), license_]
        return "\n\n".join(part for part in parts if part)


def to_yaml(value: Any, indent: str = "") -> Iterator[str]:
    """Lines of YAML for a tree of dictionaries, lists, texts and numbers.

    Texts are double-quoted with the escapes of JSON, which YAML shares, so that no text can end its
    own line, whatever it holds.
    Example:
        >>> print("\\n".join(to_yaml({"a": ["x: y", 1], "b": {"c": None}})))
        a:
          - "x: y"
          - 1
        b:
          c: null
    """
    pairs = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
    for key, item in pairs:
        head = f"{indent}- " if key is None else f"{indent}{key}:"
        if isinstance(item, Mapping | list) and item:
            inner = list(to_yaml(item, indent + "  "))
            if key is None:  # the first line of what is listed stands behind the dash
                inner[0] = head + inner[0][len(indent) + 2 :]
                yield from inner
            else:
                yield head
                yield from inner
        else:
            yield f"{head.rstrip()} {_scalar(item)}"


def _scalar(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        text = repr(value)  # YAML 1.1 takes 1e-05 for a text: it wants the point
        return text if "." in text else text.replace("e", ".0e")
    # JSON writes a letter beyond 16 bits as two escapes, which YAML would take for two letters.
    return '"' + "".join(c if c > "\uffff" else json.dumps(c)[1:-1] for c in str(value)) + '"'


def plain(value: Any) -> str:
    """A value in prose or in a table: one line, without what Markdown or HTML would obey."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    text = " ".join(text.split())[:200]
    return re.sub(r"([\\`*_\[\]<>|#&!~$])", r"\\\1", text)


def _section(title: str, body: str) -> list[str]:
    return [f"## {title}", body] if body else []


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {plain(k)} | {plain(v)} |" for k, v in facts.items() if v is not None]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else ""


def _decimal(value: Any, digits: int = 2) -> str:
    known = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:.{digits}f}" if known else "unknown"


def _title(number: Mapping[str, Any]) -> str:
    side = {"lower": ", at least", "upper": ", at most"}.get(str(number.get("direction")), "")
    return f"{number.get('estimand')}{side}"


def _metric(number: Mapping[str, Any]) -> dict[str, Any]:
    """A number as the hub lists it, with its certificate beside it."""
    about = ("standard_error", "monte_carlo_error", "direction", "samples", "n", "binarize")
    estimand = str(number.get("estimand"))
    return {
        "type": "log-likelihood" if estimand.startswith("log p") else "elbo",
        "name": f"{_title(number)} (nats per datum)",
        "value": number.get("mean"),
        "args": {
            "unit": "nats",
            "method": number.get("method"),
            **{name: number.get(name) for name in about},
        },
    }


def _usage(model: Model, posterior: Posterior) -> str:
    """Python that loads the model from the folder and uses it, and runs as it stands."""
    (latent,) = model.prior().event_shape
    known: dict[int, str] = {}
    own = list(_external(describe(model, known), "model"))
    own += _external(describe(posterior, known, "posterior"), "posterior")
    handed = f", modules={{{', '.join(f'{path!r}: ...' for path in own)}}}" if own else ""
    lines = [
        "```python",
        "import numpy as np",
        "",
        "import aevb",
        "",
        f'model, posterior = aevb.load("."{handed})  # the folder of this file',
        f"z = model.sample_prior(16, np.random.default_rng(0))  # from p(z), (16, {latent})",
        "samples = model.expectation(z)  # E[x given z]",
    ]
    if not isinstance(posterior, PerDatum):
        lines.append("codes = aevb.distributions.center(posterior(samples))  # E[z given x]")
    note = ""
    if own:
        note = (
            f"\n\nThe modules {', '.join(plain(path) for path in own)} are the author's own: hand "
            "them in, for no file of this folder holds code."
        )
    return "\n".join([*lines, "```"]) + note


def _external(tree: Any, path: str) -> Iterator[str]:
    """The paths of modules that a description leaves to whoever loads it."""
    if isinstance(tree, dict) and "external" in tree:
        yield path
    parts = tree.get("arguments", {}) if isinstance(tree, dict) else tree
    if isinstance(parts, list):
        parts = dict(enumerate(parts))
    for name, item in parts.items() if isinstance(parts, dict) else ():
        yield from _external(item, f"{path}.{name}")


def _limits(model: Model) -> str:
    domain = model.family.domain if model.family is not None else ""
    taken = f" The likelihood is over {domain}; other data are refused." if domain else ""
    size = sum(p.numel() for p in model.parameters())
    return (
        "The model knows the data that it was trained on: what it gives for others, of another "
        "camera, another scale or another binarization, means little, and bounds can be compared "
        f"only where the treatment of the data is the same.{taken} A high density is no proof that "
        "a datum is like the training data. An expectation is no sample: it lacks the noise of "
        f"p(x given z). The decoder and the prior have {size} parameters."
    )
