"""The process that lowers or compiles programs: an order through standard input, events as lines of JSON.

A process of its own, because compiling takes the devices until its process ends, and because a compiler that is killed
for its memory may take this process along, but not the export.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from ranvier.export.orders import ProgramEvent, ProgramOrder
from ranvier.models import read_json, spec_of
from ranvier.neuron_host import drop_damaged

_REASON_PART = 300


def main() -> None:
    """Carry the order out. What libraries print goes to standard error."""
    events = os.dup(1)
    os.dup2(2, 1)
    end_with_reader(events)
    order = ProgramOrder.from_json(sys.stdin.buffer.read())
    # One write for a line: threads tell at the same time.
    carry_out(_work(order), order, lambda event: _write(events, event))


def end_with_reader(events: int) -> None:
    """Kill this process once nobody reads the events: a killed export leaves none behind, nor compilers.

    They are in the process group that the export began with this process.
    """

    def watch() -> None:
        poll = select.poll()
        # Nothing is asked for: that the last reader of a pipe is gone is told all the same.
        poll.register(events, 0)
        poll.poll()
        is_leader = os.getpgrp() == os.getpid()
        os.kill(0 if is_leader else os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="reader", daemon=True).start()


def _work(order: ProgramOrder) -> Callable[[str], None]:
    from ranvier.targets.neuron import orders
    from ranvier.targets.neuron.artifact import options_of

    directory = Path(order.directory)
    spec, options = spec_of(read_json(directory / "config.json")), options_of(order.neuron)
    if order.job == "lower":
        return orders.lowering(spec, order.limits, options, directory)
    # A process that was killed, this order's first or an export's, may have left half an entry.
    drop_damaged(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).parent)
    return orders.compiling(spec, order.limits, options, directory)


def _write(descriptor: int, event: ProgramEvent) -> None:
    os.write(descriptor, msgspec.json.encode(event) + b"\n")


def carry_out(work: Callable[[str], None], order: ProgramOrder, tell: Callable[[ProgramEvent], None]) -> None:
    """Do the work for every name, `order.jobs` at a time; a failure is told and stops no other."""

    def one(name: str) -> None:
        began = time.monotonic()
        tell(ProgramEvent(state="started", name=name))
        try:
            work(name)
        except Exception as error:
            tell(ProgramEvent(state="failed", name=name, reason=f"{type(error).__name__}: {_in_one_line(str(error))}"))
            return
        tell(ProgramEvent(state="finished", name=name, seconds=time.monotonic() - began))

    with ThreadPoolExecutor(order.jobs) as pool:
        list(pool.map(one, order.names))


def _in_one_line(text: str) -> str:
    """Its beginning and its end where it is long: compilers that run others tell at the end what became of those."""
    line = " ".join(text.split())
    return line if len(line) <= 2 * _REASON_PART else f"{line[:_REASON_PART]} … {line[-_REASON_PART:]}"


if __name__ == "__main__":
    main()
