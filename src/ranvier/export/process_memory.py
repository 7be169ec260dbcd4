"""How much memory a process and its descendants hold, as Linux tells it in `/proc`."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from types import TracebackType

_RESIDENT = re.compile(r"^VmRSS:\s*(\d+) kB", re.MULTILINE)
_TOTAL = re.compile(r"^MemTotal:\s*(\d+) kB", re.MULTILINE)
_INTERVAL_S = 0.25


def host_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this host or container has; None where it cannot be read."""
    found = _TOTAL.search(_text(root / "proc/meminfo"))
    limit = _text(root / "sys/fs/cgroup/memory.max").strip()
    sizes = [int(found[1]) * 1024] if found else []
    sizes += [int(limit)] if limit.isdecimal() else []
    return min(sizes, default=None)


def tree_bytes(pid: int, root: Path = Path("/proc")) -> int:
    """Resident bytes of a process and its descendants; pages that they share count for each. 0 once it has ended."""
    total, left = 0, [pid]
    while left:
        one = left.pop()
        found = _RESIDENT.search(_text(root / str(one) / "status"))
        total += int(found[1]) * 1024 if found else 0
        left += [int(child) for child in _children(root / str(one) / "task")]
    return total


def _children(tasks: Path) -> list[str]:
    """Ids of the processes that any thread has started."""
    try:
        threads = os.listdir(tasks)
    except OSError:
        return []
    return [child for thread in threads for child in _text(tasks / thread / "children").split()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


class PeakMemory:
    """Watches a process from a thread, a few times a second; `peak` is the most that was seen, in bytes."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """End."""
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        is_over = False
        while not is_over:
            self.peak = max(self.peak, tree_bytes(self._pid))
            is_over = self._is_over.wait(_INTERVAL_S)
