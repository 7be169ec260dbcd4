"""Repositories of the Neuron Model Cache and the entries of their registries."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from ranvier.artifacts.optimum.config import OptimumConfig, parse_optimum_config
from ranvier.artifacts.optimum.digests import REGISTRY, arch_digest, entry_digest, registry_folder
from ranvier.artifacts.optimum.wish import is_same_compiler
from ranvier.errors import ArtifactError

COMPILER_PREFIX = "neuronxcc-"
DEFAULT_REPOSITORY = "aws-neuron/optimum-neuron-cache"
"""The public cache on the hub; only its owners write to it."""
SERVED_COMPILER = "2.21.33363.0"
SERVED_OPTIMUM = "0.4.5"
"""neuronx-cc and optimum-neuron that exports are served with, where others are not installed."""
_PASSING = (".lock", ".incomplete")
"""Endings of files that are of use to a running process alone."""
CUSTOM_REPOSITORY_FILE = "optimum_neuron_custom_cache"
"""Below `HF_HOME`; written by `optimum-cli neuron cache set`."""


class CacheRepository(Protocol):
    """A tree of files in the layout of the Neuron Model Cache. Paths are relative, with `/`.

    Methods raise a `SetupError` where the repository cannot be reached or refuses.
    """

    @property
    def name(self) -> str:
        """What messages call it: a hub id or a directory."""
        ...

    def list_folders(self, folder: str) -> tuple[str, ...]:
        """Names of the folders directly below one, sorted; () where it is absent."""
        ...

    def list_files(self, folder: str) -> tuple[str, ...]:
        """Paths from the root of all files below a folder, sorted; () where it is absent."""
        ...

    def read(self, path: str) -> bytes:
        """The bytes of one file."""
        ...

    def download(self, folders: Sequence[str], target: Path) -> int:
        """Copy everything below these folders to the same paths below `target`; return the number of files.

        Each file appears complete or not at all, and `model.done` after the files that it vouches for.
        """
        ...

    def upload(self, source: Path, folders: Sequence[str]) -> int:
        """Copy everything below these folders of `source` to the repository; return the number of files."""
        ...


@dataclass(frozen=True, slots=True)
class LocalRepository:
    """A directory as a repository: a compile cache, or a copy of a hub cache on a host without network."""

    path: Path

    @property
    def name(self) -> str:
        """The directory."""
        return str(self.path)

    def list_folders(self, folder: str) -> tuple[str, ...]:
        """As `CacheRepository` says."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _reported(self.path / folder):
            return tuple(sorted(each.name for each in os.scandir(self.path / folder) if each.is_dir()))
        return ()

    def list_files(self, folder: str) -> tuple[str, ...]:
        """As `CacheRepository` says; links to files count as files."""
        return tuple(sorted(_walk(self.path, folder)))

    def read(self, path: str) -> bytes:
        """As `CacheRepository` says."""
        with _reported(self.path / path):
            try:
                return (self.path / path).read_bytes()
            except FileNotFoundError:
                raise ArtifactError(f"{self.path / path}: no such file") from None

    def download(self, folders: Sequence[str], target: Path) -> int:
        """As `CacheRepository` says."""
        return _copy(self.path, target, folders)

    def upload(self, source: Path, folders: Sequence[str]) -> int:
        """As `CacheRepository` says."""
        return _copy(source, self.path, folders)


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from None


def _walk(root: Path, folder: str) -> Iterator[str]:
    for directory, _, names in os.walk(root / folder):
        for name in names:
            path = Path(directory, name)
            # A link that leads nowhere is no file.
            if path.is_file():
                yield path.relative_to(root).as_posix()


def _copy(source: Path, target: Path, folders: Sequence[str]) -> int:
    found = {path for folder in folders for path in _walk(source, folder) if not path.endswith(_PASSING)}
    paths = sorted(found, key=lambda path: (path.endswith(".done"), path))
    for path in paths:
        try:
            _copy_whole(source / path, target / path)
        except OSError as error:
            raise ArtifactError(f"{target / path}: cannot be written: {error.strerror}") from None
    return len(paths)


def _copy_whole(source: Path, target: Path) -> None:
    """Through a temporary sibling; what is there already with the same size and time is left."""
    if target.is_file() and _stamp(target) == _stamp(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".copying-", dir=target.parent)
    os.close(descriptor)
    try:
        shutil.copyfile(source, name)
        shutil.copystat(source, name)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One file of a registry: a model's architecture and the Neuron config that it was exported with.

    `architecture` is the config's part of the file; its digest need not be the folder's, where that is a name.
    `is_intact`: whether the file's name is the digest of its text. `repository`: whose entry it is.
    """

    path: str
    repository: str
    model_id: str
    task: str
    architecture: Mapping[str, object]
    config: OptimumConfig
    is_intact: bool

    @property
    def arch_digest(self) -> str:
        """Of the architecture in the file."""
        return arch_digest(self.architecture, self.task)

    @property
    def digest(self) -> str:
        """The file's name without its ending."""
        return PurePosixPath(self.path).stem


@dataclass(frozen=True, slots=True)
class BadEntry:
    """A file of a registry that is no entry of a causal language model, and why."""

    path: str
    repository: str
    reason: str


def parse_entry(data: bytes, path: str, repository: str) -> CacheEntry | BadEntry:
    """Read one file of a registry."""
    try:
        text = data.decode()
        document = json.loads(text)
        if not isinstance(document, dict):
            raise TypeError("no object")
        entry_class, model_id, task = (document.pop(name) for name in ("_entry_class", "_model_id", "_task"))
        neuron = document.pop("neuron")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return BadEntry(path, repository, f"no registry entry ({type(error).__name__}: {error})")
    if entry_class != "SingleModelCacheEntry" or not isinstance(document.get("model_type"), str):
        return BadEntry(path, repository, f"an entry of the kind {entry_class}, which is no language model")
    try:
        config = parse_optimum_config(neuron, "`neuron`")
    except ArtifactError as error:
        return BadEntry(path, repository, str(error))
    return CacheEntry(
        path=path,
        repository=repository,
        model_id=str(model_id),
        task=str(task),
        architecture=document,
        config=config,
        is_intact=entry_digest(text) == PurePosixPath(path).stem,
    )


def compiler_folders(repository: CacheRepository, version: str | None = None) -> tuple[str, ...]:
    """Folders of compilers in a repository; with a version, full or without its build, only that one's."""
    folders = [name for name in repository.list_folders("") if name.startswith(COMPILER_PREFIX)]
    if version is None:
        return tuple(folders)
    return tuple(name for name in folders if is_same_compiler(name.removeprefix(COMPILER_PREFIX), version))


def registries(
    repository: CacheRepository, compiler_version: str | None = None, optimum_version: str | None = None
) -> tuple[str, ...]:
    """Registry folders of the given versions; None takes all of them."""
    found = []
    for folder in compiler_folders(repository, compiler_version):
        versions = repository.list_folders(f"{folder}/{REGISTRY}")
        found += [registry_folder(folder, each) for each in versions if optimum_version in (None, each)]
    return tuple(found)


def find_entries(
    repository: CacheRepository, registry_folders: Iterable[str], model_folders: Sequence[str]
) -> tuple[CacheEntry | BadEntry, ...]:
    """Read what is in a model's folders (digests and names) of these registries; one that is in two is read once."""
    found: dict[tuple[str, str], CacheEntry | BadEntry] = {}
    for registry in registry_folders:
        for folder in model_folders:
            for path in repository.list_files(f"{registry}/{folder}"):
                key = registry, PurePosixPath(path).name
                if path.endswith(".json") and key not in found:
                    found[key] = parse_entry(repository.read(path), path, repository.name)
    return tuple(found.values())


def cached_models(repository: CacheRepository, registry: str) -> dict[tuple[str, str], int]:
    """Model types and names in a registry, with how many entries each name has."""
    counts: dict[tuple[str, str], int] = {}
    for path in repository.list_files(registry):
        parts = path.removeprefix(f"{registry}/").split("/")
        if len(parts) == 4 and parts[-1].endswith(".json"):
            key = parts[0], f"{parts[1]}/{parts[2]}"
            counts[key] = counts.get(key, 0) + 1
    return counts


def repository_name(environ: Mapping[str, str]) -> tuple[str, str]:
    """Which repository is used, and what says so: `CUSTOM_CACHE_REPO`, the file below `HF_HOME`, or the default.

    Source: optimum-neuron 0.4.5, `utils/cache_utils.py`.
    """
    custom = environ.get("CUSTOM_CACHE_REPO", "").strip()
    if custom:
        return custom, "CUSTOM_CACHE_REPO"
    file = _hf_home(environ) / CUSTOM_REPOSITORY_FILE
    with contextlib.suppress(OSError, UnicodeDecodeError):
        saved = file.read_text(encoding="utf-8").strip()
        if saved:
            return saved, str(file)
    return DEFAULT_REPOSITORY, "default"


def _hf_home(environ: Mapping[str, str]) -> Path:
    if environ.get("HF_HOME"):
        return Path(environ["HF_HOME"])
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "huggingface"
