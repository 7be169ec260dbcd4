"""What the entries of `--lora-adapters` name: directories, or repositories on the hub, each with a name for requests.

    entry = [name "="] place;   place = directory | hub id ["@" revision]

As in TGI, the place itself is the name where none is given, without its revision.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ranvier.artifacts.source import is_hub_id
from ranvier.errors import ModelError, OptionError

_FORMS = "`name=directory`, `name=hub-id`, `hub-id` or `hub-id@revision`"


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """An adapter's name and where its files are."""

    name: str
    directory: str


def locate_adapters(entries: Sequence[str], model_id: str, hub_cache: str | None) -> tuple[AdapterSource, ...]:
    """Find what the entries name, downloading what is on the hub.

    Raises `OptionError` for entries and names that cannot be, `ModelError` where there is nothing to find.
    """
    named = [_parse(entry) for entry in entries]
    _check_names([name for name, _ in named], model_id)
    return tuple(AdapterSource(name, _directory(name, place, hub_cache)) for name, place in named)


def _parse(entry: str) -> tuple[str, str]:
    """The entry's name and place."""
    before, separator, after = entry.partition("=")
    place = (after if separator else before).strip()
    name = before.strip() if separator else _without_revision(place)
    if not name or not place or "\0" in entry:
        raise OptionError(f"`lora_adapters` must hold entries like {_FORMS}. Given: {entry!r}")
    return name, place


def _without_revision(place: str) -> str:
    return place if os.path.isdir(place) else place.partition("@")[0]


def _check_names(names: Sequence[str], model_id: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"`lora_adapters` has two adapters called {twice!r}; give each a name of its own")
    taken = next((name for name in names if name in ("tgi", model_id)), None)
    if taken is not None:
        raise OptionError(
            f"`lora_adapters` has an adapter called {taken!r}, by which clients ask for the model itself; "
            "give it another name"
        )


def _directory(name: str, place: str, hub_cache: str | None) -> str:
    path = os.path.expanduser(place)
    if os.path.isdir(path):
        return str(Path(path).resolve())
    hub_id, separator, revision = place.partition("@")
    if not is_hub_id(hub_id) or (separator and not revision):
        raise ModelError(
            f"adapter `{name}`: {place}: no such directory, and no hub id; `lora_adapters` takes entries like {_FORMS}"
        )
    # Imported here: only a hub id needs the client, and it costs start-up time.
    from ranvier.artifacts.hub import download

    return str(download(hub_id, revision or None, hub_cache, option="lora_adapters"))
