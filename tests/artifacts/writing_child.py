"""Stands for the process that lowers or compiles: `python -S writing_child.py NOTES FOLDER KIND JOB AT TIMES`.

It writes what that process writes, the way JAX does: files in place, a compiled program only where there is none of
its name. The first `TIMES` processes of that job meet a fault at the write number `AT` below `FOLDER`; 0 is no fault.
`NOTES` has a file for each process that was to meet one, with the operation that did.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Callable
from typing import Any

NUM_FILES = 2
"""Programs that are written; of the others it is only told that they are done."""


def tell(state: str, name: str, **more: Any) -> None:
    os.write(1, json.dumps({"state": state, "name": name, **more}).encode() + b"\n")


def write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def carry_out(job: str, name: str, directory: str) -> None:
    """Write what stands for a program."""
    content = name.encode() * 1000
    if job == "lower":
        write(f"{directory}/programs/{name}.stablehlo", content)
        return
    entry = f"{os.environ['JAX_COMPILATION_CACHE_DIR']}/{name}-cache"
    # JAX only warns of what it cannot write.
    with contextlib.suppress(OSError):
        if not os.path.exists(entry):
            write(entry, zlib.compress(content))


def set_fault(notes: str, folder: str, kind: Any, at: int) -> Callable[[], object]:
    """What to call at the end: it notes whether there was a fault."""
    # Imported here: what it imports takes longer than all else.
    from pathlib import Path

    from fault_injection import inject

    note, write_note = os.open(f"{notes}/{os.getpid()}", os.O_WRONLY | os.O_CREAT), os.write
    injector = inject(kind, at, Path(folder), lambda operation: write_note(note, operation.encode()))
    return lambda: write_note(note, injector.hit.encode())


def main(notes: str, folder: str, kind: str, job: str, *numbers: str) -> None:
    at, times = map(int, numbers)
    order = json.loads(sys.stdin.read())
    is_faulty = at > 0 and order["job"] == job and len(os.listdir(notes)) < times
    end = set_fault(notes, folder, kind, at) if is_faulty else lambda: None
    written = order["neuron"]["programs"][:NUM_FILES]
    for name in order["names"]:
        tell("started", name)
        try:
            if name in written:
                carry_out(order["job"], name, order["directory"])
        except OSError as error:
            tell("failed", name, reason=str(error))
        else:
            tell("finished", name)
    end()


if __name__ == "__main__":
    main(*sys.argv[1:])
