"""The store: an artifact is complete or absent, whatever crashes or runs beside it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_manifest import MANIFEST

from ranvier.artifacts import Artifact, Store, digest, open_artifact, publish, write_manifest
from ranvier.errors import ArtifactError

KEY = {"source": "a", "target": "cpu"}


def fill(directory: Path, weights: bytes = b"abcde") -> None:
    """Write a whole artifact into a directory that is there."""
    for name in ("config.json", "tokenizer.json"):
        (directory / name).write_text("{}")
    (directory / "weights.safetensors").write_bytes(weights)
    write_manifest(directory, MANIFEST)


def entries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def refused(directory: Path) -> str:
    with pytest.raises(ArtifactError) as caught, publish(directory) as building:
        fill(building)
    return str(caught.value)


# Publishing


def test_nothing_is_seen_before_everything_is_there(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "artifact"
    with publish(target) as building:
        fill(building)
        assert not target.exists()
        assert building.parent == target.parent
    assert open_artifact(target) == Artifact(target, MANIFEST)
    assert entries(target.parent) == ["artifact"]


def test_every_file_is_on_the_disk_before_the_directory_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    flush, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        flush(descriptor)

    def replace(source: Path, target: Path) -> None:
        steps.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with publish(tmp_path / "artifact") as building:
        fill(building)

    files = ["config.json", "ranvier.json", "tokenizer.json", "weights.safetensors"]
    assert sorted(steps[:4]) == files
    assert steps[4:] == [building.name, "renamed"]


def test_what_is_published_can_be_read_by_others(tmp_path: Path) -> None:
    with publish(tmp_path / "artifact") as building:
        fill(building)
    assert (tmp_path / "artifact").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_and_goes_on(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), publish(tmp_path / "artifact") as building:
        fill(building)
        raise error
    assert entries(tmp_path) == []


def test_a_failed_write_leaves_nothing_and_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught, publish(tmp_path / "artifact") as building:
        fill(building)
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == f"{tmp_path}/artifact: cannot be written: No space left on device"
    assert entries(tmp_path) == []


def test_a_failed_read_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught, publish(tmp_path / "artifact"):
        (tmp_path / "none").read_bytes()
    assert str(caught.value) == (f"{tmp_path}/artifact: cannot be written: No such file or directory ({tmp_path}/none)")


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    with publish(tmp_path / "artifact") as building:
        fill(building)
    assert open_artifact(tmp_path / "artifact").manifest == MANIFEST


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "dangling"])
def test_a_link_is_followed(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        (tmp_path / "far").mkdir()
    (tmp_path / "artifact").symlink_to("far")
    with publish(tmp_path / "artifact") as building:
        fill(building)
    assert (tmp_path / "artifact").is_symlink()
    assert open_artifact(tmp_path / "far").manifest == MANIFEST
    assert entries(tmp_path) == ["artifact", "far"]


def test_a_mount_point_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "artifact").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "artifact")
    with pytest.raises(ArtifactError) as caught, publish(tmp_path / "artifact"):
        raise AssertionError("there is a folder to build in")
    assert str(caught.value) == (
        f"{tmp_path}/artifact: is a mount point; choose a new directory in it, such as {tmp_path}/artifact/model"
    )


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "mine").write_text("precious")

    assert refused(tmp_path / "artifact") == (
        f"{tmp_path}/artifact: exists and is not empty; choose another directory or remove it"
    )
    assert entries(tmp_path) == ["artifact"]
    assert (tmp_path / "artifact" / "mine").read_text() == "precious"


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "artifact").write_text("precious")

    assert refused(tmp_path / "artifact").endswith("exists and is not empty; choose another directory or remove it")
    assert (tmp_path / "artifact").read_text() == "precious"


def test_a_file_in_the_place_of_a_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file" / "artifact") == f"{tmp_path}/file/artifact: cannot be written: File exists"


def test_the_second_of_two_that_build_the_same_directory_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with pytest.raises(ArtifactError) as caught, publish(target) as second:
        with publish(target) as first:
            fill(first, b"first")
        fill(second, b"later")
    assert str(caught.value) == f"{target}: exists and is not empty; choose another directory or remove it"
    assert open_artifact(target).weights_path.read_bytes() == b"first"
    assert entries(tmp_path) == ["artifact"]


CRASH = """
import os, signal, sys
from pathlib import Path
from ranvier.artifacts import Store, publish
store = Store(Path(sys.argv[1]))
with store.locked(), publish(store.directory("model", {"source": "a", "target": "cpu"})) as building:
    (building / "ranvier.json").write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_leaves_nothing_that_looks_ready_and_the_next_one_sweeps(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    (leftover,) = entries(tmp_path / "artifacts")
    store = Store(tmp_path)

    assert leftover.startswith(".building-")
    assert store.find("model", KEY) is None
    assert store.with_weights(MANIFEST.weights_key) is None
    with store.locked():
        assert entries(tmp_path / "artifacts") == []


# Finding


def published(store: Store, name: str = "model", key: dict[str, str] = KEY) -> Path:
    with publish(store.directory(name, key)) as building:
        fill(building)
    return store.directory(name, key)


def test_an_artifact_is_found_by_its_whole_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    directory = published(store)

    assert store.find("model", KEY) == Artifact(directory, MANIFEST)
    assert store.find("model", dict(reversed(KEY.items()))) == Artifact(directory, MANIFEST)
    assert store.find("model", KEY | {"target": "neuron"}) is None
    assert store.find("other", KEY) is None


def test_an_empty_store_finds_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")

    assert store.find("model", KEY) is None
    assert store.with_weights("x") is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["ranvier.json", "weights.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_artifact_counts_as_absent(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    (published(store) / name).unlink()

    assert store.find("model", KEY) is None
    assert store.with_weights(MANIFEST.weights_key) is None


def test_an_artifact_is_found_by_its_weights(tmp_path: Path) -> None:
    store = Store(tmp_path)
    damaged, whole = published(store, "a-damaged"), published(store, "whole", KEY | {"batch_size": "8"})
    (damaged / "weights.safetensors").write_bytes(b"")

    assert store.with_weights(MANIFEST.weights_key) == Artifact(whole, MANIFEST)
    assert store.with_weights("another") is None


def test_an_artifact_can_be_discarded_and_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    directory = published(store)
    with store.locked():
        store.discard(directory)
        store.discard(directory)
    assert store.find("model", KEY) is None
    assert published(store) == directory


@settings(deadline=None)
@given(
    name=st.text(max_size=300)
    | st.sampled_from(["", ".", "..", "/", "-", "../../etc", "\0", "a/b", ".building-x", "\U0001d538" * 300])
)
def test_any_name_gives_a_directory_inside_the_store(name: str) -> None:
    directory = Store(Path("/root-of-store")).directory(name, KEY)

    assert directory.parent == Path("/root-of-store/artifacts")
    assert directory.name.endswith(f"-{digest(KEY)}")
    assert not directory.name.startswith((".", "-"))
    assert len(os.fsencode(directory.name)) <= 255


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4))
def test_the_digest_is_of_the_fields_and_not_of_their_order(fields: dict[str, str]) -> None:
    assert digest(fields) == digest(dict(reversed(fields.items())))
    assert len(digest(fields)) == 16
    assert digest(fields) != digest(fields | {"one more": ""})


def test_the_digest_stays_what_it_was() -> None:
    """Stored artifacts would not be found again if it changed: SHA-256 of the JSON `{"a": "1", "b": "x"}`."""
    assert digest({"b": "x", "a": "1"}) == "e76f229352345906"


# The lock


def test_the_lock_keeps_others_out_until_it_is_released(tmp_path: Path) -> None:
    store, order, started = Store(tmp_path), list[str](), threading.Event()

    def second() -> None:
        started.set()
        with Store(tmp_path).locked():
            order.append("second")

    thread = threading.Thread(target=second)
    with store.locked(), (tmp_path / "lock").open("w") as other:
        thread.start()
        assert started.wait(10)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_the_lock_is_released_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^once$"), Store(tmp_path).locked():
        raise ValueError("once")
    with Store(tmp_path).locked():
        assert entries(tmp_path) == ["artifacts", "lock"]


def test_a_store_that_cannot_be_written_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError) as caught, Store(tmp_path / "file").locked():
        raise AssertionError("no lock was taken")
    assert str(caught.value) == (
        f"{tmp_path}/file/artifacts: cannot be written: Not a directory; set `--artifact-cache`"
    )
