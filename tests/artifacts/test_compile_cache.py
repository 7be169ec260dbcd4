"""The compile cache on this host: where it is, what is in it, what can go."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from optimum_entries import put
from ranvier.artifacts.optimum import (
    LocalRepository,
    Module,
    State,
    cache_location,
    folders_to_pull,
    folders_to_push,
    plan_prune,
    prune,
    scan_modules,
)
from ranvier.errors import ArtifactError

NOW = time.time()
HOUR = 3600.0
DONE = ("model.hlo_module.pb", "compile_flags.json", "model.neff", "model.done")


def module(
    root: Path, name: str, files: tuple[str, ...] = DONE, *, hours: float = 0, compiler: str = "neuronxcc-2.21.1+a"
) -> Path:
    """A module's folder, written so many hours ago."""
    folder = root / compiler / f"MODULE_{name}"
    folder.mkdir(parents=True)
    for file in files:
        os.utime(put(folder, file, "first\nlast words\n\n"), (NOW - hours * HOUR,) * 2)
    os.utime(folder, (NOW - hours * HOUR,) * 2)
    return folder


def only(root: Path) -> Module:
    (found,) = scan_modules(root, NOW)
    return found


@pytest.mark.parametrize(
    ("explicit", "environ", "path", "source"),
    [
        (None, {}, "/var/tmp/neuron-compile-cache", "default"),
        (None, {"NEURON_COMPILE_CACHE_URL": "/a"}, "/a", "NEURON_COMPILE_CACHE_URL"),
        (None, {"NEURON_COMPILE_CACHE_URL": "file:///a"}, "/a", "NEURON_COMPILE_CACHE_URL"),
        (None, {"NEURON_COMPILE_CACHE_URL": ""}, "/var/tmp/neuron-compile-cache", "default"),
        (
            None,
            {"NEURON_COMPILE_CACHE_URL": "/a", "NEURON_CC_FLAGS": "-O1 --cache_dir='/b c'"},
            "/b c",
            "`--cache_dir` in NEURON_CC_FLAGS",
        ),
        ("/c", {"NEURON_COMPILE_CACHE_URL": "s3://a", "NEURON_CC_FLAGS": "--no-cache"}, "/c", "`--cache-dir`"),
    ],
)
def test_the_cache_is_where_the_strongest_setting_says(
    explicit: str | None, environ: dict[str, str], path: str, source: str
) -> None:
    found = cache_location(explicit, environ)
    assert (str(found.path), found.source) == (path, source)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"NEURON_COMPILE_CACHE_URL": "s3://bucket/prefix"}, "`aws s3 sync s3://bucket/prefix DIR`"),
        (
            {"NEURON_CC_FLAGS": "--cache_dir=S3://bucket"},
            "`--cache_dir` in NEURON_CC_FLAGS is S3://bucket, and only local",
        ),
        ({"NEURON_CC_FLAGS": "--no-cache"}, "NEURON_CC_FLAGS has `--no-cache`"),
        ({"NEURON_CC_FLAGS": "--cache_dir='a"}, "NEURON_CC_FLAGS has a quote that is not closed"),
    ],
)
def test_a_place_that_cannot_be_read_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        cache_location(None, environ)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("files", "hours", "state"),
    [
        (DONE, 0, State.DONE),
        ((*DONE, "model.log", "model.hlo_module.pb.lock"), 5, State.DONE),
        (("model.hlo_module.pb", "model.log"), 0, State.FAILED),
        (("model.hlo_module.pb", "model.log", "model.hlo_module.pb.lock"), 0, State.FAILED),
        (("model.hlo_module.pb", "model.hlo_module.pb.lock"), 1, State.LOCKED),
        (("model.hlo_module.pb", "model.hlo_module.pb.lock"), 3, State.STALE),
        (("model.hlo_module.pb",), 0, State.INCOMPLETE),
        (("model.hlo_module.pb", "model.done"), 0, State.INCOMPLETE),
        ((), 0, State.EMPTY),
    ],
)
def test_a_modules_files_say_how_its_compile_went(
    tmp_path: Path, files: tuple[str, ...], hours: float, state: State
) -> None:
    module(tmp_path, "1", files, hours=hours)
    assert only(tmp_path).state is state


def test_a_lock_that_somebody_holds_counts_whatever_its_age(tmp_path: Path) -> None:
    folder = module(tmp_path, "1", ("model.hlo_module.pb", "model.log", "x.lock"), hours=100)
    with (folder / "x.lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = only(tmp_path)
    assert (found.state, found.locks) == (State.LOCKED, ())
    assert plan_prune([found], older_than_days=1) == ()


def test_a_failed_compile_tells_the_last_line_of_its_log(tmp_path: Path) -> None:
    module(tmp_path, "1", ("model.log",))
    assert only(tmp_path).log == "last words"


def test_a_module_has_its_size_and_age(tmp_path: Path) -> None:
    module(tmp_path, "1", hours=30)
    found = only(tmp_path)
    assert found.size == 4 * len("first\nlast words\n\n")
    assert found.age == pytest.approx(30 * HOUR, abs=1)
    assert found.compiler_folder == "neuronxcc-2.21.1+a"


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert scan_modules(tmp_path / "nowhere", NOW) == ()


def test_pruning_takes_what_failed_and_was_abandoned(tmp_path: Path) -> None:
    module(tmp_path, "done", hours=1000)
    module(tmp_path, "failed", ("model.log",))
    module(tmp_path, "stale", ("model.hlo_module.pb", "x.lock"), hours=3)
    module(tmp_path, "busy", ("model.hlo_module.pb", "x.lock"), hours=1)
    module(tmp_path, "old-start", ("model.hlo_module.pb",), hours=3)
    module(tmp_path, "new-start", ("model.hlo_module.pb",), hours=1)
    module(tmp_path, "old-empty", (), hours=3)
    module(tmp_path, "new-empty", (), hours=1)
    locked = module(tmp_path, "locked-done", (*DONE, "x.lock"), hours=3)
    removals = plan_prune(scan_modules(tmp_path, NOW))
    assert {(each.path.name, each.reason) for each in removals} == {
        ("MODULE_failed", "failed"),
        ("MODULE_stale", "stale lock"),
        ("MODULE_old-start", "incomplete"),
        ("MODULE_old-empty", "empty"),
        ("x.lock", "stale lock"),
    }
    prune(removals)
    assert {each.path.name for each in scan_modules(tmp_path, NOW)} == {
        f"MODULE_{name}" for name in ("done", "busy", "new-start", "new-empty", "locked-done")
    }
    assert {path.name for path in locked.iterdir()} == set(DONE)


def test_pruning_by_age_takes_finished_modules_too(tmp_path: Path) -> None:
    module(tmp_path, "old", hours=24 * 31)
    module(tmp_path, "new", hours=24 * 29)
    (removal,) = plan_prune(scan_modules(tmp_path, NOW), older_than_days=30)
    assert (removal.path.name, removal.reason) == ("MODULE_old", "not written for 31 days")


def test_what_is_gone_already_is_no_mistake(tmp_path: Path) -> None:
    module(tmp_path, "1", ("model.log",))
    removals = plan_prune(scan_modules(tmp_path, NOW))
    prune(removals)
    prune(removals)
    assert scan_modules(tmp_path, NOW) == ()


def test_a_pull_takes_everything_of_one_compiler(tmp_path: Path) -> None:
    module(tmp_path, "1")
    module(tmp_path, "2", compiler="neuronxcc-2.19.1+b")
    assert folders_to_pull(LocalRepository(tmp_path), "2.21.1") == ("neuronxcc-2.21.1+a",)


def test_a_pull_of_some_modules_takes_the_registry_too(tmp_path: Path) -> None:
    for name in ("11", "12", "2"):
        module(tmp_path, name)
    repository = LocalRepository(tmp_path)
    assert folders_to_pull(repository, "2.21.1+a", ["MODULE_1"]) == (
        "neuronxcc-2.21.1+a/MODULE_11",
        "neuronxcc-2.21.1+a/MODULE_12",
        "neuronxcc-2.21.1+a/0_REGISTRY",
    )
    with pytest.raises(ArtifactError, match="`--modules` names `MODULE_3`"):
        folders_to_pull(repository, "2.21.1+a", ["MODULE_1", "MODULE_3"])


def test_a_pull_of_an_unknown_compiler_says_which_there_are(tmp_path: Path) -> None:
    module(tmp_path, "1")
    with pytest.raises(ArtifactError, match=r"nothing compiled by neuronx-cc 3\.0; it has: 2\.21\.1\+a"):
        folders_to_pull(LocalRepository(tmp_path), "3.0")


def test_a_push_takes_what_is_finished_and_its_registry(tmp_path: Path) -> None:
    module(tmp_path, "1")
    module(tmp_path, "2", ("model.log",))
    module(tmp_path, "3", ("model.log",), compiler="neuronxcc-2.19.1+b")
    for compiler in ("neuronxcc-2.21.1+a", "neuronxcc-2.19.1+b"):
        put(tmp_path, f"{compiler}/0_REGISTRY/0.4.5/x/y.json")
    folders = folders_to_push(scan_modules(tmp_path, NOW), tmp_path)
    assert folders == ("neuronxcc-2.21.1+a/0_REGISTRY", "neuronxcc-2.21.1+a/MODULE_1")
