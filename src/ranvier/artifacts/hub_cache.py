"""A repository on the hub that holds a cache of compiled programs, such as the Neuron Model Cache.

Such a repository has thousands of folders: only those asked for are ever listed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ranvier.artifacts import hub
from ranvier.errors import ModelError

_OPTION = "CUSTOM_CACHE_REPO"
"""Where the repository's id comes from, for messages."""
_STAGING = ".hub-download"
_DONE = ".done"
_PASSING = (".lock", ".incomplete")
_MESSAGE = "Add compiled programs"


class HubCacheRepository:
    """A cache repository on the hub, as the commit that its revision named when it was first used.

    All methods raise `ModelError`: when offline, out of reach, gated, or with a token that may not do this.
    """

    def __init__(self, repo_id: str, revision: str | None = None) -> None:
        self._repo_id = repo_id
        self._revision = revision
        self._commit: str | None = None

    @property
    def name(self) -> str:
        """The repository's id, with its revision where one was given."""
        return self._repo_id + (f"@{self._revision}" if self._revision else "")

    def list_folders(self, folder: str) -> tuple[str, ...]:
        """Names of the folders directly below `folder`; () where it is absent."""
        tree = hub.repository_tree(self._repo_id, self._at(), folder, is_recursive=False, option=_OPTION)
        return tuple(entry.path.rpartition("/")[2] for entry in tree if entry.is_folder)

    def list_files(self, folder: str) -> tuple[str, ...]:
        """All files below `folder`, as paths from the repository's root; () where it is absent."""
        return hub.repository_files(self._repo_id, self._at(), folder, option=_OPTION)

    def read(self, path: str) -> bytes:
        """One file's content; kept in the hub's local cache."""
        file = hub.read_file(self._repo_id, self._at(), path, None, option=_OPTION)
        try:
            return file.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read {file}: {error.strerror}") from None

    def download(self, folders: Sequence[str], target: Path) -> int:
        """Bring everything below the folders to `target/<same path>`; the number of files, those there already too.

        Files appear complete or not at all, and the marks of finished programs (`model.done`) after everything else.
        What a killed download had complete is not fetched again.
        """
        entries = self._files(folders)
        try:
            with _locked(target):
                self._bring([entry for entry in entries if not _is_same(target / entry.path, entry)], target)
        except OSError as error:
            raise ModelError(f"{target}: cannot be written: {error.strerror}") from None
        return len(entries)

    def upload(self, source: Path, folders: Sequence[str]) -> int:
        """Push everything below `source/<folder>` in one commit; the number of files, those there already too."""
        files = {path.relative_to(source).as_posix(): path for path in _below(source, folders)}
        if files:
            hub.push(self._repo_id, self._revision, files, _MESSAGE, option=_OPTION)
            self._commit = None
        return len(files)

    def _bring(self, entries: Sequence[hub.HubEntry], target: Path) -> None:
        staging = target / _STAGING
        for entry in entries:
            hub.fetch(self._repo_id, self._at(), entry.path, staging, option=_OPTION)
        for entry in sorted(entries, key=lambda entry: entry.path.endswith(_DONE)):
            _move(staging / entry.path, target / entry.path)
        shutil.rmtree(staging, ignore_errors=True)

    def _at(self) -> str:
        if self._commit is None:
            self._commit = hub.commit_of(self._repo_id, self._revision, option=_OPTION)
        return self._commit

    def _files(self, folders: Sequence[str]) -> tuple[hub.HubEntry, ...]:
        trees = [
            hub.repository_tree(self._repo_id, self._at(), folder, is_recursive=True, option=_OPTION)
            for folder in folders
        ]
        found = {entry.path: entry for tree in trees for entry in tree if not entry.is_folder}
        return tuple(found[path] for path in sorted(found))


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Replicas that start together share the folder: one downloads, the others wait and find everything there."""
    target.mkdir(parents=True, exist_ok=True)
    with (target / f"{_STAGING}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _below(source: Path, folders: Sequence[str]) -> Iterator[Path]:
    """Files below the folders, each once, without those that are being written."""
    found = {path for folder in folders for path in (source / folder).rglob("*") if path.is_file()}
    yield from sorted(path for path in found if path.suffix not in _PASSING and _STAGING not in path.parts)


def _is_same(path: Path, entry: hub.HubEntry) -> bool:
    """Whether the file is there with the content that the repository has."""
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    # 40 hexadecimal digits are Git's object id, 64 the SHA-256 of a large file.
    found = hashlib.sha1(b"blob %d\0" % entry.size) if len(entry.digest) == 40 else hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest() == entry.digest


def _move(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(source, path)
