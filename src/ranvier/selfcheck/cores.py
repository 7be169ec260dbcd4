"""Whether cores belong to one process at a time: what a second one is told, and that they are free at the end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ranvier.neuron_host import looks_busy
from ranvier.selfcheck.outcome import Notes, SkippedStep

RIVAL: tuple[str, ...] = (sys.executable, "-m", "ranvier.selfcheck.rival")
PAUSES_S = (2.0, 4.0, 8.0, 16.0)
"""Before each further try to take cores whose process has ended: their release is late at times."""
_TIMEOUT_S = 300.0
_MOST_LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What became of a process that asked for the cores: `is_taken`, and the last lines of what it wrote."""

    is_taken: bool
    text: tuple[str, ...]


def rival(command: Sequence[str] = RIVAL) -> Attempt:
    """Let a second process, with the same environment, ask for the cores."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Attempt(is_taken=False, text=(f"no answer in {_TIMEOUT_S:.0f} s",))
    lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
    return Attempt(is_taken=done.returncode == 0, text=tuple(lines[-_MOST_LINES:]))


def check_refusal(notes: Notes, *, emulate: bool, ask: Callable[[], Attempt] = rival) -> None:
    """While this process has the cores, another one must not get them, and has to be told so in words we know."""
    if emulate:
        raise SkippedStep("emulated cores belong to nobody")
    attempt = ask()
    notes.expect(not attempt.is_taken, "a second process took cores that this one has")
    notes.say("a second process asked for the same cores and was told:")
    notes.lines += [f"  {line}" for line in attempt.text]
    if not attempt.is_taken:
        is_known = looks_busy(RuntimeError("\n".join(attempt.text)))
        notes.expect(is_known, "we do not know this text: a server that starts too early would not wait; report it")


def check_release(
    notes: Notes,
    *,
    emulate: bool,
    ask: Callable[[], Attempt] = rival,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Once the process that had the cores has ended, another one has to get them."""
    if emulate:
        raise SkippedStep("emulated cores belong to nobody")
    for number, seconds in enumerate((*PAUSES_S, 0.0), 1):
        attempt = ask()
        if attempt.is_taken:
            notes.say(f"another process took the cores at its attempt {number}: {attempt.text[-1]}")
            return
        pause(seconds)
    notes.expect(False, f"no process could take the cores in {len(PAUSES_S) + 1} attempts after their owner's end:")
    notes.lines += [f"  {line}" for line in attempt.text]
