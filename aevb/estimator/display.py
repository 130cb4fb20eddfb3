"""What a notebook shows of an estimator: one static piece of HTML, without script or network."""

import hashlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

LONGEST = 200
"""Characters of a value or name that are shown."""

MOST_NAMES = 8
COLLAPSED_NATS = 0.1
"""A divergence, in nats per row, below which codes say next to nothing about their rows."""

STYLE = """
.aevb-vae { font-family: sans-serif; font-size: 0.9em; color: inherit; max-width: 48em;
  border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 6px; padding: 0.8em 1em; }
.aevb-vae .aevb-title { font-weight: bold; font-size: 1.1em; }
.aevb-vae .aevb-state { opacity: 0.7; margin-left: 0.6em; }
.aevb-vae table { border-collapse: collapse; margin: 0.5em 0; background: none; color: inherit; }
.aevb-vae th, .aevb-vae td { text-align: left; padding: 0.1em 1.2em 0.1em 0; border: none;
  background: none; color: inherit; vertical-align: top; }
.aevb-vae th { font-weight: normal; opacity: 0.7; white-space: nowrap; }
.aevb-vae summary { cursor: pointer; opacity: 0.7; }
.aevb-vae ul { margin: 0.5em 0; padding-left: 1.2em; }
.aevb-vae svg { max-width: 100%; height: auto; border-radius: 4px; }
"""
"""Every rule is for the inside of this element, and no color is one of light or of dark pages."""


def html_of(estimator: Any) -> str:
    """Parameters, data, learning curve and doubts of an estimator, as one static `<div>`.

    The same estimator gives the same text; whatever comes from outside is escaped.
    Units: bounds in nats per row.
    Example:
        >>> from aevb import VAE
        >>> html_of(VAE(latent_dim=3)).count("Not fitted yet")
        1
    """
    fitted = _is_fitted(estimator)
    name = escape(type(estimator).__name__)
    state = "fitted" if fitted else "not fitted"
    changed, usual = _parameters(estimator)
    parts = [
        f'<div class="aevb-vae"><style>{STYLE}</style>',
        f'<div><span class="aevb-title">{name}</span><span class="aevb-state">{state}</span></div>',
        _table(changed),
        f"<details><summary>{len(usual)} parameters as usual</summary>{_table(usual)}</details>",
    ]
    if fitted:
        parts += [_table(list(_facts(estimator))), _curve(estimator.history_)]
    doubts = [f"<li>{escape(sentence)}</li>" for sentence in warnings_of(estimator)]
    parts += [f"<ul>{''.join(doubts)}</ul>"] if doubts else []
    return "".join(parts) + "</div>"


def warnings_of(estimator: Any) -> list[str]:
    """What a person should know before trusting a fit, one sentence each; nothing is computed anew.

    Source: posterior collapse as in Bowman et al. (2016), "Generating sentences from a continuous
    space".
    Example:
        >>> from aevb import VAE
        >>> warnings_of(VAE())
        ['Not fitted yet: call fit(X).']
    """
    if not _is_fitted(estimator):
        return ["Not fitted yet: call fit(X)."]
    return [*_of_learning(estimator), *_of_data(estimator)]


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def _parameters(estimator: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Parameters that were changed, and those that are as usual, with their values as text."""
    usual = inspect.signature(type(estimator).__init__).parameters
    changed: list[tuple[str, str]] = []
    same: list[tuple[str, str]] = []
    for name, value in estimator.get_params(deep=False).items():
        default = usual[name].default if name in usual else inspect.Parameter.empty
        (same if repr(value) == repr(default) else changed).append((name, repr(value)))
    return changed, same


def _table(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = (f"<tr><th>{_short(name)}</th><td>{_short(text)}</td></tr>" for name, text in rows)
    return f"<table>{''.join(cells)}</table>"


def _short(text: str) -> str:
    """Escaped, and cut before that, so that no entity is cut in two."""
    return escape(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def _facts(estimator: Any) -> Iterator[tuple[str, str]]:
    facts = estimator._facts["data"]
    rows, columns, missing = facts["rows"]["train"], estimator.n_features_in_, facts["missing"]
    yield "rows", f"{rows:,}"
    yield "columns", f"{columns:,}{_first_names(estimator)}"
    reason = f", since {estimator.reason_}" if estimator.likelihood == "auto" else ", as asked"
    yield "likelihood", f"{estimator.likelihood_}{reason}"
    if missing:
        yield "missing cells", f"{missing:,} ({100 * missing / (rows * columns):.2g} %)"
    if estimator.history_ and estimator.history_[-1]["train"]["elbo"] is not None:
        yield "last bound", _last_bound(estimator.history_[-1])
    if hasattr(estimator, "offset_"):
        yield "threshold", f"log p(x) below {_figures(estimator.offset_)} nats is an outlier"


def _first_names(estimator: Any) -> str:
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f": {', '.join(name[:40] for name in names[:MOST_NAMES])}{more}"


def _last_bound(record: Mapping[str, Any]) -> str:
    parts = record["train"]
    text = (
        f"{_figures(parts['elbo'])} nats per row in training (reconstruction "
        f"{_figures(parts['reconstruction'])}, KL {_figures(parts['kl'])})"
    )
    if record["validation"] is None:
        return f"{text}; no rows were held out by X_val"
    return f"{text}, {_figures(record['validation']['elbo'])} in validation"


def _figures(value: float) -> str:
    return f"{value:z.2f}".replace("-", "\N{MINUS SIGN}")


def _curve(history: Sequence[Mapping[str, Any]]) -> str:
    bounds = [_bounds(history, part) for part in ("train", "validation")]
    if not any(math.isfinite(bound) for part in bounds for bound in part):
        return ""
    # Matplotlib takes a second to import, which only those pay who look.
    from aevb.plots import learning_curve, svg

    # Two figures of one page must not share ids, and one figure must always have the same.
    mark = hashlib.sha256(repr(bounds).encode()).hexdigest()[:12]
    return svg(learning_curve(history), f"aevb-{mark}")


def _bounds(history: Sequence[Mapping[str, Any]], part: str) -> list[float]:
    found = (record[part]["elbo"] for record in history if record[part] is not None)
    return [float(bound) for bound in found if bound is not None]


def _of_learning(estimator: Any) -> Iterator[str]:
    """What the history tells: too short, stopped, beyond its best, collapsed."""
    history, settings = estimator.history_, estimator.settings_
    if not history:
        yield "The bounds of its epochs were not kept, so that nothing is known of its learning."
        return
    train, validation = _bounds(history, "train"), _bounds(history, "validation")
    divergence = history[-1]["train"]["kl"]
    if divergence is not None and divergence < COLLAPSED_NATS:
        yield (
            f"The divergence from the prior is {_figures(divergence)} nats: the "
            "posterior has collapsed, and codes say next to nothing about their rows; try a "
            "smaller beta or more epochs, unless the columns have nothing in common."
        )
    if _still_rising(train):
        yield "The bound was still rising when learning ended: give it more epochs."
    if train and validation:
        yield from _of_validation(train, validation, settings.epochs, settings.patience)


def _still_rising(bounds: Sequence[float]) -> bool:
    """Whether the last quarter of the epochs brought more than a twentieth of all that was won.

    The rise must also stand out from the noise: no epoch's bound alone decides.
    """
    quarter = len(bounds) // 4
    if quarter < 1:
        return False
    last = sum(bounds[-quarter:]) / quarter
    before = sum(bounds[-2 * quarter : -quarter]) / quarter
    steps = [b - a for a, b in zip(bounds[-2 * quarter :], bounds[1 - 2 * quarter :], strict=False)]
    noise = sum(abs(step) for step in steps) / max(len(steps), 1)
    total = last - bounds[0]
    return last - before > max(0.05 * total, noise if quarter > 1 else 0.0) and total > 0


def _of_validation(
    train: Sequence[float], validation: Sequence[float], epochs: int, patience: int | None
) -> Iterator[str]:
    best = max(range(len(validation)), key=validation.__getitem__)
    won = train[best] - train[0]
    gap = train[best] - validation[best]
    if gap > max(1.0, 0.25 * won):
        yield (
            f"The bound is {_figures(gap)} nats lower in validation than in training: the model "
            "fits the training rows better than others; try more rows, or narrower hidden layers."
        )
    if patience is not None and len(train) < epochs:
        yield (
            f"Learning ended after {len(train)} of {epochs} epochs, {patience} of them without a "
            "better bound in validation."
        )
    if best + 1 < len(validation):
        yield f"The parameters are those of epoch {best + 1}, with the best bound in validation."


def _of_data(estimator: Any) -> Iterator[str]:
    if estimator.likelihood == "auto" and estimator.likelihood_ == "negative-binomial":
        yield (
            "Whole numbers were taken for counts: say likelihood='gaussian' if they are rounded "
            "measurements, or make text of them if they are codes."
        )
    if estimator._facts["data"]["missing"]:
        yield (
            "Missing cells were left out of the bound as if missing at random, not because of "
            "their value."
        )
