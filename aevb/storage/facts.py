"""What a run folder says of its data and of what was used, beside the model and the settings."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from aevb import __version__
from aevb.data import Column, Dataset
from aevb.errors import ModelFileError
from aevb.settings import Settings

_COLUMNS = TypeAdapter(tuple[Column, ...])


def facts_of(settings: Settings, data: Dataset) -> dict[str, Any]:
    """What `config.json` says beside the model: settings, data, and what was used."""
    return {
        "settings": asdict(settings),
        "data": _of_data(data),
        "used": {
            "aevb": __version__,
            "torch": version("torch"),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "device": settings.device,
            "precision": settings.precision,
        },
    }


def _of_data(data: Dataset) -> dict[str, Any]:
    source = data.source
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        "name": data.name,
        "fingerprint": source.fingerprint,
        "shape": list(data.shape),
        "kind": source.kind,
        "scale": source.scale,
        "columns": [asdict(column) for column in source.columns],
        "missing": source.missing,
        "rows": {name: len(rows) for name, rows in parts.items()},
        "split": "official" if source.splits else f"random, seed {data.train.seed}",
        "binarize": data.train.stated,
        "likelihood_reason": source.reason,
    }


def columns_of(facts: Mapping[str, Any], where: str) -> tuple[Column, ...]:
    """The columns that a model was fitted on; ModelFileError where the facts are damaged."""
    try:
        return _COLUMNS.validate_python(facts.get("columns", []))
    except ValidationError as error:
        raise ModelFileError(
            f"{where} does not say the columns of its data as it should: it was changed"
        ) from error
