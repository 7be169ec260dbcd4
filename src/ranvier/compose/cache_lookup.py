"""Looking a model up in the Neuron Model Cache: the local compile cache, then the repository."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ranvier.artifacts.optimum import (
    BadEntry,
    CacheEntry,
    CacheRepository,
    LocalRepository,
    Wish,
    architecture,
    cache_location,
    consider,
    export_digests,
    find_entries,
    registries,
    repository_name,
)
from ranvier.artifacts.optimum.registry import SERVED_COMPILER, SERVED_OPTIMUM
from ranvier.artifacts.optimum.report import Lookup
from ranvier.artifacts.source import is_hub_id
from ranvier.config.cache import CacheConfig
from ranvier.errors import ArtifactError, ModelError, OptionError, SetupError
from ranvier.models import read_json
from ranvier.neuron_host import chip_of, discover
from ranvier.planner import find_instance


def look_up(
    config: CacheConfig,
    environ: Mapping[str, str],
    root: Path = Path("/"),
    *,
    document: Mapping[str, object] | None = None,
) -> Lookup:
    """Find and hold entries of a model against what was asked; `why-miss` takes those of all versions.

    The local compile cache is looked in first, then the repository. `document`: the model's config.json, where the
    caller has it. Raises a `SetupError` when the model's config cannot be read, or when the repository cannot be
    reached and the compile cache has nothing.
    """
    fields, folders, notes = _model_folders(config, _hf_config(config) if document is None else document)
    wish = wish_of(config, environ, root)
    is_wide = config.subcommand == "why-miss"
    versions = (None, None) if is_wide else (wish.compiler_version, wish.optimum_version)
    found, places = _entries(config, environ, folders, versions, notes)
    entries = [each for each in found if isinstance(each, CacheEntry)]
    if not entries and not is_wide:
        notes.append("only this compiler and optimum-neuron were looked at; `ranvier cache why-miss` takes all")
    return Lookup(
        model=config.model,
        places=tuple(places),
        folders=tuple(folders),
        selection=consider(entries, wish, fields),
        bad=tuple(each for each in found if isinstance(each, BadEntry)),
        notes=tuple(notes),
    )


def _model_folders(
    config: CacheConfig, document: Mapping[str, object]
) -> tuple[dict[str, object] | None, list[str], list[str]]:
    """The model's architecture where it can be computed, the folders that its entries can be in, and notes."""
    name = _alias(config.model)
    try:
        fields = architecture(document)
        folders = list(export_digests(document))
    except ArtifactError as error:
        if name is None:
            raise
        folder = f"{document.get('model_type')}/{name}"
        return None, [folder], [f"{error}; so only entries of this name were looked for, unchecked"]
    return fields, [*folders, *([f"{fields['model_type']}/{name}"] if name else [])], []


def _hf_config(config: CacheConfig) -> Mapping[str, object]:
    path = Path(os.path.expanduser(config.model))
    if os.path.isdir(path):
        return read_json(path / "config.json")
    if os.path.isfile(path):
        return read_json(path)
    if not is_hub_id(config.model):
        raise ModelError(
            f"`MODEL` {config.model}: no such file or directory; give a directory with config.json, such a file, or a "
            f"hub id"
        )
    # Imported here: the hub's client is needed for hub ids alone.
    from ranvier.artifacts.hub import read_file

    return read_json(read_file(config.model, config.revision, "config.json", config.hub_cache))


def _alias(model: str) -> str | None:
    """The name of a model in a registry; a directory or a file has none."""
    return model if is_hub_id(model) and not os.path.exists(model) else None


def _entries(
    config: CacheConfig,
    environ: Mapping[str, str],
    folders: Sequence[str],
    versions: tuple[str | None, str | None],
    notes: list[str],
) -> tuple[list[CacheEntry | BadEntry], list[tuple[str, int]]]:
    """Entries of the local compile cache and the repository, one that is in both from the first."""
    found: dict[str, CacheEntry | BadEntry] = {}
    places = []
    for repository in _places(config, environ, notes):
        try:
            entries = find_entries(repository, registries(repository, *versions), folders)
        except SetupError as error:
            if not found:
                raise
            notes.append(f"{repository.name} was left out: {error}")
            continue
        places.append((repository.name, len(entries)))
        for entry in entries:
            found.setdefault(entry.path, entry)
    return list(found.values()), places


def _places(config: CacheConfig, environ: Mapping[str, str], notes: list[str]) -> list[CacheRepository]:
    repository = repository_of(config, environ)
    try:
        local = cache_location(config.cache_dir, environ).path
    except ArtifactError as error:
        notes.append(f"the local compile cache was left out: {error}")
        return [repository]
    is_there = local.is_dir() and repository.name != str(local)
    return [LocalRepository(local), repository] if is_there else [repository]


def repository_of(config: CacheConfig, environ: Mapping[str, str]) -> CacheRepository:
    """The cache that was named, a directory or a repository on the hub. Raises `OptionError` for anything else."""
    name, source = (config.repository, config.sources["repository"]) if config.repository else repository_name(environ)
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        return LocalRepository(path)
    if not is_hub_id(name) or name.startswith((".", "~", "/")):
        raise OptionError(f"{source} is {name}, which is no directory and cannot be a hub id; give one of them")
    # Imported here: the hub's client is needed for hub ids alone.
    from ranvier.artifacts.hub_cache import HubCacheRepository

    return HubCacheRepository(name)


def wish_of(config: CacheConfig, environ: Mapping[str, str], root: Path = Path("/")) -> Wish:
    """What was asked for, on this host or the instance that was named. `root`: where to look for devices."""
    target, cores, host = _host(config, environ, root)
    sources = {
        ours: config.sources[theirs]
        for ours, theirs in _WISH_OPTIONS.items()
        if config.sources.get(theirs, "default") != "default"
    }
    compiler, compiler_source = version_of(config.compiler_version, "neuronx-cc", SERVED_COMPILER)
    optimum, optimum_source = version_of(config.optimum_version, "optimum-neuron", SERVED_OPTIMUM)
    return Wish(
        batch_size=config.max_batch_size,
        sequence_length=config.max_total_tokens,
        max_input_tokens=config.max_input_tokens,
        num_cores=config.num_cores,
        auto_cast_type=config.auto_cast_type,
        target=target,
        available_cores=cores,
        compiler_version=compiler,
        optimum_version=optimum,
        sources={
            "compiler_version": compiler_source,
            "optimum_version": optimum_source,
            "target": host,
            "available_cores": host,
            **sources,
        },
    )


_WISH_OPTIONS = {
    "batch_size": "max_batch_size",
    "sequence_length": "max_total_tokens",
    "max_input_tokens": "max_input_tokens",
    "num_cores": "num_cores",
    "auto_cast_type": "auto_cast_type",
    "compiler_version": "compiler_version",
    "optimum_version": "optimum_version",
}


def _host(config: CacheConfig, environ: Mapping[str, str], root: Path) -> tuple[str | None, int | None, str]:
    """The compiler's name of the chip, the cores, and what says so; None for what is not known."""
    if config.instance:
        instance = find_instance(config.instance)
        cores = instance.num_chips * instance.chip.num_cores(instance.chip.default_lnc)
        return _target(config.instance), cores, config.sources["instance"]
    host = discover(root, environ)
    if not host.usable_devices:
        return None, None, "this host"
    return _target(host.chip.name if host.chip else ""), host.num_available, "this host"


def _target(name: str) -> str | None:
    """Inferentia2 takes what is compiled for Trainium1."""
    chip = chip_of(name)
    return None if chip is None else "trn1" if chip.target == "inf2" else chip.target


def version_of(given: str | None, distribution: str, served: str) -> tuple[str, str]:
    """A version and what says so: given, else installed, else the one that exports are served with."""
    if given:
        return given, "given"
    try:
        return importlib.metadata.version(distribution), f"the installed {distribution}"
    except importlib.metadata.PackageNotFoundError:
        return served, f"the {distribution} that exports are served with"
