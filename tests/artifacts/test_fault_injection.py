"""Whatever write a full disk or a kill meets, what is found then is complete or absent, and the next run succeeds.

Exports and downloads are run over and over with a fault at the first write, the second, and so on until none is left
(`fault_injection` says how writes are met), each scenario in a fresh process that forks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, Repository, hub_server
from test_hub_download import environment

from ranvier.artifacts import publish
from tiny_checkpoints import TinyModel, write_checkpoint

KINDS = ("full", "killed")
REPOSITORIES = {
    "org/model": {"neuron_config.json": b"{}", "model.pt": b"programs" * 100},
    "org/cache": {"compiler/MODULE_1/model.neff": b"neff" * 100, "compiler/MODULE_1/model.done": b""},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny", TinyModel(num_layers=1))


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with hub_server({name: Repository(files) for name, files in REPOSITORIES.items()}) as running:
        yield running


def runs(scenario: str, kind: str, tmp_path: Path, source: str, url: str = "") -> list[dict[str, Any]]:
    """All runs of a scenario; the last met no fault."""
    # An empty folder of certificates: reading those that the client brings along would take a third of the time.
    (tmp_path / "certificates").mkdir()
    env = {
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "SSL_CERT_DIR": str(tmp_path / "certificates"),
    }
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("fault_scenarios.py")),
            scenario,
            kind,
            tmp_path / "runs",
            source,
        ],
        env=environment(url, tmp_path / "home", **env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ends(faulty: list[dict[str, Any]]) -> set[str]:
    return {run["outcome"]["end"] for run in faulty}


def met(faulty: list[dict[str, Any]], *operations: str) -> bool:
    """Whether there was a fault at each of these operations."""
    hits = [run["outcome"]["hit"] for run in faulty]
    return all(any(hit.startswith(operation) for hit in hits) for operation in operations)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_into_a_directory_is_complete_or_absent(kind: str, tmp_path: Path, checkpoint: Path) -> None:
    *faulty, last = runs("directory", kind, tmp_path, str(checkpoint))

    assert met(faulty, "os.mkdir", "open", "write", "os.sendfile", "os.chmod", "os.fsync", "os.rename")
    assert ends(faulty) == {"killed" if kind == "killed" else "ArtifactError"}
    assert {run["found"] for run in faulty} == {"absent"}
    # What the fault left beside it was swept by the next export.
    assert all((run["again"], run["left"]) == ("complete", ["artifact"]) for run in faulty)
    assert (last["outcome"]["end"], last["found"]) == ("passed", "complete")


def test_no_byte_of_an_artifact_is_written_unseen(tmp_path: Path, checkpoint: Path) -> None:
    """Else the faults would not be at every write."""
    last = runs("directory", "full", tmp_path, str(checkpoint))[-1]
    sizes = [path.stat().st_size for path in (tmp_path / "runs" / "place" / "new" / "artifact").iterdir()]

    assert last["outcome"]["num_bytes"] == sum(sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_into_the_store_is_complete_or_absent(kind: str, tmp_path: Path, checkpoint: Path) -> None:
    *faulty, last = runs("store", kind, tmp_path, str(checkpoint))

    assert met(faulty, "os.mkdir", "open", "write", "os.sendfile", "os.chmod", "os.fsync", "os.rename")
    assert ends(faulty) == {"killed" if kind == "killed" else "ArtifactError"}
    assert {run["found"] for run in faulty} == {"absent"}
    assert all((run["again"], len(run["left"])) == ("complete", 1) for run in faulty)
    assert (last["outcome"]["end"], last["found"]) == ("passed", "complete")


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_that_links_weights_leaves_the_other_artifact_whole(
    kind: str, tmp_path: Path, checkpoint: Path
) -> None:
    *faulty, last = runs("linked", kind, tmp_path, str(checkpoint))

    assert met(faulty, "os.link", "os.rename")
    assert {run["found"] for run in faulty} == {"absent"}
    assert all((run["again"], len(run["left"])) == ("complete", 2) for run in faulty)
    assert (last["outcome"]["end"], last["found"]) == ("passed", "complete")


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, checkpoint: Path) -> None:
    *exported, _ = runs("directory", "full", tmp_path, str(checkpoint))
    messages = {run["outcome"]["message"].partition(" (")[0] for run in exported}

    assert messages == {f"{tmp_path}/runs/place/new/artifact: cannot be written: No space left on device"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_download_is_complete_or_refused_offline(kind: str, tmp_path: Path, server: HubServer) -> None:
    *faulty, last = runs("snapshot", kind, tmp_path, "org/model", server.url)

    assert met(faulty, "os.mkdir", "open", "write", "os.rename", "os.symlink")
    assert ends(faulty) <= {"killed" if kind == "killed" else "ModelError", "passed"}
    # An offline start is refused, or finds every file.
    assert {run["found"] for run in faulty} <= {"ModelError", "complete"}
    assert {run["again"] for run in faulty} == {"complete"}
    assert (last["outcome"]["end"], last["found"]) == ("passed", "complete")
    full = "the download cannot be written: No space left on device"
    assert all(full in run["outcome"]["message"] for run in faulty if run["outcome"]["end"] == "ModelError")


def test_programs_marked_as_done_are_whole(tmp_path: Path, server: HubServer) -> None:
    *faulty, last = runs("programs", "killed", tmp_path, "org/cache", server.url)

    assert met(faulty, "os.mkdir", "open", "write", "os.fsync", "os.rename", "os.remove")
    assert {run["found"] for run in faulty} == {"absent", "complete"}
    assert {run["again"] for run in faulty} == {"complete"}
    assert all(run["left"] == [".hub-download.lock", "compiler"] for run in faulty)
    assert (last["outcome"]["end"], last["found"]) == ("passed", "complete")


def test_what_is_there_is_served_when_nothing_can_be_written(
    tmp_path: Path, checkpoint: Path, server: HubServer
) -> None:
    """As from a volume that is mounted for reading, or full."""
    (run,) = runs("mounted", "full", tmp_path, str(checkpoint), server.url)

    assert (run["outcome"]["end"], run["found"], len(run["left"])) == ("passed", "complete", 1)


KILLED = """
import os, signal, sys
from pathlib import Path
from ranvier.artifacts import publish
with publish(Path(sys.argv[1])) as building:
    (building / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_export_sweeps_what_is_dead_and_spares_what_is_alive_or_not_ours(tmp_path: Path) -> None:
    (tmp_path / ".building-projects").mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "dead"], check=False, timeout=60)
    (dead,) = tmp_path.glob(".building-*.ranvier")
    with publish(tmp_path / "one") as alive:
        (alive / "file").write_text("one")
        gone = not dead.exists()
        with publish(tmp_path / "two") as building:
            (building / "file").write_text("two")

    assert done.returncode == -signal.SIGKILL
    assert gone
    assert sorted(path.name for path in tmp_path.iterdir()) == [".building-projects", "one", "two"]
    assert [(tmp_path / name / "file").read_text() for name in ("one", "two")] == ["one", "two"]


def test_a_folder_that_is_swept_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, swept = os.open, []

    def open_(path: str, flags: int) -> int:
        if not swept:
            swept.append(path)
            os.rmdir(path)
        return real(path, flags)

    with monkeypatch.context() as patched:
        patched.setattr("ranvier.artifacts.store.os.open", open_)
        publishing = publish(tmp_path / "one")
        building = publishing.__enter__()
    (building / "file").write_text("one")
    publishing.__exit__(None, None, None)

    assert len(swept) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_files_in_folders_are_on_the_disk_before_the_artifact_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(Path(os.readlink(f"/proc/self/fd/{file}")).name))
    with publish(tmp_path / "one") as building:
        (building / "programs").mkdir()
        (building / "programs" / "decode").write_text("program")

    assert sorted(flushed) == sorted([building.name, "programs", "decode"])
