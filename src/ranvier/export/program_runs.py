"""Having programs lowered or compiled by processes of their own, with progress and a second try for what failed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, TypeAlias

import msgspec

from ranvier.errors import CompileError
from ranvier.export.orders import ProgramEvent, ProgramOrder
from ranvier.export.process_memory import PeakMemory, host_bytes

MAX_ATTEMPTS = 2
_GIB = 2**30
_KILLED = re.compile(
    r"\bkilled\b|signal 9|SIGKILL|out of memory|(code|status|returned)[:=]? ?-?(9|137)\b|bad_alloc|^MemoryError",
    re.IGNORECASE,
)
"""How compilers and their wrappers say that the kernel ended them; there is no other sign."""

CHILD: tuple[str, ...] = (sys.executable, "-m", "ranvier.export.program_child")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramProgress:
    """How far one program is, and how many of `total` are finished.

    `job`: `lower` or `compile`. `seconds`: what it took, once finished. `expected_s`: for one that starts, from the
    time of others that are finished; None before there are any. `reason`: of a failure.
    """

    job: str
    state: str
    name: str
    done: int
    total: int
    elapsed_s: float
    seconds: float = 0.0
    expected_s: float | None = None
    reason: str = ""


Report: TypeAlias = Callable[[ProgramProgress], None]


@dataclass(slots=True)
class _Tally:
    """What is finished, with its seconds, what is at work, how often each failed, and the last reason."""

    seconds: dict[str, float] = field(default_factory=dict)
    at_work: list[str] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)

    def note(self, event: ProgramEvent) -> None:
        """Take one event in."""
        if event.state == "started":
            self.at_work.append(event.name)
            return
        self.at_work.remove(event.name)
        if event.state == "finished":
            self.seconds[event.name] = event.seconds
        else:
            self.fail(event.name, event.reason)

    def fail(self, name: str, reason: str) -> None:
        """Count a failure."""
        self.failures[name] += 1
        self.reasons[name] = reason


class ProgramRuns:
    """Has the programs of one order done by processes that `command` starts."""

    def __init__(
        self, order: ProgramOrder, environ: Mapping[str, str], report: Report, command: Sequence[str] = CHILD
    ) -> None:
        self._order, self._environ, self._report, self._command = order, environ, report, command
        self._tally = _Tally()
        self._began_s = time.monotonic()
        self._peak_bytes = 0

    def run(self) -> dict[str, float]:
        """Seconds by name, once all are done.

        What failed is tried once more, in a new process and after everything else; after a process that was killed one
        program at a time. Raises `CompileError` when that fails too.
        """
        jobs, tally = self._order.jobs, self._tally
        while left := [name for name in self._order.names if self._may_try(name)]:
            # Never tried before those that failed: nothing that would work waits for what may not.
            fresh = tuple(name for name in left if not tally.failures[name])
            was_killed = self._run_child(replace(self._order, names=fresh or tuple(left), jobs=jobs))
            jobs = 1 if was_killed else jobs
        failed = [name for name in self._order.names if name not in tally.seconds]
        if failed:
            raise CompileError(self._refusal(failed))
        return tally.seconds

    def _may_try(self, name: str) -> bool:
        return name not in self._tally.seconds and self._tally.failures[name] < MAX_ATTEMPTS

    def _run_child(self, order: ProgramOrder) -> bool:
        """One process from start to end; whether the kernel seems to have killed it or a compiler under it."""
        # A group of its own, so that the compilers under it can be ended with it.
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(self._environ),
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        before = self._tally.failures.copy()
        try:
            with PeakMemory(process.pid) as memory:
                # One that dies at once may not have read its order; how it ended is told below.
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(order.to_json())
                for event in _events(process.stdout):
                    self._take(event)
                code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        self._peak_bytes = max(self._peak_bytes, memory.peak)
        self._lose(order, before, code)
        new = self._tally.failures - before
        return any(_KILLED.search(self._tally.reasons[name]) for name in new)

    def _lose(self, order: ProgramOrder, before: Counter[str], code: int) -> None:
        """Count as failed what the process was at when it ended, or all that it left where it was at nothing."""
        lost, self._tally.at_work = self._tally.at_work, []
        if not lost:
            left = (name for name in order.names if name not in self._tally.seconds)
            lost = [name for name in left if self._tally.failures[name] == before[name]]
        for name in lost:
            self._tally.at_work.append(name)
            reason = "killed by signal 9" if code == -9 else f"its process ended with code {code}"
            self._take(ProgramEvent(state="failed", name=name, reason=reason))

    def _take(self, event: ProgramEvent) -> None:
        self._tally.note(event)
        self._report(
            ProgramProgress(
                job=self._order.job,
                state=event.state,
                name=event.name,
                done=len(self._tally.seconds),
                total=len(self._order.names),
                elapsed_s=time.monotonic() - self._began_s,
                seconds=event.seconds,
                expected_s=self._expected_s(event.name) if event.state == "started" else None,
                reason=event.reason,
            )
        )

    def _expected_s(self, name: str) -> float | None:
        """What programs of its kind took, else what any took."""
        kind = name.partition("_")[0]
        alike = [seconds for other, seconds in self._tally.seconds.items() if other.partition("_")[0] == kind]
        known = alike or list(self._tally.seconds.values())
        return statistics.median(known) if known else None

    def _refusal(self, failed: list[str]) -> str:
        reasons = self._tally.reasons
        num_done, total = len(self._tally.seconds), len(self._order.names)
        doing = "compiling" if self._order.job == "compile" else "lowering"
        what = "; ".join(f"`{name}`: {reasons[name]}" for name in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        killed = any(_KILLED.search(reasons[name]) for name in failed)
        return (
            f"{doing} failed {MAX_ATTEMPTS} times: {what}{more}; {num_done} of {total} are done{self._memory(killed)}"
        )

    def _memory(self, was_killed: bool) -> str:
        if not was_killed:
            return ""
        host = host_bytes()
        have = f", of the {host / _GIB:.1f} GiB that this host has" if host else ""
        return (
            f". It was killed, as the kernel does when memory runs out: the compiler had taken "
            f"{self._peak_bytes / _GIB:.1f} GiB{have}. Export on a host with more memory, with fewer or smaller "
            "buckets, or for more cores, and copy the artifact"
        )


def _events(stream: IO[bytes]) -> Iterator[ProgramEvent]:
    for line in stream:
        # The last line of a process that was killed may lack its end.
        if line.endswith(b"\n"):
            yield msgspec.json.decode(line, type=ProgramEvent)
