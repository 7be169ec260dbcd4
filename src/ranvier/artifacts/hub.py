"""Downloading checkpoints. The only door to `huggingface_hub`.

The library reads `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` itself.
"""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import errors, snapshot_download

from ranvier.errors import ModelError

_PATTERNS = ["*.json", "*.safetensors", "*.jinja"]


def download(model_id: str, revision: str | None, cache_dir: str | None, option: str = "model_id") -> Path:
    """The local snapshot of a repository, downloaded where needed; an interrupted download is resumed.

    `option` is where the id comes from. Raises `ModelError` when it does not exist, is closed to this token, or cannot
    be reached, and for a revision that cannot be one: the library makes a path of it.
    """
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    name = f"`{option}` {model_id}" + (f" at revision {revision}" if revision else "")
    if revision is not None and not _is_revision(revision):
        raise ModelError(f"{name}: no branch, tag or commit can have this name; check `revision`")
    try:
        path = snapshot_download(
            model_id, revision=revision, cache_dir=cache_dir, token=token, allow_patterns=_PATTERNS
        )
    except errors.GatedRepoError:
        raise ModelError(f"{name}: the repository is gated; accept its terms on the hub and set `HF_TOKEN`") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{name}: the repository has no such revision") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{name}: no such local path, and no such repository on the hub (a private one needs `HF_TOKEN`)"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name}: no such local path, not complete in the hub cache, and {_why_not_online(error)}"
        ) from None
    except Exception as error:
        # Errors of its HTTP library (another one in each major release) and of its Rust part share no other root.
        lines = str(error).splitlines() or ["no reason given"]
        raise ModelError(f"{name}: the download failed: {type(error).__name__}: {lines[0]}") from None
    return Path(path)


def _is_revision(revision: str) -> bool:
    """Whether it may name something in Git, and a file below `refs/` in the cache at the same time."""
    parts = revision.split("/")
    is_path = all(part not in ("", ".", "..") and len(part.encode(errors="replace")) <= 200 for part in parts)
    return is_path and revision.isprintable() and "\\" not in revision and len(parts) <= 20


def _why_not_online(error: errors.LocalEntryNotFoundError) -> str:
    """The client falls back to its cache whether the hub was out of reach or answered with an error."""
    answer = error.__cause__
    if isinstance(answer, errors.HfHubHTTPError):
        return f"the hub answered {answer.response.status_code} {answer.response.reason_phrase}"
    return "the hub cannot be reached (check `HF_ENDPOINT` and `HF_HUB_OFFLINE`)"
