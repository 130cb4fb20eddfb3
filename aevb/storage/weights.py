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

from aevb.errors import ModelFileError, TrainingError
from aevb.files import replace_atomically
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.storage.description import describe, restore
from aevb.storage.files import read_json, to_json

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
MAX_HEADER_BYTES = 10 << 20
FLOATS = ("F16", "BF16", "F32", "F64")
OTHERS = {torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}


def save(
    folder: str | Path,
    model: Model,
    posterior: Posterior,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write model and posterior into a folder, each file in one step; `facts` join the config.

    Errors: ModelFileError where the folder cannot be written; TrainingError for parameters that
    are not finite.
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
    """Write `model.safetensors` alone; TrainingError for parameters that are not finite."""
    for prefix, module in (("model", model), ("posterior", posterior)):
        require_finite({f"{prefix}.{name}": p for name, p in module.named_parameters()})
    replace_atomically(folder / WEIGHTS, safetensors.torch.save(_state(model, posterior)))


def require_finite(parameters: Mapping[str, Tensor]) -> None:
    """TrainingError, naming the first one, unless all parameters are finite."""
    for name, p in parameters.items():
        if not bool(torch.isfinite(p).all()):
            raise TrainingError(
                f"the parameters are not finite, in {name}: they are not saved; try a smaller "
                "learning rate (--lr) or gradient clipping (--clip 10)"
            )


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
    state, header = _state(model, posterior), _header(path)
    expected = {name: tuple(t.shape) for name, t in state.items()}
    found = {name: shape for name, (shape, _) in header.items()}
    for odd in sorted(found.keys() | expected.keys()):
        if found.get(odd) != expected.get(odd):
            raise ModelFileError(
                f"{path} does not belong to its config.json: {odd[:200]} has shape "
                f"{found.get(odd)}, expected {expected.get(odd)}"
            )
        allowed = FLOATS if state[odd].is_floating_point() else (OTHERS.get(state[odd].dtype),)
        if header[odd][1] not in allowed:
            raise ModelFileError(
                f"{path} does not belong to its config.json: {odd[:200]} is of type "
                f"{str(header[odd][1])[:20]}, expected {' or '.join(map(str, allowed))}"
            )
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is damaged ({error})") from error
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{path} holds weights that are not finite, in {name}")
    for prefix, module in (("model.", model), ("posterior.", posterior)):
        # Copies lie aligned, as what was saved did: elsewhere products differ in their last bit.
        own = {
            k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)
        }
        module.load_state_dict(own, assign=True)


def _state(model: Model, posterior: Posterior) -> dict[str, Tensor]:
    # Copies: a file cannot hold two names for one memory, as of a module in both places.
    return {
        f"{prefix}.{name}": tensor.detach().clone(memory_format=torch.contiguous_format)
        for prefix, module in (("model", model), ("posterior", posterior))
        for name, tensor in module.state_dict().items()
    }


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Names, shapes and dtypes as the file states them, read without touching the weights."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                raise ModelFileError(f"{path} is damaged: its header claims {length} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            name: (tuple(int(n) for n in entry["shape"]), entry["dtype"])
            for name, entry in header.items()
        }
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist: the run has not saved a model yet") from None
    except (
        OSError,
        ValueError,
        OverflowError,
        RecursionError,
        struct.error,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise ModelFileError(f"{path} is damaged: its header cannot be read") from error
