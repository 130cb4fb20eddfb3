"""A folder as the Hugging Face hub has it: the model's two files, and a card."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aevb.data.named import NAMES, summary
from aevb.errors import ModelFileError, UsageError, reason
from aevb.exchange.card import LIBRARY, Card
from aevb.files import replace_atomically
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.storage import RunFolder, save
from aevb.storage.checkpoints import clear_unfinished
from aevb.storage.run import CARD
from aevb.storage.weights import CONFIG, WEIGHTS, require_finite_modules

FILES = (CARD, CONFIG, WEIGHTS)
OF_GIT = (".git", ".gitattributes")
OF_DATA = ("rows", "shape", "split", "binarize", "likelihood_reason", "fingerprint")


def export_hub(
    target: str | Path,
    model: Model,
    posterior: Posterior,
    *,
    card: Card,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write `README.md`, `config.json` and `model.safetensors` into a folder, each in one step.

    `facts` join the config, as for `aevb.save`; `aevb.load(folder)` reads it back. An earlier
    export is replaced, and a clone of an empty repository filled.
    Errors: UsageError for a folder that holds anything else; ModelFileError where it cannot be
    written; TrainingError for parameters that are not finite.
    Source: the model cards of Mitchell et al. (2019), "Model cards for model reporting".
    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)
        >>> with TemporaryDirectory() as target:
        ...     folder = export_hub(target, model, model.exact_encoder(), card=Card("A line"))
        ...     sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    folder = Path(target)
    require_finite_modules(model, posterior)
    text = card.text(model, posterior)
    try:
        _require_ours(folder)
        folder.mkdir(parents=True, exist_ok=True)
        clear_unfinished(folder)
        replace_atomically(folder / CARD, text.encode())  # first: it marks the folder as an export
    except OSError as error:
        raise ModelFileError(f"{folder} cannot be written ({reason(error)})") from error
    save(folder, model, posterior, facts)
    return folder


def hub_of_run(run: RunFolder, target: str | Path, *, license: str | None = None) -> Path:
    """Export a run, with the numbers of its last evaluation in the card.

    Paths are left out: of a file of data, its name alone is told.
    Errors: those of `export_hub`; ModelFileError for a folder without the settings of a run.
    Example:
        >>> import aevb, tempfile
        >>> rows = [[0.3, 0.1], [1.2, 0.9], [0.7, 0.4], [2.2, 1.5]] * 5
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     aevb.VAE(latent_dim=1, hidden=(2,), epochs=1).fit(rows).save(f"{folder}/run")
        ...     made = hub_of_run(RunFolder(f"{folder}/run"), f"{folder}/hub", license="apache-2.0")
        ...     'license: "apache-2.0"' in (made / CARD).read_text()
        True
    """
    settings = asdict(run.require().settings())
    model, posterior = run.load()
    config = run.config()
    data = {**run.data_facts()}
    settings["data"] = name = _without_folders(settings["data"])
    data["name"] = _without_folders(str(data.get("name", name)))
    evaluated = run.evaluation() or {}
    card = Card(
        name=f"Variational auto-encoder of {name}",
        data=name,
        license=license,
        data_license=summary(name).license if name in NAMES else None,
        data_facts={key: data.get(key) for key in OF_DATA},
        settings=settings,
        training=_trained(run),
        numbers=[evaluated[key] for key in ("importance", "elbo") if key in evaluated],
    )
    facts = {"settings": settings, "data": data, "used": config.get("used", {})}
    return export_hub(target, model, posterior, card=card, facts=facts)


def _without_folders(data: str) -> str:
    return data if data in NAMES else Path(data).name


def _trained(run: RunFolder) -> dict[str, Any]:
    """Epochs, and the validation bound of the best one."""
    history = run.history()
    bounds = [record["validation"] for record in history if record.get("validation")]
    known = [b["elbo"] for b in bounds if isinstance(b, dict) and type(b.get("elbo")) is float]
    if not history:
        return {}
    best = f"{max(known):.2f} nats per datum, one sample" if known else None
    return {"epochs": len(history), "best validation bound": best}


def _require_ours(folder: Path) -> None:
    """UsageError unless a folder is missing, empty, or an export that may be replaced."""
    if not folder.exists():
        return
    unfinished = {path.name for name in FILES for path in folder.glob(f".{name}.*.tmp")}
    found = {path.name for path in folder.iterdir()} - {*OF_GIT, *unfinished}
    if found and not (found <= set(FILES) and _is_export(folder / CARD)):
        shown = ", ".join(sorted(found)[:3])
        raise UsageError(
            f"{folder} holds {shown}, but no export of a model: name another folder, or one that "
            "does not exist yet"
        )


def _is_export(card: Path) -> bool:
    try:
        with card.open("rb") as file:
            return file.read(100).startswith(f"---\n{LIBRARY}\n".encode())
    except FileNotFoundError:
        return False
