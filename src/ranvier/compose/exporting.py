"""Progress of an export: a live display for people on a terminal, one record after the other elsewhere."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from ranvier.export.program_runs import ProgramProgress

if TYPE_CHECKING:
    from ranvier.compose.program_display import ProgramDisplay

_log = logging.getLogger(__name__)

_LOG_EVERY_S = 5.0
_DOING = {"lower": "lowering programs", "compile": "compiling programs"}


class Reporter:
    """Called with (tensors done, tensors in all); `program` is called with what becomes of programs.

    On a terminal it writes there. Elsewhere each step is a line of JSON on standard error where `as_lines`, else a log
    record.
    """

    def __init__(self, *, as_json: bool, as_lines: bool = False) -> None:
        self._is_terminal = sys.stderr.isatty() and not as_json
        self._as_lines = as_lines
        self._began_s = time.monotonic()
        self._last_s = 0.0
        self._display: ProgramDisplay | None = None

    def __enter__(self) -> Reporter:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """End the display, whatever became of the export."""
        if self._display is not None:
            self._display.stop()

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
            self._record("packing weights", {"done": done, "total": total, "elapsed_s": round(elapsed_s, 1)})

    def program(self, progress: ProgramProgress) -> None:
        """Show what became of a program."""
        if self._is_terminal and importlib.util.find_spec("rich") is not None:
            self._display = self._display or _display()
            self._display.show(progress)
            return
        values: dict[str, object] = {"program": progress.name, "state": progress.state}
        values |= {"done": progress.done, "total": progress.total, "elapsed_s": round(progress.elapsed_s, 1)}
        if progress.state == "finished":
            values["seconds"] = round(progress.seconds, 2)
        if progress.expected_s is not None:
            values["expected_s"] = round(progress.expected_s, 1)
        if progress.reason:
            values["reason"] = progress.reason
        self._record(_DOING[progress.job], values)

    def _record(self, message: str, values: dict[str, object]) -> None:
        if self._as_lines:
            sys.stderr.write(json.dumps({"message": message, **values}) + "\n")
            sys.stderr.flush()
        else:
            _log.info(message, extra=values)


def _display() -> ProgramDisplay:
    # Imported here: only a terminal needs it.
    from ranvier.compose.program_display import ProgramDisplay

    return ProgramDisplay()
