"""A model in a folder: `model.safetensors` for the weights, `config.json` for all the rest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aevb.errors import (
    ModelFileError,
    TrainingError,
    UsageError,
    name_shortly,
    reason,
    shortly,
)
from aevb.files import replace_atomically
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.storage.description import MAX_ITEMS, describe, restore, too_many_items
from aevb.storage.files import MAX_JSON_BYTES, read_json, sha256, to_json
from aevb.storage.sealed import CHECKSUM, Header, read_header, read_tensors, seal

FORMAT = 4
WEIGHTS, CONFIG = "model.safetensors", "config.json"
DESCRIPTION = "description"
"""The checksum of the description that the weights are of, in the metadata of their file."""
FLOATS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
OTHERS = {
    torch.int64: {"I64": 8},
    torch.int32: {"I32": 4},
    torch.uint8: {"U8": 1},
    torch.bool: {"BOOL": 1},
}


def save(
    folder: str | Path,
    model: Model,
    posterior: Posterior,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write model and posterior into a folder, each file in one step; `facts` join the config.

    Errors: ModelFileError where the folder cannot be written; TrainingError for parameters that
    are not finite; UsageError for facts that JSON does not hold, or that are called as the model
    is, and for a description that `load` would refuse. Then the folder is as it was.
    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)
        >>> with TemporaryDirectory() as folder:
        ...     save(folder, model, model.exact_encoder())
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['config.json', 'model.safetensors']
    """
    folder, config = Path(folder), config_of(model, posterior, facts)
    require_finite_modules(model, posterior)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_atomically(folder / CONFIG, config)
        save_weights(folder, model, posterior)
    except OSError as error:
        raise ModelFileError(f"{folder} cannot be written ({reason(error)})") from error


def config_of(model: Model, posterior: Posterior, facts: Mapping[str, Any] | None = None) -> bytes:
    """The content of `config.json`, held to what `load` asks of it: UsageError for others."""
    trees = _trees(model, posterior)
    if taken := sorted({"format", *trees} & set(facts or {})):
        raise UsageError(f"facts may not be called {', '.join(taken)}: choose other names")
    for name, tree in trees.items():
        if too_many_items(tree):
            raise UsageError(
                f"the {name} takes more than {MAX_ITEMS} items to describe, which no file may "
                "hold: build it of fewer modules"
            )
    try:
        content = to_json({"format": FORMAT, **trees, **(facts or {})})
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{CONFIG} cannot say this ({reason(error)}): facts are finite numbers, texts, lists, "
            "and objects of these under texts"
        ) from error
    if len(content) > MAX_JSON_BYTES:
        raise UsageError(
            f"names of columns and all that describes the model take {len(content):,} bytes, and "
            f"{CONFIG} may have {MAX_JSON_BYTES:,}: give fewer columns, or shorter names and texts"
        )
    return content


def _trees(model: Model, posterior: Posterior) -> dict[str, Any]:
    """The description of both; what the posterior shares with the model is described once."""
    known: dict[int, str] = {}
    return {
        "model": describe(model, known, "model"),
        "posterior": describe(posterior, known, "posterior"),
    }


def save_weights(folder: Path, model: Model, posterior: Posterior) -> None:
    """Write `model.safetensors` alone; TrainingError for parameters that are not finite."""
    require_finite_modules(model, posterior)
    described = _described(**_trees(model, posterior))
    parts = seal(_contiguous(_state(model, posterior)), {DESCRIPTION: described})
    replace_atomically(folder / WEIGHTS, *parts)


def require_finite_modules(model: Model, posterior: Posterior) -> None:
    """TrainingError, naming the first one, unless all parameters of both are finite."""
    for prefix, module in (("model", model), ("posterior", posterior)):
        require_finite({f"{prefix}.{name}": p for name, p in module.named_parameters()})


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
    are not those of the description; sizes are compared before memory is taken, then every byte
    with the file's checksum.
    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)
        >>> with TemporaryDirectory() as folder:
        ...     save(folder, model, model.exact_encoder())
        ...     load(folder)[0].weight.tolist()
        [[3.0], [4.0]]
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    if type(config.get("format")) is not int or config["format"] != FORMAT:
        raise ModelFileError(
            f"{folder / CONFIG} has format {shortly(config.get('format'), 20)}, this version reads "
            f"{FORMAT}: use the version of aevb that wrote it"
        )
    modules = dict(modules or {})
    with torch.device("meta"):  # shapes only: no memory is taken before they are checked
        built: dict[str, Any] = {}
        model = restore(config.get("model"), modules, "model", built)
        posterior = restore(config.get("posterior"), modules, "posterior", built)
    if not isinstance(model, Model) or not isinstance(posterior, Posterior):
        raise ModelFileError(f"{folder / CONFIG} describes no model and posterior")
    load_weights(folder, model, posterior, _described(config.get("model"), config.get("posterior")))
    return model.eval(), posterior.eval()


def load_weights(
    folder: Path, model: Model, posterior: Posterior, described: str | None = None
) -> None:
    """Fill the modules from `model.safetensors`, after comparing names, shapes, dtypes, checksum.

    `described` is the checksum of the description that the weights must be of, where there is one:
    weights of the same shapes may belong to a model of another activation.
    """
    path, state = folder / WEIGHTS, _state(model, posterior)
    header = read_header(path, len(state))
    sizes = _compare(path, state, header)
    tensors = read_tensors(path, header, sizes)
    if described is not None and header.facts.get(DESCRIPTION) != described:
        raise ModelFileError(
            f"{path} does not belong to its config.json: it was saved with another description of "
            "the model, or that was changed since; save the two together"
        )
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{path} holds weights that are not finite, in {name}")
    for prefix, module in (("model.", model), ("posterior.", posterior)):
        # Copies lie aligned, as what was saved did: elsewhere products differ in their last bit.
        own = {
            k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)
        }
        module.load_state_dict(own, assign=True)


def checksum(folder: Path) -> str:
    """The checksum that the weights of a folder state, which tells one model from another."""
    return read_header(folder / WEIGHTS, 10_000).facts.get(CHECKSUM, "")


def _compare(path: Path, state: Mapping[str, Tensor], header: Header) -> dict[str, int]:
    """The bytes of an element of each tensor, where names, shapes and dtypes are the module's."""
    expected = {name: tuple(t.shape) for name, t in state.items()}
    found = {name: shape for name, (shape, _) in header.entries.items()}
    sizes = {}
    for odd in sorted(found.keys() | expected.keys()):
        if found.get(odd) != expected.get(odd):
            raise ModelFileError(
                f"{path} does not belong to its config.json: {name_shortly(odd)} has shape "
                f"{shortly(found.get(odd))}, expected {shortly(expected.get(odd))}"
            )
        allowed = FLOATS if state[odd].is_floating_point() else OTHERS.get(state[odd].dtype, {})
        dtype = header.entries[odd][1]
        if not isinstance(dtype, str) or dtype not in allowed:
            raise ModelFileError(
                f"{path} does not belong to its config.json: {name_shortly(odd)} is of type "
                f"{str(dtype)[:20]}, expected {' or '.join(allowed)}"
            )
        sizes[odd] = allowed[dtype]
    return sizes


def _described(model: Any, posterior: Any) -> str:
    return sha256(to_json({"model": model, "posterior": posterior}))


def _state(model: Model, posterior: Posterior) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": tensor.detach()
        for prefix, module in (("model", model), ("posterior", posterior))
        for name, tensor in module.state_dict().items()
    }


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with a memory of its own, as a file wants them; copied where it is another's."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        separate[name] = separate[name].cpu().contiguous()
        seen.add(memory)
    return separate
