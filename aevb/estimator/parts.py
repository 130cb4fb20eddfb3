"""A folder that holds several run folders and says what each is for; data, never code.

    index.json              what there is: kind, classes, names of the parts, facts
    models-1/000, 001, ...  run folders, as `aevb train` writes them

All parts are written beside what is there, and then the index, in one step, which names them: a
folder is never half old and half new.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aevb.errors import ModelFileError, UsageError, reason, shortly
from aevb.estimator.vae import VAE
from aevb.files import replace_atomically
from aevb.storage import RunFolder
from aevb.storage.files import read_json, to_json, writing

INDEX = "index.json"
MOST_PARTS = 10_000


class _Index(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    format: int = Field(ge=1, le=1)
    kind: str
    classes: list[bool | int | float | str] = Field(min_length=2, max_length=MOST_PARTS)
    dtype: str = Field(pattern=r"^(bool|u?int(8|16|32|64)|float(16|32|64)|str)$")
    models: str = Field(pattern=r"^models-[0-9]{1,9}$")
    parts: int = Field(ge=1, le=MOST_PARTS)
    facts: dict[str, int | float | list[float]]


@dataclass(frozen=True)
class Parts:
    """What a folder of several runs says: its classes (K,), the runs, and facts beside them."""

    path: Path
    classes: NDArray[Any]
    folders: list[Path]
    facts: Mapping[str, Any]

    def numbers(self, name: str, count: int) -> NDArray[np.float64]:
        """A list of so many numbers among the facts; ModelFileError where there is none."""
        found = self.facts.get(name)
        if not isinstance(found, list) or len(found) != count:
            raise ModelFileError(f"{self.path} does not say {count} numbers of {name}")
        return np.asarray(found, np.float64)

    def number(self, name: str) -> float:
        """A number among the facts; ModelFileError where there is none."""
        found = self.facts.get(name)
        if type(found) is not float:
            raise ModelFileError(f"{self.path} does not say the number of {name}")
        return found

    def whole(self, name: str) -> int:
        """A whole number from 1 among the facts; ModelFileError where there is none."""
        found = self.facts.get(name)
        if type(found) is not int or found < 1:
            raise ModelFileError(f"{self.path} does not say how many {name}")
        return found


def save_parts(
    folder: str | Path,
    kind: str,
    classes: NDArray[Any],
    models: Sequence[VAE],
    facts: Mapping[str, Any],
) -> None:
    """Write the models, then the index that names them, and remove what was there before.

    Errors: UsageError for a folder of something else, or classes that no JSON can hold.
    """
    path = Path(folder)
    run = RunFolder(path)
    if run.exists:
        raise UsageError(f"{path} holds a run: name another folder")
    dtype = "str" if classes.dtype.kind in "UO" else classes.dtype.name
    index = {"format": 1, "kind": kind, "classes": classes.tolist(), "dtype": dtype}
    try:
        _Index(**index, models="models-1", parts=1, facts={})
    except ValidationError as error:
        raise UsageError(
            f"classes must be whole numbers or texts to be saved, found {shortly(classes.tolist())}"
        ) from error
    with run.locked(), writing(path):
        former = sorted(path.glob("models-*"))
        number = max((int(f.name[7:]) for f in former if f.name[7:].isdecimal()), default=0) + 1
        for k, model in enumerate(models):
            model.save(path / f"models-{number}" / f"{k:03d}")
        index |= {"models": f"models-{number}", "parts": len(models), "facts": dict(facts)}
        replace_atomically(path / INDEX, to_json(index))
        for old in former:
            shutil.rmtree(old)


def kind_of(folder: str | Path) -> str:
    """What the parts of a folder are together; ModelFileError where there are none."""
    return _read_index(Path(folder) / INDEX).kind


def load_parts(folder: str | Path, kind: str) -> Parts:
    """Read the index of a folder that `save_parts` wrote; the runs are not opened yet.

    Errors: ModelFileError for an index that is missing, damaged, or of another kind.
    """
    path = Path(folder) / INDEX
    index = _read_index(path)
    if index.kind != kind:
        raise ModelFileError(f"{path} is of a {shortly(index.kind, 30)}, expected a {kind}")
    try:
        classes = np.array(index.classes, dtype=None if index.dtype == "str" else index.dtype)
    except (ValueError, OverflowError, TypeError) as error:
        raise ModelFileError(f"{path}: the classes are not all of type {index.dtype}") from error
    if len(np.unique(classes)) != len(classes):
        raise ModelFileError(f"{path}: a class is named twice")
    folders = [path.parent / index.models / f"{k:03d}" for k in range(index.parts)]
    return Parts(path, classes, folders, index.facts)


def _read_index(path: Path) -> _Index:
    try:
        return _Index(**read_json(path, "`aevb classify --out` or a classifier's `save`"))
    except (ValidationError, TypeError) as error:
        raise ModelFileError(f"{path} was changed: {_first_reason(error)}") from error


def _first_reason(error: ValidationError | TypeError) -> str:
    if not isinstance(error, ValidationError):
        return reason(error)
    first = error.errors()[0]
    return f"{shortly('.'.join(map(str, first['loc'])))}: {first['msg']}"
