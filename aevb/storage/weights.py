"""A model in a folder: `model.safetensors` for the weights, `config.json` for all the rest."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from aevb.errors import ModelFileError
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.storage.description import describe, restore
from aevb.storage.files import read_json, replace_atomically, to_json

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
MAX_HEADER_BYTES = 10 << 20


def save(
    folder: str | Path,
    model: Model,
    posterior: Posterior,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write model and posterior into a folder, each file in one step; `facts` join the config.

    Errors: ModelFileError where the folder cannot be written.
    Example: `aevb.save("my-model", model, posterior)`, then `aevb.load("my-model")`.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_atomically(folder / CONFIG, to_json(config_of(model, posterior, facts)))
        save_weights(folder, model, posterior)
    except OSError as error:
        raise ModelFileError(f"{folder} cannot be written ({error.strerror})") from error


def config_of(
    model: Model, posterior: Posterior, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of `config.json`."""
    return {
        "format": FORMAT,
        "model": describe(model),
        "posterior": describe(posterior),
        **(facts or {}),
    }


def save_weights(folder: Path, model: Model, posterior: Posterior) -> None:
    """Write `model.safetensors` alone."""
    replace_atomically(folder / WEIGHTS, safetensors.torch.save(_state(model, posterior)))


def load(
    folder: str | Path, modules: Mapping[str, nn.Module] | None = None
) -> tuple[Model, Posterior]:
    """Read model and posterior back, in evaluation mode; nothing in the folder is executed.

    `modules` hands in the user's own networks by the path that the error names, for instance
    {"model.likelihood.network": decoder}.
    Errors: ModelFileError for files that are missing, damaged, of another version, or whose shapes
    are not those of the description; sizes are compared before memory is taken.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise ModelFileError(
            f"{folder / CONFIG} has format {config.get('format')!r}, this version reads {FORMAT}: "
            "use the version of aevb that wrote it"
        )
    modules = dict(modules or {})
    with torch.device("meta"):  # shapes only: no memory is taken before they are checked
        model = restore(config.get("model"), modules, "model")
        posterior = restore(config.get("posterior"), modules, "posterior")
    if not isinstance(model, Model) or not isinstance(posterior, Posterior):
        raise ModelFileError(f"{folder / CONFIG} describes no model and posterior")
    load_weights(folder, model, posterior)
    return model.eval(), posterior.eval()


def load_weights(folder: Path, model: Model, posterior: Posterior) -> None:
    """Fill the modules from `model.safetensors`, after comparing names, shapes and dtypes."""
    path = folder / WEIGHTS
    expected = {name: tuple(t.shape) for name, t in _state(model, posterior).items()}
    found = _header(path)
    if found != expected:
        odd = sorted(set(found.items()) ^ set(expected.items()))[0][0]
        raise ModelFileError(
            f"{path} does not belong to its config.json: {odd} has shape {found.get(odd)}, "
            f"expected {expected.get(odd)}"
        )
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is damaged ({error})") from error
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{path} holds weights that are not finite, in {name}")
    for prefix, module in (("model.", model), ("posterior.", posterior)):
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        module.load_state_dict(own, assign=True)


def _state(model: Model, posterior: Posterior) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": tensor.detach().contiguous()
        for prefix, module in (("model", model), ("posterior", posterior))
        for name, tensor in module.state_dict().items()
    }


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the file states them, read without touching the weights."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                raise ModelFileError(f"{path} is damaged: its header claims {length} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: tuple(entry["shape"]) for name, entry in header.items()}
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist: the run has not saved a model yet") from None
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path} is damaged: its header cannot be read") from error
