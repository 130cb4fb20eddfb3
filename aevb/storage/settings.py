"""What settings name: the entry of a closed table, and the data."""

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from aevb.data import Column, Source, open_source
from aevb.errors import UsageError
from aevb.settings import Settings, as_option


def pick(table: dict[str, Any], name: str, option: str) -> Any:
    """The entry of a closed table; UsageError, listing what there is, for another name."""
    if name not in table:
        close = difflib.get_close_matches(name, table, 1)
        meant = f"did you mean {close[0]}? There are" if close else "choose one of"
        raise UsageError(f"{option} {name!r} is not known: {meant} {', '.join(table)}")
    return table[name]


def refuse(settings: Settings, names: Iterable[str], whom: str, but: tuple[str, ...] = ()) -> None:
    """UsageError for a setting that was given and says nothing to whom it would concern."""
    for name in names:
        given = getattr(settings, name)
        if given not in (getattr(Settings, name), "auto", *but):
            said = ",".join(map(str, given)) if isinstance(given, tuple) else given
            raise UsageError(f"{as_option(name)} {said} says nothing to {whom}: leave it out")


def refuse_unless(settings: Settings, option: str, owners: Mapping[str, tuple[str, ...]]) -> None:
    """UsageError for a setting that another choice of `option`, the first of its owner's words,
    would obey."""
    chosen = getattr(settings, option)
    for name, owner in owners.items():
        if chosen != owner[0]:
            refuse(settings, [name], f"{as_option(option)} {chosen}, but to {', '.join(owner)}")


def source_of(
    settings: Settings,
    data: Any = None,
    *,
    like: tuple[Column, ...] | None = None,
    allow_nan: bool = False,
) -> Source:
    """The data of the settings, or others, read as the settings say."""
    data = settings.data if data is None else data
    is_folder = isinstance(data, str | os.PathLike) and os.path.isdir(data)
    return open_source(
        data,
        allow_nan=settings.allow_nan or allow_nan,
        image_size=settings.resize if is_folder or data is settings.data else None,
        like=like,
    )
