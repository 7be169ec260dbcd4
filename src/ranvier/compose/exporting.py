"""Progress of an export, for people on a terminal and for logs."""

from __future__ import annotations

import logging
import sys
import time

_log = logging.getLogger(__name__)

_LOG_EVERY_S = 5.0


class Reporter:
    """Called with (tensors done, tensors in all). A line that is rewritten on a terminal, log records elsewhere."""

    def __init__(self, *, as_json: bool) -> None:
        self._is_terminal = sys.stderr.isatty() and not as_json
        self._began_s = time.monotonic()
        self._last_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Show it; the last call always does."""
        now = time.monotonic()
        elapsed_s = now - self._began_s
        if self._is_terminal:
            end = "\n" if done == total else ""
            sys.stderr.write(f"\rpacking weights {done}/{total}, {elapsed_s:.1f} s{end}")
            sys.stderr.flush()
        elif done == total or now - self._last_s > _LOG_EVERY_S:
            self._last_s = now
            _log.info("packing weights", extra={"done": done, "total": total, "elapsed_s": round(elapsed_s, 1)})
