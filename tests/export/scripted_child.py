"""Stands for the process that lowers or compiles programs: `python -S scripted_child.py FOLDER`.

`FOLDER/script.json` has a list of acts for each process, in the order in which they are started; each keeps the order
it was given in `FOLDER/orders.jsonl`. Acts:

    ["started", NAME]   ["finished", NAME, SECONDS]   ["failed", NAME, REASON]   ["write", TEXT]
    ["signal", NUMBER]   ["exit", CODE]   ["deaf"]: it ends without reading its order
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def tell(**event: Any) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


def act(kind: str, *rest: Any) -> None:
    """Carry one out."""
    if kind == "started":
        tell(state=kind, name=rest[0])
    elif kind == "finished":
        tell(state=kind, name=rest[0], seconds=rest[1])
    elif kind == "failed":
        tell(state=kind, name=rest[0], reason=rest[1])
    elif kind == "write":
        os.write(1, rest[0].encode())
    elif kind == "signal":
        os.kill(os.getpid(), rest[0])
    else:
        os._exit(rest[0])


def main(folder: Path) -> None:
    started = folder / "orders.jsonl"
    number = len(started.read_text().splitlines()) if started.exists() else 0
    acts = json.loads((folder / "script.json").read_text())[number]
    is_deaf = acts[:1] == [["deaf"]]
    if is_deaf:
        os.close(0)
    with started.open("a") as orders:
        orders.write(("{}" if is_deaf else sys.stdin.read()) + "\n")
    for kind, *rest in acts[is_deaf:]:
        act(kind, *rest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
