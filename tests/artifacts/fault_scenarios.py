"""What the tests of fault injection run in a fresh process: an action under each fault in turn, and what is left.

    python fault_scenarios.py SCENARIO KIND ROOT SOURCE  ->  one line of JSON per run

`SOURCE` is the checkpoint, or the repository on the hub. Each line has the outcome, what was found (`absent`,
`complete`, or what is wrong), how the next run without a fault ended, and the names that are left beside it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from fault_injection import Kind, Outcome, each_fault, in_child

from ranvier.artifacts import (
    Artifact,
    ExportRequest,
    ModelSource,
    NeuronWish,
    Store,
    locate,
    open_artifact,
)
from ranvier.config import LauncherConfig, load_config
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
    work, destination = root / "place", root / "place" / "new" / "artifact"

    def prepare() -> Callable[[], object]:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return lambda: export(request, destination, quiet).directory

    for outcome in each_fault(prepare, kind, work):
        is_there = destination.exists()
        found = compared(open_artifact(destination), wanted) if is_there else "absent"
        again = found if is_there else compared(export(request, destination, quiet), wanted)
        yield {"outcome": asdict(outcome), "found": found, "again": again, "left": names(destination.parent)}


def store(
    kind: Kind, root: Path, checkpoint: str, request: ExportRequest | None = None, *, is_linked: bool = False
) -> Iterator[dict[str, object]]:
    """An export into the store; where one with the same weights is there, they are linked."""
    request = request or request_for(checkpoint)
    other = replace(request, batch_size=5)
    wanted = contents(export_to_store(request, Store(root / "wanted"), quiet).directory)
    if is_linked:
        export_to_store(other, Store(root / "template"), quiet)
    work = root / "place"

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

    work = root / "place"

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

    work = root / "place"

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


WRITING_CHILD = Path(__file__).with_name("writing_child.py")


def neuron_request(checkpoint: str) -> ExportRequest:
    """For two emulated cores, compiled."""
    wish = NeuronWish(num_cores=2, auto_cast_type="fp32", compile_for="cpu")
    return replace(request_for(checkpoint), target="neuron", quantize="auto", sequence_length=32, neuron=wish)


def with_children(*arguments: object) -> None:
    """Have programs lowered and compiled by `writing_child`."""
    from ranvier.export import neuron
    from ranvier.export.program_runs import ProgramRuns

    command = (sys.executable, "-S", str(WRITING_CHILD), *map(str, arguments))
    vars(neuron)["ProgramRuns"] = lambda order, environ, report: ProgramRuns(order, environ, report, command)


def neuron_store(kind: Kind, root: Path, checkpoint: str) -> Iterator[dict[str, object]]:
    """An export for Neuron devices into the store. Its own processes meet no fault."""
    with_children(root, root, kind, "none", 0, 0)
    return store(kind, root, checkpoint, neuron_request(checkpoint))


def neuron_children(kind: Kind, root: Path, checkpoint: str) -> Iterator[dict[str, object]]:
    """The same, where a process that lowers or compiles meets the fault, the first one alone or the second one too."""
    request = neuron_request(checkpoint)
    with_children(root, root, kind, "none", 0, 0)
    wanted = contents(export(request, root / "wanted", quiet).directory)
    for job, times in itertools.product(("lower", "compile"), (1, 2)):
        for at in itertools.count(1):
            run = _with_fault_in_child(request, root, wanted, (kind, job, at, times))
            if run is None:
                break
            yield run


def _with_fault_in_child(
    request: ExportRequest, root: Path, wanted: Found, fault: tuple[object, ...]
) -> dict[str, object] | None:
    work, notes = root / "place", root / "notes"
    for folder in (work, notes):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    with_children(notes, work, *fault)
    end, message = "passed", ""
    try:
        export(request, work / "artifact", quiet)
    except RanvierError as error:
        end, message = type(error).__name__, str(error)
    hits = [hit for hit in (note.read_text() for note in notes.iterdir()) if hit]
    if not hits:
        return None
    is_there = (work / "artifact").exists()
    found = _programs_compared(open_artifact(work / "artifact"), wanted) if is_there else "absent"
    with_children(root, root, "killed", "none", 0, 0)
    again = found if is_there else _programs_compared(export(request, work / "artifact", quiet), wanted)
    outcome = Outcome(end, message, f"{fault[1]} {hits[0]}")
    return {"outcome": asdict(outcome), "found": found, "again": again, "left": names(work)}


def _programs_compared(artifact: Artifact, wanted: Found) -> str:
    """The manifest has the programs in the order in which they were done; what is not compiled, a start compiles."""
    found = contents(artifact.directory)
    same = all(wanted[name] == data for name, data in found.items() if name != "ranvier.json")
    lacking = {Path(name).parts[0] for name in wanted.keys() - found.keys()}
    if not same or lacking - {"compiled"}:
        return "another artifact"
    return "to be compiled" if lacking else "complete"


def nxd(kind: Kind, root: Path, source: str) -> Iterator[dict[str, object]]:
    """An export with the values of a cache's entry, on a stand-in for devices."""
    return _from_cache(kind, root, source, is_emulated=True)


def nxd_devices(kind: Kind, root: Path, source: str) -> Iterator[dict[str, object]]:
    """The same by the program of optimum-neuron, or what stands for it."""
    return _from_cache(kind, root, source, is_emulated=False)


def _from_cache(kind: Kind, root: Path, source: str, *, is_emulated: bool) -> Iterator[dict[str, object]]:
    """`source` has a `checkpoint`, the `cache` repository, and `exported`, what the program leaves."""
    from ranvier.compose.nxd_export import export_from_cache

    given, flags = Path(source), ("--emulate-neuron",) if is_emulated else ()
    os.environ["CUSTOM_CACHE_REPO"] = str(given / "cache")
    checkpoint = ModelSource("checkpoint", given / "checkpoint", "org/tiny")

    def run(arguments: Sequence[str]) -> int:
        for file in (given / "exported").iterdir():
            (Path(arguments[-1]) / file.name).write_bytes(file.read_bytes())
        return 0

    def act(cache: Path) -> Path:
        return export_from_cache(nxd_config(cache, *flags), checkpoint, run, given).directory

    return in_store(kind, root, act)


def nxd_texts(kind: Kind, root: Path, source: str) -> Iterator[dict[str, object]]:
    """A directory of links to an exported one that has no tokenizer."""
    from ranvier.compose.nxd_directory import with_texts

    exported = ModelSource("optimum", Path(source) / "exported", "org/tiny")
    return in_store(kind, root, lambda cache: with_texts(nxd_config(cache), exported).path)


def nxd_config(cache: Path, *flags: str) -> LauncherConfig:
    return load_config(flags, {"RANVIER_CACHE": str(cache), "HOME": str(cache)}, prog="ranvier serve")


def in_store(kind: Kind, root: Path, act: Callable[[Path], Path]) -> Iterator[dict[str, object]]:
    """What `act` leaves in the store of a cache folder; it gives the directory."""
    from ranvier.compose.nxd_directory import optimum_artifact

    work, wanted = root / "place", contents(act(root / "wanted"))

    def prepare() -> Callable[[], object]:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return lambda: act(work)

    for outcome in each_fault(prepare, kind, work):
        there = [path for path in (work / "artifacts").glob("*") if not path.name.startswith(".")]
        opened = [optimum_artifact(ModelSource("optimum", path, "org/tiny")) for path in there]
        found = compared(opened[0] if opened else None, wanted)
        again = compared(optimum_artifact(ModelSource("optimum", act(work), "org/tiny")), wanted)
        yield {"outcome": asdict(outcome), "found": found, "again": again, "left": names(work / "artifacts")}


def main() -> None:
    # The hub's client waits between its tries.
    vars(time)["sleep"] = lambda seconds: None
    scenario, kind, root, source = sys.argv[1:]
    of_neuron = (neuron_store, neuron_children, nxd, nxd_devices, nxd_texts)
    scenarios = {one.__name__: one for one in (directory, store, linked, snapshot, mounted, programs, *of_neuron)}
    Path(root).mkdir(parents=True, exist_ok=True)
    for run in scenarios[scenario](cast(Kind, kind), Path(root), source):
        print(json.dumps(run), flush=True)


if __name__ == "__main__":
    try:
        main()
    except RanvierError as error:
        sys.exit(f"after a fault: {error}")
