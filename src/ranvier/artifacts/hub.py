"""Repositories on the hub: download, list, push. The only door to `huggingface_hub`.

The library reads `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, errors, get_token, hf_hub_download, snapshot_download
from huggingface_hub.hf_api import RepoFile, RepoFolder

from ranvier.errors import ModelError

_CHECKPOINT = ("*.json", "*.safetensors", "*.jinja")
_NEURON_CONFIG = "neuron_config.json"
_NEURON = (*_CHECKPOINT, "*.pt", "checkpoint/**")
"""A Neuron model's programs are TorchScript files; in other repositories `.pt` files are pickled weights."""

_STALE_SECONDS = 3600
_CONFLICTS = (409, 412)
_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before a push is tried again after somebody else's."""

_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_UNREACHABLE = "the hub cannot be reached (check `HF_ENDPOINT` and `HF_HUB_OFFLINE`)"
# Named, not imported: the client's HTTP library is another one in each major release.
_CONNECTION_ERRORS = ("ConnectError", "ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubEntry:
    """A file or folder in a repository. `digest` is the SHA-256 of a large file, Git's object id of a small one."""

    path: str
    is_folder: bool
    size: int
    digest: str


def download(model_id: str, revision: str | None, cache_dir: str | None, option: str = "model_id") -> Path:
    """The local snapshot of a repository, downloaded where needed: what serving reads, and never pickled weights.

    A connection that is cut is resumed; after a killed download the files that were complete are not fetched again.
    `option` is where the id comes from. Raises `ModelError` when it does not exist, is closed to this token, or cannot
    be reached, and for a revision that cannot be one: the library makes a path of it.
    """
    with _one_line(model_id, revision, option):
        path = _snapshot(model_id, revision, cache_dir, _CHECKPOINT)
        if (path / _NEURON_CONFIG).is_file():
            # The folder is called after the commit: both halves are of the same one.
            path = _snapshot(model_id, path.name, cache_dir, _NEURON)
    _sweep(path.parent.parent / "blobs")
    return path


def read_file(
    model_id: str, revision: str | None, filename: str, cache_dir: str | None, option: str = "model_id"
) -> Path:
    """One file of a repository, from the cache or downloaded. Raises as `download`, and where there is no such file."""
    with _one_line(model_id, revision, option):
        try:
            path = hf_hub_download(model_id, filename, revision=revision, cache_dir=cache_dir, token=_token())
        except errors.RemoteEntryNotFoundError:
            raise ModelError(
                f"{_called(model_id, revision, option)}: the repository has no file `{filename}`"
            ) from None
    return Path(path)


def fetch(repo_id: str, commit: str, filename: str, directory: Path, option: str = "model_id") -> Path:
    """One file into `directory/filename`, besides the cache; complete or absent. Raises as `download`."""
    with _one_line(repo_id, commit, option):
        return Path(hf_hub_download(repo_id, filename, revision=commit, local_dir=directory, token=_token()))


def commit_of(model_id: str, revision: str | None, option: str = "model_id") -> str:
    """The commit that a revision names now; asks the hub. Raises as `download`."""
    with _one_line(model_id, revision, option):
        info = HfApi(token=_token()).model_info(model_id, revision=revision)
        if info.sha is None:
            raise ModelError(f"{_called(model_id, revision, option)}: the hub names no commit")
        return info.sha


def repository_tree(
    model_id: str, revision: str | None, folder: str, *, is_recursive: bool, option: str = "model_id"
) -> tuple[HubEntry, ...]:
    """What is in a folder ("" is the root), sorted by path; () where it is absent.

    Asks the hub for this folder alone, in pages of 1,000 entries. Raises as `download`.
    """
    with _one_line(model_id, revision, option):
        try:
            found = HfApi(token=_token()).list_repo_tree(
                model_id, folder or None, recursive=is_recursive, revision=revision
            )
            return tuple(sorted((_entry(one) for one in found), key=lambda entry: entry.path))
        except errors.RemoteEntryNotFoundError:
            return ()


def repository_files(
    model_id: str, revision: str | None, folder: str = "", option: str = "model_id"
) -> tuple[str, ...]:
    """Paths of all files below a folder, from the repository's root. Raises as `download`."""
    tree = repository_tree(model_id, revision, folder, is_recursive=True, option=option)
    return tuple(entry.path for entry in tree if not entry.is_folder)


def push(repo_id: str, revision: str | None, files: Mapping[str, Path], message: str, option: str = "model_id") -> None:
    """Add files (by their path in the repository) in one commit, or none; what is there already is not sent again.

    A push that meets somebody else's is tried again. Raises `ModelError` where the token may not write.
    """
    name = _called(repo_id, revision, option)
    if not (_token() or get_token()):
        raise ModelError(f"{name}: to push, set `HF_TOKEN` to a token with write access to the repository")
    with _one_line(repo_id, revision, option):
        try:
            _push_again(repo_id, revision, files, message)
        except errors.HfHubHTTPError as error:
            if error.response.status_code in (401, 403):
                raise ModelError(
                    f"{name}: {_status(error)}: the token may not write here, or there is no such repository; "
                    "set `HF_TOKEN` to a token with write access to it"
                ) from None
            raise


def _push_again(repo_id: str, revision: str | None, files: Mapping[str, Path], message: str) -> None:
    api = HfApi(token=_token())
    for wait in (*_WAITS, None):
        # New each time: the library marks those of a commit that it has tried.
        operations = [CommitOperationAdd(path, file) for path, file in files.items()]
        try:
            api.create_commit(repo_id, operations, commit_message=message, revision=revision)
            return
        except errors.HfHubHTTPError as error:
            if wait is None or error.response.status_code not in _CONFLICTS:
                raise
            time.sleep(wait)


def _snapshot(model_id: str, revision: str | None, cache_dir: str | None, patterns: Sequence[str]) -> Path:
    return Path(
        snapshot_download(
            model_id, revision=revision, cache_dir=cache_dir, token=_token(), allow_patterns=list(patterns)
        )
    )


def _sweep(blobs: Path) -> None:
    """Remove what killed downloads left: the library gives each try a file of its own and never looks again."""
    with contextlib.suppress(OSError):
        for path in blobs.glob("*.incomplete"):
            # Nobody writes it any more.
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)


def _entry(found: RepoFile | RepoFolder) -> HubEntry:
    if isinstance(found, RepoFolder):
        return HubEntry(path=found.path, is_folder=True, size=0, digest=found.tree_id)
    digest = found.blob_id if found.lfs is None else found.lfs.sha256
    return HubEntry(path=found.path, is_folder=False, size=found.size, digest=digest)


def _token() -> str | None:
    return os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")


def _called(model_id: str, revision: str | None, option: str) -> str:
    return f"`{option}` {model_id}" + (f" at revision {revision}" if revision else "")


@contextlib.contextmanager
def _one_line(model_id: str, revision: str | None, option: str) -> Iterator[None]:
    """Refuse revisions that cannot be one, and turn whatever the library raises into a `ModelError` of one line."""
    name = _called(model_id, revision, option)
    if revision is not None and not _is_revision(revision):
        raise ModelError(f"{name}: no branch, tag or commit can have this name; check `revision`")
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        # Errors of its HTTP library and of its Rust part share no other root.
        raise ModelError(f"{name}: {_reason(error)}") from None


def _is_revision(revision: str) -> bool:
    """Whether it may name something in Git, and a file below `refs/` in the cache at the same time."""
    parts = revision.split("/")
    is_path = all(part not in ("", ".", "..") and len(part.encode(errors="replace")) <= 200 for part in parts)
    return is_path and revision.isprintable() and "\\" not in revision and len(parts) <= 20


def _reason(error: Exception) -> str:
    if isinstance(error, errors.GatedRepoError):
        return _gated()
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        unseen = "this `HF_TOKEN` may not see a private one" if _token() else "a private one needs `HF_TOKEN`"
        return f"no such local path, and no such repository on the hub ({unseen})"
    if isinstance(error, errors.LocalEntryNotFoundError):
        # The client looks into its cache whether the hub was out of reach or answered with an error.
        cause = error.__cause__
        why = _answer(cause) if isinstance(cause, errors.HfHubHTTPError) else None
        return f"no such local path, not complete in the hub cache, and {why or _UNREACHABLE}"
    if isinstance(error, errors.OfflineModeIsEnabled) or type(error).__name__ in _CONNECTION_ERRORS:
        return _UNREACHABLE
    if isinstance(error, OSError) and error.errno in _NOT_WRITTEN:
        place = f" ({error.filename})" if error.filename else ""
        return f"the download cannot be written: {error.strerror}{place}; make room, or set `HF_HOME` to another place"
    answer = _answer(error) if isinstance(error, errors.HfHubHTTPError) else None
    return answer or f"the download failed: {type(error).__name__}: {_first_line(error)}"


def _gated() -> str:
    if _token() or get_token():
        return (
            "the repository is gated and the token's account has no access; accept its terms on the hub with that "
            "account, or set another `HF_TOKEN`"
        )
    return "the repository is gated; accept its terms on the hub and set `HF_TOKEN`"


def _answer(error: errors.HfHubHTTPError) -> str | None:
    """What the hub answered and what to do about it; None where the library knows more than the status."""
    status = error.response.status_code
    if status == 401:
        return f"{_status(error)}: the token is wrong or expired; set `HF_TOKEN` to a valid one, or unset it"
    if status == 403 and not isinstance(error, errors.DisabledRepoError):
        return f"{_status(error)}: no access with this token, or without one; set `HF_TOKEN` to one that may read this"
    if status == 429:
        return f"{_status(error)}: wait some minutes, or set `HF_TOKEN`, with which more requests are allowed"
    return None if isinstance(error, errors.EntryNotFoundError) else _status(error)


def _status(error: errors.HfHubHTTPError) -> str:
    return f"the hub answered {error.response.status_code} {error.response.reason_phrase}"


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no reason given")
