"""The local store of artifacts that were exported on the fly.

<root>/artifacts/<name>-<digest>/      ready: complete or absent
<root>/artifacts/.building-*.ranvier/  somebody writes it; renamed when done, removed by the next export if left
<root>/lock                            held while exporting

Artifacts exported elsewhere are built in such a sibling too. Who builds holds a lock on the folder itself, by which the
next export beside it tells what a crash left from what is being written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ranvier.artifacts.manifest import Artifact, is_artifact, open_artifact
from ranvier.errors import ArtifactError

_BUILDING, _OURS = ".building-", ".ranvier"


def digest(fields: Mapping[str, str]) -> str:
    """16 hexadecimal digits that stand for the fields."""
    return hashlib.sha256(json.dumps(dict(sorted(fields.items()))).encode()).hexdigest()[:16]


@contextlib.contextmanager
def publish(directory: Path) -> Iterator[Path]:
    """Give a temporary sibling to build in; on success it becomes `directory` in one rename, else it is removed.

    Siblings that crashed exporters left are removed too. A link is followed. Raises `ArtifactError` when `directory`
    exists and is not empty, is a mount point, or cannot be written.
    """
    directory = Path(os.path.realpath(directory))
    _refuse_taken(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _sweep(directory.parent)
        building, lock = _begin(directory.parent)
    except OSError as error:
        raise ArtifactError(f"{directory}: cannot be written: {error.strerror}") from None
    try:
        yield building
        building.chmod(0o755)
        _flush(building)
        # Somebody else may have been faster.
        _refuse_taken(directory)
        # An empty directory may be replaced by a rename; nobody sees a half-written one.
        os.replace(building, directory)
    except OSError as error:
        file = f" ({error.filename})" if error.filename else ""
        raise ArtifactError(f"{directory}: cannot be written: {error.strerror}{file}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
        os.close(lock)


def _begin(parent: Path) -> tuple[Path, int]:
    """A new folder to build in, and the descriptor that holds its lock."""
    while True:
        building = Path(tempfile.mkdtemp(prefix=_BUILDING, suffix=_OURS, dir=parent))
        # Between the two calls somebody may sweep it.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(building, os.O_RDONLY)
            # Some network file systems lock no folders; there nobody sweeps either.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if building.exists():
                return building, lock
            os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove the folders in which nobody builds any more."""
    for leftover in parent.glob(f"{_BUILDING}*{_OURS}"):
        with contextlib.suppress(OSError):
            lock = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(lock)


def _refuse_taken(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ArtifactError(f"{directory}: exists and is not empty; choose another directory or remove it")
    # A rename cannot replace it, and that would only be known once everything is made.
    if directory.is_mount():
        raise ArtifactError(
            f"{directory}: is a mount point; choose a new directory in it, such as {directory / 'model'}"
        )


def _flush(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Store:
    """Artifacts under `root`, found by their key."""

    def __init__(self, root: Path) -> None:
        self._artifacts = root / "artifacts"
        self._lock = root / "lock"

    def directory(self, name: str, key: Mapping[str, str]) -> Path:
        """Where the artifact with this key is, or will be."""
        plain = "".join(character if character.isalnum() or character in "-_." else "-" for character in name)
        # 48 characters are at most 192 bytes: with the digest they stay below the 255 of a file name.
        return self._artifacts / f"{plain[-48:].strip('-.') or 'model'}-{digest(key)}"

    def find(self, name: str, key: Mapping[str, str]) -> Artifact | None:
        """The artifact with this key, if it is there and complete; a damaged one counts as absent."""
        directory = self.directory(name, key)
        if not is_artifact(directory):
            return None
        try:
            return open_artifact(directory)
        except ArtifactError:
            return None

    def with_weights(self, weights_key: str) -> Artifact | None:
        """Any complete artifact whose weights file can be linked."""
        for directory in sorted(self._artifacts.glob("*")) if self._artifacts.is_dir() else []:
            with contextlib.suppress(ArtifactError):
                if is_artifact(directory) and open_artifact(directory).manifest.weights_key == weights_key:
                    return open_artifact(directory)
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's lock, waiting for other exporters; sweep what crashed ones left behind."""
        try:
            self._artifacts.mkdir(parents=True, exist_ok=True)
            file = self._lock.open("w")
        except OSError as error:
            raise ArtifactError(
                f"{self._artifacts}: cannot be written: {error.strerror}; set `--artifact-cache`"
            ) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for leftover in self._artifacts.glob(_BUILDING + "*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield

    def discard(self, directory: Path) -> None:
        """Remove a damaged artifact. Needs the lock."""
        shutil.rmtree(directory, ignore_errors=True)
