"""`ranvier cache`: what the Neuron Model Cache has for a model, and the compile cache of this host."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ranvier.artifacts.optimum import (
    DEFAULT_REPOSITORY,
    CacheLocation,
    Module,
    State,
    cache_location,
    cached_models,
    folders_to_pull,
    folders_to_push,
    plan_prune,
    prune,
    registries,
    scan_modules,
)
from ranvier.artifacts.optimum.registry import SERVED_COMPILER, SERVED_OPTIMUM
from ranvier.artifacts.optimum.report import lookup_json, lookup_text
from ranvier.compose.cache_lookup import look_up, repository_of, version_of
from ranvier.config.cache import CacheConfig, load_cache_config
from ranvier.errors import ArtifactError, OptionError


def cache_command(arguments: Sequence[str], prog: str, environ: Mapping[str, str], root: Path = Path("/")) -> int:
    """Run one subcommand and return its exit code: 1 for a look-up that missed, else 0.

    `root`: where to look for Neuron devices. Raises a `SetupError` for what cannot be read or reached, and
    `SystemExit` for help and usage mistakes.
    """
    config = load_cache_config(arguments, environ, prog)
    commands: dict[str, Callable[[CacheConfig, Mapping[str, str]], tuple[str, object]]] = {
        "list": _list,
        "pull": _pull,
        "push": _push,
        "prune": _prune,
        "status": _status,
    }
    if config.subcommand in commands:
        text, document = commands[config.subcommand](config, environ)
        _write(config, text, document)
        return 0
    lookup = look_up(config, environ, root)
    _write(config, lookup_text(lookup), lookup_json(lookup))
    return 0 if lookup.selection.chosen else 1


def _write(config: CacheConfig, text: str, document: object) -> None:
    print(json.dumps(document, indent=2) + "\n" if config.as_json else text, end="")


def _list(config: CacheConfig, environ: Mapping[str, str]) -> tuple[str, object]:
    repository = repository_of(config, environ)
    compiler, _ = version_of(config.compiler_version, "neuronx-cc", SERVED_COMPILER)
    optimum, _ = version_of(config.optimum_version, "optimum-neuron", SERVED_OPTIMUM)
    folders = registries(repository, compiler, optimum)
    rows = [
        {"registry": folder, "model_type": model_type, "model": model, "entries": count}
        for folder in folders
        for (model_type, model), count in sorted(cached_models(repository, folder).items())
    ]
    lines = [f"{repository.name}, neuronx-cc {compiler}, optimum-neuron {optimum}: {len(rows)} models by name"]
    lines += [f"  {row['model_type']:<12} {row['model']}  {row['entries']}" for row in rows]
    return "\n".join(lines) + "\n", {"repository": repository.name, "models": rows}


def _pull(config: CacheConfig, environ: Mapping[str, str]) -> tuple[str, object]:
    repository, location = repository_of(config, environ), cache_location(config.cache_dir, environ)
    compiler, _ = version_of(config.compiler_version, "neuronx-cc", SERVED_COMPILER)
    folders = folders_to_pull(repository, compiler, config.modules or ())
    count = None if config.dry_run else repository.download(folders, location.path)
    return _copied(repository.name, str(location.path), folders, count)


def _push(config: CacheConfig, environ: Mapping[str, str]) -> tuple[str, object]:
    repository, location = repository_of(config, environ), cache_location(config.cache_dir, environ)
    if repository.name == DEFAULT_REPOSITORY:
        raise OptionError(
            f"`repository` is {DEFAULT_REPOSITORY}, which only its owners write to; name yours with CUSTOM_CACHE_REPO "
            f"or `--repository`"
        )
    folders = folders_to_push(scan_modules(location.path, time.time()), location.path)
    if not folders:
        raise ArtifactError(f"{location.path} ({location.source}) has no finished module; there is nothing to push")
    count = None if config.dry_run else repository.upload(location.path, folders)
    return _copied(str(location.path), repository.name, folders, count)


def _copied(source: str, target: str, folders: Sequence[str], count: int | None) -> tuple[str, object]:
    verb = "would copy" if count is None else f"copied {count} files of"
    lines = [f"{verb} {len(folders)} folders from {source} to {target}", *(f"  {folder}" for folder in folders)]
    return "\n".join(lines) + "\n", {"from": source, "to": target, "folders": list(folders), "files": count}


def _there(config: CacheConfig, environ: Mapping[str, str]) -> CacheLocation:
    """The compile cache. Raises `ArtifactError` for a folder that was named and is not there: it may be a typo."""
    location = cache_location(config.cache_dir, environ)
    if location.source != "default" and not location.path.is_dir():
        raise ArtifactError(f"{location.source} is {location.path}, which is no directory; name one")
    return location


def _prune(config: CacheConfig, environ: Mapping[str, str]) -> tuple[str, object]:
    location = _there(config, environ)
    removals = plan_prune(scan_modules(location.path, time.time()), config.older_than)
    if not config.dry_run:
        prune(removals)
    size = sum(removal.size for removal in removals)
    verb = "would remove" if config.dry_run else "removed"
    lines = [f"{location.path} ({location.source}): {verb} {len(removals)}, {size / 1e6:.1f} MB"]
    lines += [f"  {removal.path}: {removal.reason}" for removal in removals]
    rows = [{"path": str(each.path), "reason": each.reason, "bytes": each.size} for each in removals]
    return "\n".join(lines) + "\n", {"cache": str(location.path), "dry_run": config.dry_run, "removed": rows}


def _status(config: CacheConfig, environ: Mapping[str, str]) -> tuple[str, object]:
    location = _there(config, environ)
    modules = scan_modules(location.path, time.time())
    lines = [f"{location.path} ({location.source}): {len(modules)} modules"]
    for compiler in sorted({module.compiler_folder for module in modules}):
        lines += _compiler_lines(compiler, [module for module in modules if module.compiler_folder == compiler])
    document = {
        "cache": str(location.path),
        "source": location.source,
        "modules": [_module_json(module) for module in modules],
    }
    return "\n".join(lines) + "\n", document


def _compiler_lines(compiler: str, modules: Sequence[Module]) -> list[str]:
    counts = {state: sum(module.state is state for module in modules) for state in State}
    states = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
    size = sum(module.size for module in modules)
    lines = [f"{compiler}: {states}, {size / 1e6:.1f} MB"]
    others = [module for module in modules if module.state is not State.DONE]
    return [*lines, *(f"  {each.state.value:<10} {each.path.name}  {each.log}".rstrip() for each in others)]


def _module_json(module: Module) -> dict[str, object]:
    return {
        "path": str(module.path),
        "state": module.state.value,
        "bytes": module.size,
        "age_seconds": round(module.age),
        "log": module.log or None,
    }
