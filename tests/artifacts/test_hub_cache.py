"""A cache repository on the hub: what is listed, brought and pushed, with how many requests, and what goes wrong.

The repository has the layout of the Neuron Model Cache and 5,000 programs. As the client reads its environment when it
is imported, each case runs in a process of its own, where `time.sleep` does nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, Repository, hub_server
from test_hub_download import environment, refused_port

COMPILER = "neuronxcc-2.21.33363.0+82129205"
REGISTRY = f"{COMPILER}/0_REGISTRY/0.4.5/llama"
MODULE = f"{COMPILER}/MODULE_0001+abcd"
PROGRAM = {
    f"{MODULE}/model.neff": b"neff" * 100,
    f"{MODULE}/model.hlo_module.pb": b"hlo",
    f"{MODULE}/compile_flags.json": b"[]",
    f"{MODULE}/model.done": b"",
}
ENTRIES = {f"{REGISTRY}/{number:04}.json": b'{"entry": %d}' % number for number in range(3)}
CROWD = {f"{COMPILER}/MODULE_{number:05}+ffff/model.neff": b"" for number in range(10_000, 15_000)}
FILES = {"README.md": b"words", **CROWD, **PROGRAM, **ENTRIES}
NAME = "`CUSTOM_CACHE_REPO` org/cache"

CALLS = """
import json, sys, time
from pathlib import Path
waited = []
time.sleep = waited.append
from ranvier.artifacts.hub_cache import HubCacheRepository
from ranvier.errors import ModelError
repo_id, revision, calls = json.load(sys.stdin)
repository = HubCacheRepository(repo_id, revision)
for method, *arguments in calls:
    if method == "download":
        arguments[1] = Path(arguments[1])
    if method == "upload":
        arguments[0] = Path(arguments[0])
    try:
        found = getattr(repository, method)(*arguments)
        print(json.dumps(found.decode() if isinstance(found, bytes) else found))
    except ModelError as error:
        print(json.dumps({"error": str(error)}))
"""


def results(
    url: str, home: Path, *calls: tuple[Any, ...], repo: str = "org/cache", at: str | None = None, **env: str
) -> list[Any]:
    """What the methods of one `HubCacheRepository` gave, or `{"error": message}`."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        input=json.dumps([repo, at, calls]),
        env=environment(url, home, HF_HUB_DISABLE_XET="1", **env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Files below a folder but for the lock, by their path from it."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {path: file.read_bytes() for path, file in files.items() if not path.endswith(".lock")}


def asked(server: HubServer, verb: str) -> list[str]:
    """Requests for one route of the repository, without what comes before it."""
    found = [request.partition(f"/{verb}/") for request in server.requests]
    return [after.partition("/")[2] for before, separator, after in found if separator and "org/" in before]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_only_the_folder_asked_for_is_listed(tmp_path: Path) -> None:
    with hub_server({"org/cache": Repository(FILES)}) as server:
        found = results(
            server.url,
            tmp_path,
            ("list_folders", ""),
            ("list_folders", f"{COMPILER}/0_REGISTRY"),
            ("list_files", REGISTRY),
            ("read", f"{REGISTRY}/0001.json"),
            ("list_folders", "neuronxcc-9.9"),
            ("list_files", "neuronxcc-9.9"),
        )

    assert found == [[COMPILER], ["0.4.5"], sorted(ENTRIES), '{"entry": 1}', [], []]
    assert asked(server, "tree") == ["", f"{COMPILER}/0_REGISTRY", REGISTRY, "neuronxcc-9.9", "neuronxcc-9.9"]
    assert server.requests.count("GET api/models/org/cache") == 1


def test_thousands_of_entries_are_listed_by_pages(tmp_path: Path) -> None:
    with hub_server({"org/cache": Repository(FILES)}) as server:
        (found,) = results(server.url, tmp_path, ("list_folders", COMPILER))

    assert len(found) == 5_002
    assert found == sorted({path.split("/")[1] for path in FILES if path.startswith(COMPILER)})
    assert asked(server, "tree") == [COMPILER] * 6


def test_folders_are_brought_whole_and_nothing_else_is(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with hub_server({"org/cache": Repository(FILES, lfs_from=300)}) as server:
        call = ("download", [MODULE, REGISTRY, "neuronxcc-9.9"], str(target))
        first = results(server.url, tmp_path, call)
        seen = len(server.requests)
        again = results(server.url, tmp_path, call)
        fetched = [request for request in server.requests[seen:] if "/resolve/" in request]

    assert first == again == [7]
    assert contents(target) == {**PROGRAM, **ENTRIES}
    assert fetched == []


def test_a_file_that_differs_is_replaced(tmp_path: Path) -> None:
    target = write(tmp_path / "target", {f"{MODULE}/model.neff": b"nuff" * 100, f"{MODULE}/model.log": b"mine"})
    with hub_server({"org/cache": Repository(PROGRAM)}) as server:
        assert results(server.url, tmp_path, ("download", [MODULE], str(target))) == [4]

    assert contents(target) == {**PROGRAM, f"{MODULE}/model.log": b"mine"}


def test_a_program_is_marked_as_done_only_when_all_of_it_is_there(tmp_path: Path) -> None:
    target = tmp_path / "target"
    broken = Repository(PROGRAM, broken=frozenset({f"{MODULE}/model.neff"}))
    call = ("download", [MODULE], str(target))
    with hub_server({"org/cache": broken}) as server:
        ((message,),) = (found.values() for found in results(server.url, tmp_path, call))
        seen = {path for path in contents(target) if path.startswith(COMPILER)}
    with hub_server({"org/cache": Repository(PROGRAM)}) as server:
        again = results(server.url, tmp_path, call)
        fetched = [request for request in asked(server, "resolve") if request]

    assert "the download failed: RemoteProtocolError" in message
    assert seen == set()
    assert again == [4]
    # What had been complete is taken from the first try.
    assert set(fetched) == {f"{MODULE}/model.neff"}
    assert contents(target) == PROGRAM


def test_a_revision_can_be_named(tmp_path: Path) -> None:
    repository = Repository(FILES, others={"v1": ("f" * 40, {"old/a.json": b"{}"})})
    with hub_server({"org/cache": repository}) as server:
        found = results(server.url, tmp_path, ("list_folders", ""), ("read", "old/a.json"), at="v1")
        absent = results(server.url, tmp_path, ("list_folders", ""), at="v9")

    assert found == [["old"], "{}"]
    assert absent == [{"error": f"{NAME} at revision v9: the repository has no such revision"}]


def test_a_push_is_one_commit_and_is_seen_at_once(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {**PROGRAM, **ENTRIES, f"{MODULE}/model.lock": b"", "other/x": b"x"})
    repository = Repository({"README.md": b"words"}, writer="pen", lfs_from=300)
    push = ("upload", str(source), [MODULE, REGISTRY])
    with hub_server({"org/cache": repository}) as server:
        found = results(server.url, tmp_path, ("list_folders", ""), push, ("list_files", MODULE), push, HF_TOKEN="pen")

    assert found == [[], 7, sorted(PROGRAM), 7]
    assert repository.files == {"README.md": b"words", **PROGRAM, **ENTRIES}
    assert list(repository.objects.values()) == [PROGRAM[f"{MODULE}/model.neff"]]
    assert repository.messages == ["Add compiled programs"]


def test_nothing_to_push_asks_nothing(tmp_path: Path) -> None:
    with hub_server({"org/cache": Repository({}, writer="pen")}) as server:
        assert results(server.url, tmp_path, ("upload", str(tmp_path), ["none"]), HF_TOKEN="pen") == [0]
    assert server.requests == []


@pytest.mark.parametrize("statuses", [[412], [409, 412, 409]])
def test_a_push_that_meets_another_is_tried_again(tmp_path: Path, statuses: list[int]) -> None:
    source = write(tmp_path / "source", ENTRIES)
    repository = Repository({}, writer="pen", refusals=list(statuses))
    with hub_server({"org/cache": repository}) as server:
        found = results(server.url, tmp_path, ("upload", str(source), [REGISTRY]), HF_TOKEN="pen")

    assert found == [3]
    assert repository.files == ENTRIES


def test_a_push_gives_up_in_the_end(tmp_path: Path) -> None:
    source = write(tmp_path / "source", ENTRIES)
    repository = Repository({}, writer="pen", refusals=[412] * 9)
    with hub_server({"org/cache": repository}) as server:
        found = results(server.url, tmp_path, ("upload", str(source), [REGISTRY]), HF_TOKEN="pen")

    assert found == [{"error": f"{NAME}: the hub answered 412 Precondition Failed"}]
    assert len(repository.refusals) == 9 - 5


@pytest.mark.parametrize("env", [{}, {"HF_TOKEN": "reader"}])
def test_who_may_not_write_is_told_what_is_needed(tmp_path: Path, env: dict[str, str]) -> None:
    source = write(tmp_path / "source", ENTRIES)
    repository = Repository({}, writer="pen")
    with hub_server({"org/cache": repository}) as server:
        ((message,),) = (
            found.values() for found in results(server.url, tmp_path, ("upload", str(source), [REGISTRY]), **env)
        )

    assert message == (
        f"{NAME}: the hub answered 403 Forbidden: the token may not write here, or there is no such repository; "
        "set `HF_TOKEN` to a token with write access to it"
        if env
        else f"{NAME}: to push, set `HF_TOKEN` to a token with write access to the repository"
    )
    assert repository.files == {}


def test_each_thing_that_goes_wrong_has_its_line(tmp_path: Path) -> None:
    calls = (("list_folders", "a"), ("list_files", "a"), ("read", "a/b"), ("download", ["a"], str(tmp_path / "target")))
    gated = Repository(FILES, errors={"info": (403, "GatedRepo", "Access to model org/gated is restricted")})
    lines = {
        "gated": "the repository is gated; accept its terms on the hub and set `HF_TOKEN`",
        "none": "no such local path, and no such repository on the hub (a private one needs `HF_TOKEN`)",
    }
    unreachable = "the hub cannot be reached (check `HF_ENDPOINT` and `HF_HUB_OFFLINE`)"
    with hub_server({"org/gated": gated, "org/cache": Repository(FILES)}) as server:
        found = {name: results(server.url, tmp_path, *calls, repo=f"org/{name}") for name in lines}
        offline = results(server.url, tmp_path, *calls, HF_HUB_OFFLINE="1")
    away = results(f"http://127.0.0.1:{refused_port()}", tmp_path, *calls)

    assert found == {
        name: [{"error": f"`CUSTOM_CACHE_REPO` org/{name}: {line}"}] * len(calls) for name, line in lines.items()
    }
    assert offline == away == [{"error": f"{NAME}: {unreachable}"}] * len(calls)


def test_a_target_that_cannot_be_written_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with hub_server({"org/cache": Repository(PROGRAM)}) as server:
        found = results(server.url, tmp_path, ("download", [MODULE], str(tmp_path / "file" / "target")))

    assert found == [{"error": f"{tmp_path}/file/target: cannot be written: Not a directory"}]
