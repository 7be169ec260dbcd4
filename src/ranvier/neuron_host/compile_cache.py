"""JAX's persistent compile cache on disk: entries that were cut short are removed, so that they are compiled again.

An entry is one compressed file, `<key>-cache`, that JAX writes in place: a process that is killed, or a full disk,
leaves a part of it. JAX passes over such an entry with a warning, compiles, and keeps the damaged file: no later start
would find it either. (`jax/_src/lru_cache.py` and `compilation_cache.py` of JAX 0.10.)
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from pathlib import Path

_ENTRIES = "jax/*-cache"
_ZSTD = bytes.fromhex("28b52ffd")


def drop_damaged(cache: Path) -> tuple[str, ...]:
    """Remove the entries that end before their data do, and give their names. Needs to be the cache's only writer.

    `cache`: as `jax_environment` takes it; it may be missing. What the Neuron compiler keeps there is left alone: it
    marks what is whole by itself.
    """
    damaged = [path for path in sorted(cache.glob(_ENTRIES)) if not _is_whole(path.read_bytes())]
    for path in damaged:
        path.unlink()
    return tuple(path.name for path in damaged)


def _is_whole(entry: bytes) -> bool:
    try:
        _decompress(entry)(entry)
    except ImportError:
        # Made where that package is; JAX neither reads nor writes such entries here.
        return True
    # The classes of the two libraries have no base in common.
    except Exception:
        return False
    return True


def _decompress(entry: bytes) -> Callable[[bytes], bytes]:
    """JAX takes zlib, or Zstandard where that package is installed."""
    if not entry.startswith(_ZSTD):
        return zlib.decompress
    decompress: Callable[[bytes], bytes] = importlib.import_module("zstandard").ZstdDecompressor().decompress
    return decompress
