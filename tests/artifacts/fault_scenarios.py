"""What `test_fault_injection` runs in a fresh process: an action under each fault in turn, and what is there after it.

    python fault_scenarios.py SCENARIO KIND ROOT SOURCE  ->  one line of JSON per run

`SOURCE` is the checkpoint, or the repository on the hub. Each line has the outcome, what was found (`absent`,
`complete`, or what is wrong), how the next run without a fault ended, and the names that are left beside it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from fault_injection import Kind, each_fault, in_child

from ranvier.artifacts import Artifact, ExportRequest, Store, locate, open_artifact
from ranvier.errors import RanvierError
from ranvier.export.exporter import export, export_to_store

Found = dict[str, bytes]


def contents(folder: Path) -> Found:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def compared(found: Artifact | None, wanted: Found) -> str:
    if found is None:
        return "absent"
    return "complete" if contents(found.directory) == wanted else "another artifact"


def quiet(done: int, total: int) -> None:
    """No progress."""


def request_for(checkpoint: str) -> ExportRequest:
    return ExportRequest(
        source=locate(checkpoint),
        revision=None,
        target="cpu",
        batch_size=2,
        sequence_length=None,
        quantize="none",
        dtype="float32",
        kv_cache_dtype="auto",
    )


def directory(kind: Kind, root: Path, checkpoint: str) -> Iterator[dict[str, object]]:
    """An export into a directory."""
    request = request_for(checkpoint)
    wanted = contents(export(request, root / "wanted", quiet).directory)
    work, destination = root / "work", root / "work" / "new" / "artifact"

    def prepare() -> Callable[[], object]:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return lambda: export(request, destination, quiet).directory

    for outcome in each_fault(prepare, kind, work):
        is_there = destination.exists()
        found = compared(open_artifact(destination), wanted) if is_there else "absent"
        again = found if is_there else compared(export(request, destination, quiet), wanted)
        yield {"outcome": asdict(outcome), "found": found, "again": again, "left": names(destination.parent)}


def store(kind: Kind, root: Path, checkpoint: str, *, is_linked: bool = False) -> Iterator[dict[str, object]]:
    """An export into the store; where one with the same weights is there, they are linked."""
    request, other = request_for(checkpoint), replace(request_for(checkpoint), batch_size=5)
    wanted = contents(export_to_store(request, Store(root / "wanted"), quiet).directory)
    if is_linked:
        export_to_store(other, Store(root / "template"), quiet)
    work = root / "work"

    def prepare() -> Callable[[], object]:
        shutil.rmtree(work, ignore_errors=True)
        if is_linked:
            shutil.copytree(root / "template", work)
        return lambda: export_to_store(request, Store(work), quiet).directory

    for outcome in each_fault(prepare, kind, work):
        found = compared(Store(work).find(request.name, request.key()), wanted)
        again = compared(export_to_store(request, Store(work), quiet), wanted)
        intact = not is_linked or Store(work).find(other.name, other.key()) is not None
        left = names(work / "artifacts")
        yield {"outcome": asdict(outcome), "found": found, "again": again if intact else "damaged", "left": left}


def linked(kind: Kind, root: Path, checkpoint: str) -> Iterator[dict[str, object]]:
    """An export into a store that has the weights already."""
    return store(kind, root, checkpoint, is_linked=True)


def snapshot(kind: Kind, root: Path, model_id: str) -> Iterator[dict[str, object]]:
    """A download from the hub. What is found is what an offline start finds."""
    from huggingface_hub import constants

    from ranvier.artifacts.hub import download

    work = root / "work"

    def fetch(is_offline: bool = False) -> str:
        constants.HF_HUB_OFFLINE = is_offline
        return json.dumps(
            sorted((name, data.hex()) for name, data in contents(download(model_id, None, str(work))).items())
        )

    def prepare() -> Callable[[], object]:
        shutil.rmtree(work, ignore_errors=True)
        return fetch

    wanted = in_child(fetch, kind, 0, work).message
    for outcome in each_fault(prepare, kind, work):
        offline = in_child(lambda: fetch(is_offline=True), kind, 0, work)
        online = in_child(fetch, kind, 0, work)
        found = offline.end if offline.end != "passed" else "complete" if offline.message == wanted else "incomplete"
        again = "complete" if online.message == wanted else f"{online.end} {online.message}"
        plain = replace(outcome, message="" if outcome.end == "passed" else outcome.message)
        yield {"outcome": asdict(plain), "found": found, "again": again, "left": []}


def mounted(kind: Kind, root: Path, checkpoint: str) -> Iterator[dict[str, object]]:
    """A start from what is there, in the store and in the hub's cache, when nothing can be written any more."""
    from ranvier.artifacts.hub import download

    request = request_for(checkpoint)

    def start() -> object:
        artifact = export_to_store(request, Store(root / "store"), quiet)
        return artifact.directory, download("org/model", None, str(root / "cache"))

    ready = in_child(start, kind, 0, root)
    outcome = in_child(start, kind, 1, root)
    found = "complete" if (ready.end, ready.message) == (outcome.end, outcome.message) else "another"
    yield {"outcome": asdict(outcome), "found": found, "again": "", "left": names(root / "store" / "artifacts")}


def programs(kind: Kind, root: Path, repo_id: str) -> Iterator[dict[str, object]]:
    """Folders of a cache repository; a program counts when it is marked as done."""
    from ranvier.artifacts.hub_cache import HubCacheRepository

    work = root / "work"

    def fetch() -> int:
        return HubCacheRepository(repo_id).download(["compiler"], work)

    def prepare() -> Callable[[], object]:
        shutil.rmtree(work, ignore_errors=True)
        return fetch

    in_child(fetch, kind, 0, work)
    wanted = contents(work / "compiler")
    for outcome in each_fault(prepare, kind, work):
        found = _programs_found(contents(work / "compiler"), wanted)
        in_child(fetch, kind, 0, work)
        again = "complete" if contents(work / "compiler") == wanted else "incomplete"
        yield {"outcome": asdict(outcome), "found": found, "again": again, "left": names(work)}


def _programs_found(there: Found, wanted: Found) -> str:
    """Each program that is marked as done must be whole; others are not looked at, and no file may be cut."""
    done = {str(Path(name).parent) for name in there if name.endswith(".done")}
    needed = {name for name in wanted if str(Path(name).parent) in done}
    if any(wanted.get(name) != data for name, data in there.items()) or not needed <= there.keys():
        return "incomplete"
    return "complete" if done else "absent"


def main() -> None:
    # The hub's client waits between its tries.
    vars(time)["sleep"] = lambda seconds: None
    scenario, kind, root, source = sys.argv[1:]
    scenarios = {one.__name__: one for one in (directory, store, linked, snapshot, mounted, programs)}
    Path(root).mkdir(parents=True, exist_ok=True)
    for run in scenarios[scenario](cast(Kind, kind), Path(root), source):
        print(json.dumps(run), flush=True)


if __name__ == "__main__":
    try:
        main()
    except RanvierError as error:
        sys.exit(f"after a fault: {error}")
