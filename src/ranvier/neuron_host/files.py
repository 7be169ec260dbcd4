"""Reading folders and small files that may be missing, unreadable or about to vanish."""

from __future__ import annotations

import os
from pathlib import Path


def names_in(directory: Path) -> list[str]:
    """Names in a directory; empty where it cannot be read."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def first_line(path: Path) -> str | None:
    """The first line of a file, stripped, at most 256 characters; None where it is unreadable or empty."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(256).strip() or None
    except OSError:
        return None


def link_target(path: Path) -> str:
    """Where a symbolic link points; empty where it cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""
