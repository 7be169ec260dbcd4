"""What became of a step, and how a step tells it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["passed", "failed", "skipped"]

_MOST_ERROR_LINES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One step of the report. `lines` are as the step told them: they may hold paths, see `privacy`."""

    name: str
    status: Status
    lines: tuple[str, ...]
    seconds: float = 0.0


class SkippedStep(Exception):
    """The step has nothing to check here; the text says why."""


class Notes:
    """What a step has to say, line by line. One complaint makes it fail; it goes on."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.has_failed = False

    def say(self, line: str) -> None:
        """A line of the report."""
        self.lines.append(line)

    def expect(self, is_right: bool, complaint: str) -> None:
        """Fail with the complaint unless it is right."""
        if not is_right:
            self.has_failed = True
            self.lines.append(f"WRONG: {complaint}")


def run_step(name: str, work: Callable[[Notes], None]) -> Outcome:
    """Do the work. Every error of it is the step's failure: none stops the others."""
    notes, began_s = Notes(), time.monotonic()
    status: Status = "passed"
    try:
        work(notes)
        status = "failed" if notes.has_failed else "passed"
    except SkippedStep as reason:
        status = "failed" if notes.has_failed else "skipped"
        notes.say(str(reason))
    except Exception as error:
        status = "failed"
        notes.lines += error_lines(error)
    return Outcome(name=name, status=status, lines=tuple(notes.lines), seconds=time.monotonic() - began_s)


def error_lines(error: BaseException) -> list[str]:
    """The error's class and the first lines of its text."""
    text = [line for line in str(error).splitlines() if line.strip()][:_MOST_ERROR_LINES] or ["(no text)"]
    return [f"{type(error).__name__}: {text[0]}", *text[1:]]


def skipped(name: str, reason: str) -> Outcome:
    """A step that was not begun."""
    return Outcome(name=name, status="skipped", lines=(reason,))
