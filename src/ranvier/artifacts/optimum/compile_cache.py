"""The compiled part of the Neuron Model Cache on this host: one folder for each graph.

    <root>/neuronxcc-<version>/MODULE_<hash of the graph>+<hash of the flags>/
        model.hlo_module.pb  compile_flags.json  model.neff  model.done

A failed compile leaves `model.log` and no `model.done`, and is not tried again until it is removed. A compile that runs
holds a lock on a `*.lock` file. Sources: AWS Neuron documentation, "Neuron Persistent Cache"; optimum-neuron 0.4.5,
`cache/hub_cache.py`. What the compiler's library does with its locks could not be tried without it; so a lock counts as
left behind only when nobody holds it and nothing was written for two hours, twice what a large graph takes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ranvier.artifacts.optimum.digests import REGISTRY
from ranvier.artifacts.optimum.registry import COMPILER_PREFIX, CacheRepository, compiler_folders
from ranvier.errors import ArtifactError

DEFAULT_CACHE = "/var/tmp/neuron-compile-cache"
CACHE_URL = "NEURON_COMPILE_CACHE_URL"
CC_FLAGS = "NEURON_CC_FLAGS"

_STALE_SECONDS = 2 * 3600
_DAY = 86400
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CacheLocation:
    """The compile cache's directory and what named it."""

    path: Path
    source: str


def cache_location(explicit: str | None, environ: Mapping[str, str]) -> CacheLocation:
    """Where compiled graphs are: what was given, `--cache_dir` in NEURON_CC_FLAGS, NEURON_COMPILE_CACHE_URL, default.

    Raises `ArtifactError` for a place that is no local path (`s3://...`) and where NEURON_CC_FLAGS turns the cache off.
    """
    flags = _flags(environ)
    if explicit:
        return _location(explicit, "`--cache-dir`")
    if "--no-cache" in flags:
        raise ArtifactError(
            f"{CC_FLAGS} has `--no-cache`, so there is no compile cache; remove it or give `--cache-dir`"
        )
    named = [flag.partition("=")[2] for flag in flags if flag.startswith("--cache_dir=")]
    if named and named[-1]:
        return _location(named[-1], f"`--cache_dir` in {CC_FLAGS}")
    if environ.get(CACHE_URL):
        return _location(environ[CACHE_URL], CACHE_URL)
    return CacheLocation(Path(DEFAULT_CACHE), "default")


def _flags(environ: Mapping[str, str]) -> list[str]:
    text = environ.get(CC_FLAGS, "")
    try:
        return shlex.split(text)
    except ValueError:
        raise ArtifactError(f"{CC_FLAGS} has a quote that is not closed. Given: `{text}`") from None


def _location(text: str, source: str) -> CacheLocation:
    match = _SCHEME.fullmatch(text)
    if match is None:
        return CacheLocation(Path(text), source)
    if match[1].lower() == "file":
        return CacheLocation(Path(match[2]), source)
    raise ArtifactError(
        f"{source} is {text}, and only local directories can be read here; copy it (for s3: `aws s3 sync {text} DIR`) "
        f"and give DIR with `--cache-dir`"
    )


class State(Enum):
    """What a module's folder says of its compile."""

    DONE = "done"
    FAILED = "failed"
    LOCKED = "locked"
    STALE = "stale lock"
    INCOMPLETE = "incomplete"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One compiled graph's folder.

    `age`: seconds since a file in it was last written, 0 or more. `size`: bytes. `log`: the last line of a failed
    compile's log that is not empty. `locks`: lock files that nobody holds.
    """

    path: Path
    compiler_folder: str
    state: State
    size: int
    age: float
    log: str = ""
    locks: tuple[Path, ...] = ()


def scan_modules(root: Path, now: float) -> tuple[Module, ...]:
    """Every module below a compile cache, by path; () where the directory is absent. `now`: seconds since the epoch.

    Raises `ArtifactError` for a directory that cannot be read.
    """
    try:
        folders = sorted(root.glob(f"{COMPILER_PREFIX}*/MODULE_*"))
        return tuple(_module(folder, now) for folder in folders if folder.is_dir())
    except OSError as error:
        raise ArtifactError(f"{root}: cannot be read: {error.strerror}") from None


def _module(folder: Path, now: float) -> Module:
    stats = _stats(folder)
    written = max((status.st_mtime for status in stats.values()), default=folder.stat().st_mtime)
    locks = [path for path in stats if path.suffix == ".lock"]
    held = [path for path in locks if _is_held(path)]
    age = max(0.0, now - written)
    state = _state({path.name for path in stats}, is_held=bool(held), is_fresh=age < _STALE_SECONDS)
    return Module(
        path=folder,
        compiler_folder=folder.parent.name,
        state=state,
        size=sum(status.st_size for status in stats.values()),
        age=age,
        log=_last_line(folder / "model.log") if state is State.FAILED else "",
        locks=tuple(path for path in locks if path not in held),
    )


def _stats(folder: Path) -> dict[Path, os.stat_result]:
    """Files of a module; one that is removed meanwhile is left out."""
    stats = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                stats[path] = path.stat()
    return stats


def _state(names: set[str], is_held: bool, is_fresh: bool) -> State:
    if {"model.done", "model.neff"} <= names:
        return State.DONE
    if is_held:
        return State.LOCKED
    if "model.log" in names and "model.done" not in names:
        return State.FAILED
    if any(name.endswith(".lock") for name in names):
        return State.LOCKED if is_fresh else State.STALE
    return State.INCOMPLETE if names else State.EMPTY


def _is_held(lock: Path) -> bool:
    """Whether a process holds the lock, or may: a file that cannot be opened counts as held."""
    try:
        with lock.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_bytes()[-4096:].decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One thing that `prune` takes away: a module's folder, or a lock file in one; `size` in bytes."""

    path: Path
    reason: str
    size: int


def plan_prune(modules: Sequence[Module], older_than_days: float | None = None) -> tuple[Removal, ...]:
    """What can go: failed compiles, abandoned and empty folders, stale locks, and modules that are older than given.

    Folders in which somebody may be compiling stay, whatever their age.
    """
    found: list[Removal] = []
    for module in modules:
        reason = _prune_reason(module, older_than_days)
        if reason:
            found.append(Removal(path=module.path, reason=reason, size=module.size))
        elif module.state is State.DONE and module.age >= _STALE_SECONDS:
            found += [Removal(path=lock, reason="stale lock", size=0) for lock in module.locks]
    return tuple(found)


_REMOVED = (State.FAILED, State.STALE, State.EMPTY, State.INCOMPLETE)


def _prune_reason(module: Module, older_than_days: float | None) -> str:
    is_busy = module.state is State.LOCKED
    if not is_busy and older_than_days is not None and module.age > older_than_days * _DAY:
        return f"not written for {module.age / _DAY:.0f} days"
    # A compile begins with an empty folder.
    is_over = module.state in (State.FAILED, State.STALE) or module.age >= _STALE_SECONDS
    return str(module.state.value) if is_over and module.state in _REMOVED else ""


def prune(removals: Sequence[Removal]) -> None:
    """Remove what was planned. Raises `ArtifactError` for the first thing that cannot be removed."""
    for removal in removals:
        try:
            if removal.path.is_dir():
                shutil.rmtree(removal.path)
            else:
                removal.path.unlink(missing_ok=True)
        except OSError as error:
            raise ArtifactError(f"{removal.path}: cannot be removed: {error.strerror}") from None


def folders_to_pull(repository: CacheRepository, compiler_version: str, modules: Sequence[str] = ()) -> tuple[str, ...]:
    """Folders of a repository that a host with this compiler needs: its modules and its registry.

    A registry entry does not say which modules its graphs are, so without `modules` (names or their beginnings) all
    are taken. Raises `ArtifactError` when the repository has nothing of this compiler, or no such module.
    """
    compilers = compiler_folders(repository, compiler_version)
    if not compilers:
        present = ", ".join(name.removeprefix(COMPILER_PREFIX) for name in compiler_folders(repository)) or "none"
        raise ArtifactError(
            f"{repository.name} has nothing compiled by neuronx-cc {compiler_version}; it has: {present}. "
            f"Give `--compiler-version`"
        )
    if not modules:
        return compilers
    return tuple(folder for compiler in compilers for folder in _named(repository, compiler, modules))


def _named(repository: CacheRepository, compiler: str, modules: Sequence[str]) -> list[str]:
    present = repository.list_folders(compiler)
    found = [name for name in present if name.startswith("MODULE_") and name.startswith(tuple(modules))]
    missing = [each for each in modules if not any(name.startswith(each) for name in found)]
    if missing:
        raise ArtifactError(f"`--modules` names `{missing[0]}`, and {repository.name} has no such folder in {compiler}")
    return [f"{compiler}/{name}" for name in (*found, REGISTRY)]


def folders_to_push(modules: Sequence[Module], root: Path) -> tuple[str, ...]:
    """Folders below `root` that are worth sharing: finished modules and the registries beside them.

    A finished module's lock files go with it and are without effect there.
    """
    done = [module for module in modules if module.state is State.DONE]
    compilers = {module.compiler_folder for module in done}
    registries = [f"{name}/{REGISTRY}" for name in compilers if (root / name / REGISTRY).is_dir()]
    return tuple(sorted([*(module.path.relative_to(root).as_posix() for module in done), *registries]))
