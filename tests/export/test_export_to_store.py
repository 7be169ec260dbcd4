"""Exporting on the fly: what is found again, what is shared, and what several exporters or a crash do to the store."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from export_requests import MODEL, request

from ranvier.artifacts import Artifact, Store, digest
from ranvier.errors import ModelError
from ranvier.export import export_to_store
from tiny_checkpoints import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", MODEL)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def in_store(store: Store, path: Path, **changes: Any) -> tuple[Artifact, int]:
    """The artifact, and how many tensors were packed for it."""
    seen: list[int] = []
    artifact = export_to_store(request(path, **changes), store, lambda done, total: seen.append(done))
    return artifact, len(seen)


def test_a_checkpoint_that_has_vanished_is_said_to_be_gone(checkpoint: Path) -> None:
    asked = request(checkpoint)
    shutil.rmtree(checkpoint)
    with pytest.raises(ModelError, match="cannot read .*checkpoint: No such file or directory"):
        asked.key()


def test_the_second_start_finds_what_the_first_one_made(store: Store, checkpoint: Path) -> None:
    (first, packed), (second, packed_again) = in_store(store, checkpoint), in_store(store, checkpoint)

    assert first == second
    assert (packed, packed_again) == (11, 0)
    assert first.directory.name == f"checkpoint-{digest(request(checkpoint).key())}"


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"sequence_length": 64}, {"kv_cache_dtype": "u8"}])
def test_weights_are_linked_when_only_limits_differ(store: Store, checkpoint: Path, change: dict[str, Any]) -> None:
    (one, _), (other, packed) = in_store(store, checkpoint), in_store(store, checkpoint, **change)

    assert one.directory != other.directory
    assert packed == 0
    assert one.weights_path.samefile(other.weights_path)
    assert one.manifest.weights_key == other.manifest.weights_key


def test_weights_are_copied_where_they_cannot_be_linked(
    store: Store, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*paths: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    (one, _), (other, packed) = in_store(store, checkpoint), in_store(store, checkpoint, batch_size=3)

    assert packed == 0
    assert not one.weights_path.samefile(other.weights_path)
    assert one.weights_path.read_bytes() == other.weights_path.read_bytes()


@pytest.mark.parametrize("change", [{"quantize": "int8"}, {"dtype": "bfloat16"}])
def test_weights_are_packed_again_when_their_form_differs(
    store: Store, checkpoint: Path, change: dict[str, Any]
) -> None:
    (one, _), (other, packed) = in_store(store, checkpoint), in_store(store, checkpoint, **change)

    assert packed == 11
    assert one.weights_path.stat().st_size > other.weights_path.stat().st_size


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_changed_checkpoint_is_exported_again(store: Store, checkpoint: Path, name: str) -> None:
    (checkpoint / "chat_template.jinja").write_text("{}")
    one, _ = in_store(store, checkpoint)
    path = checkpoint / name
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    other, packed = in_store(store, checkpoint)

    assert one.directory != other.directory
    assert packed == 11


@pytest.mark.parametrize("name", ["ranvier.json", "weights.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["gone", "emptied"])
def test_a_damaged_artifact_is_exported_again(store: Store, checkpoint: Path, name: str, damage: str) -> None:
    first, _ = in_store(store, checkpoint)
    whole = (first.directory / name).read_bytes()
    (first.directory / name).unlink()
    if damage == "emptied":
        (first.directory / name).write_bytes(b"")
    second, _ = in_store(store, checkpoint)

    assert first == second
    assert (first.directory / name).read_bytes() == whole


def test_exporters_in_threads_make_one_artifact(store: Store, checkpoint: Path) -> None:
    results: list[tuple[Artifact, int]] = []
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait(10)
        results.append(in_store(store, checkpoint))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(results) == 4
    assert len({artifact.directory for artifact, _ in results}) == 1
    assert sorted(packed for _, packed in results) == [0, 0, 0, 11]


EXPORTER = """
import sys
from pathlib import Path
from ranvier.artifacts import Store, locate
from ranvier.artifacts import ExportRequest
from ranvier.export import export_to_store
request = ExportRequest(source=locate(sys.argv[1]), revision=None, target="cpu", batch_size=None, sequence_length=None,
                        quantize="none", dtype="float32", kv_cache_dtype="auto")
print("ready", flush=True)
sys.stdin.readline()
seen = []
artifact = export_to_store(request, Store(Path(sys.argv[2])), lambda done, total: seen.append(done))
print(len(seen), artifact.directory)
"""


def test_exporters_in_processes_make_one_artifact(tmp_path: Path, store: Store, checkpoint: Path) -> None:
    arguments = [sys.executable, "-c", EXPORTER, str(checkpoint), str(tmp_path / "store")]
    processes = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = sorted(process.communicate(timeout=60)[0].split() for process in processes)

    found, packed = in_store(store, checkpoint)
    assert outputs == [["0", str(found.directory)], ["11", str(found.directory)]]
    assert packed == 0
    assert [path.name for path in (tmp_path / "store" / "artifacts").iterdir()] == [found.directory.name]


KILLED = EXPORTER.replace("seen.append(done)", "os.kill(os.getpid(), 9)").replace("import sys", "import os, sys")


def test_an_exporter_that_is_killed_leaves_nothing_that_looks_ready(
    tmp_path: Path, store: Store, checkpoint: Path
) -> None:
    arguments = [sys.executable, "-c", KILLED, str(checkpoint), str(tmp_path / "store")]
    done = subprocess.run(arguments, input="go\n", text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (leftover,) = (tmp_path / "store" / "artifacts").iterdir()
    assert (leftover / "weights.safetensors").stat().st_size > 0
    artifact, packed = in_store(store, checkpoint)

    assert packed == 11
    assert list((tmp_path / "store" / "artifacts").iterdir()) == [artifact.directory]
