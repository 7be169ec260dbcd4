"""Steps in a process of their own: one that dies is its step's failure, and the rest goes on in the next."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO, TypeAlias

import msgspec

from ranvier.selfcheck.orders import CheckEvent, CheckOrder
from ranvier.selfcheck.outcome import Outcome, skipped

CHILD: tuple[str, ...] = (sys.executable, "-m", "ranvier.selfcheck.child")
LOAD = "load"
"""The step that comes before those of an order: without it none can be done."""

_LAST_BYTES = 4000
SILENCE_S = 3600.0
"""A process that tells nothing for so long hangs: no step of a tiny model takes that much."""
_LAST_LINES = 6

Tell: TypeAlias = Callable[[Outcome], None]


def carry_out(order: CheckOrder, environ: Mapping[str, str], tell: Tell, command: Sequence[str] = CHILD) -> None:
    """Have the steps of an order done, one process after the other as long as one dies; tell each outcome once."""
    left = order.steps
    is_loaded = False
    while left:
        done = _Done(is_loaded, tell)
        reason = _run(replace(order, steps=left), environ, command, done)
        left = tuple(name for name in left if name not in done.names)
        if reason is not None and not left:
            tell(Outcome(name="exit", status="failed", lines=reason))
        if not left or reason is None:
            break
        if done.at_work in ("", LOAD):
            done.take(CheckEvent(outcome=Outcome(name=LOAD, status="failed", lines=reason)), is_told=False)
            break
        tell(Outcome(name=done.at_work, status="failed", lines=reason, seconds=time.monotonic() - done.began_s))
        is_loaded, left = True, tuple(name for name in left if name != done.at_work)
    for name in left:
        tell(skipped(name, "not begun: what it works on could not be loaded"))


class _Done:
    """What one process has told. A load that went well is told once, however many processes load again."""

    def __init__(self, is_loaded: bool, tell: Tell) -> None:
        self.names: set[str] = set()
        self.at_work, self.began_s = "", 0.0
        self._is_loaded, self._tell = is_loaded, tell

    def take(self, event: CheckEvent, *, is_told: bool = True) -> None:
        """Take an event in."""
        if event.outcome is None:
            self.at_work, self.began_s = event.started, time.monotonic()
            return
        outcome = event.outcome
        self.names.add(outcome.name)
        if outcome.name != LOAD or outcome.status != "passed" or not self._is_loaded:
            self._tell(outcome)


def _run(order: CheckOrder, environ: Mapping[str, str], command: Sequence[str], done: _Done) -> tuple[str, ...] | None:
    """One process from start to end: None where it ended well, else lines that say how it died."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(environ)
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(order.to_json())
            for line in _lines(process):
                done.take(msgspec.json.decode(line, type=CheckEvent))
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        return None if code == 0 else (f"the process {_ending(code)}; the end of what it wrote:", *_last_lines(errors))


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What it tells; it is ended when it tells nothing for too long."""
    assert process.stdout is not None
    while True:
        watch = threading.Timer(SILENCE_S, process.kill)
        watch.start()
        try:
            line = process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            return
        yield line


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _last_lines(stream: IO[bytes]) -> list[str]:
    size = stream.seek(0, 2)
    stream.seek(max(0, size - _LAST_BYTES))
    lines = stream.read().decode("utf-8", "replace").splitlines()
    return [f"  {line}" for line in lines if line.strip()][-_LAST_LINES:] or ["  (nothing)"]
