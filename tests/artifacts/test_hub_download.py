"""Downloading from a stand-in for the hub: what is fetched, and one clear line for whatever goes wrong.

The client reads `HF_ENDPOINT`, `HF_HOME` and the rest when it is imported, so each case runs in a process of its own.
There `time.sleep` does nothing: the client waits between its tries.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, HubServer, Repository, hub_server

FILES = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 40,
    "chat_template.jinja": b"{{ messages }}",
    "pytorch_model.bin": b"pickled",
    "optimizer.pt": b"pickled",
    "README.md": b"words",
    "onnx/model.onnx": b"graph",
}
WANTED = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"]
GATED = (403, "GatedRepo", "Access to model org/gated is restricted")
REFUSED = (401, "", "Invalid credentials in Authorization header")
OLD_COMMIT = "f" * 40
NEURON = {
    "neuron_config.json": b"{}",
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.pt": b"programs",
    "checkpoint/weights/tp0_sharded_checkpoint.safetensors": b"rank 0",
    "checkpoint/weights/tp1_sharded_checkpoint.safetensors": b"rank 1",
    "pytorch_model.bin": b"pickled",
    "README.md": b"words",
}
REPOSITORIES = {
    "org/good": Repository(FILES),
    "org/gated": Repository(FILES, errors=dict.fromkeys(FILES, GATED)),
    "org/private": Repository(FILES, token="sesame"),
    "org/stale-token": Repository(FILES, errors={"info": REFUSED}),
    "org/stale-file": Repository(FILES, errors={"model.safetensors": REFUSED}),
    "org/closed": Repository(FILES, errors={"info": (403, "", "Your token may not do this")}),
    "org/busy": Repository(FILES, errors={"info": (429, "", "Too many requests")}),
    "org/neuron": Repository(NEURON),
    "org/old": Repository(FILES, others={"v1": (OLD_COMMIT, {"config.json": b"old"})}),
    "org/disabled": Repository(FILES, errors={"info": (403, "", "Access to this resource is disabled.")}),
    "org/down": Repository(FILES, errors={"info": (500, "", "Internal error")}),
    "org/forbidden": Repository(FILES, errors={"model.safetensors": (403, "", "You shall not pass")}),
    "org/vanished": Repository(FILES, errors={"config.json": (404, "EntryNotFound", "Entry not found")}),
    "org/broken": Repository(FILES, broken=frozenset({"model.safetensors"})),
}
NOT_REACHED = "the hub cannot be reached (check `HF_ENDPOINT` and `HF_HUB_OFFLINE`)"
NOT_HERE = "no such local path, not complete in the hub cache, and"
CLOSED = (
    "the hub answered 403 Forbidden: no access with this token, or without one; "
    "set `HF_TOKEN` to one that may read this"
)
WRONG_TOKEN = (
    "the hub answered 401 Unauthorized: the token is wrong or expired; set `HF_TOKEN` to a valid one, or unset it"
)
BUSY = (
    "the hub answered 429 Too Many Requests: wait some minutes, or set `HF_TOKEN`, with which more requests are allowed"
)

PROGRAM = """
import json, sys, time
time.sleep = lambda seconds: None
from ranvier.artifacts.hub import download, read_file
from ranvier.errors import ModelError
for model_id, revision, filename, cache in json.load(sys.stdin):
    try:
        found = read_file(model_id, revision, filename, cache) if filename else download(model_id, revision, cache)
        print(json.dumps(["path", str(found)]))
    except ModelError as error:
        print(json.dumps(["error", str(error)]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with hub_server(REPOSITORIES) as running:
        yield running


def environment(url: str, home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"HOME": str(home), "HF_HOME": str(home), "HF_ENDPOINT": url, "NO_PROXY": "*"} | more


def downloads(
    url: str, home: Path, *calls: tuple[str, str | None], cache: str | None = None, file: str | None = None, **env: str
) -> list[Any]:
    """`["path", snapshot]` or `["error", message]` for each `(model id, revision)`, all in one process.

    With a `file`, that file alone is read.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([[*call, file, cache] for call in calls]),
        env=environment(url, home, **env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def files_in(snapshot: str) -> list[str]:
    return sorted(str(path.relative_to(snapshot)) for path in Path(snapshot).rglob("*") if path.is_file())


def refused_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def test_what_serving_needs_is_downloaded_and_nothing_else(server: HubServer, tmp_path: Path) -> None:
    ((kind, path),) = downloads(server.url, tmp_path, ("org/good", None))

    assert (kind, Path(path).name) == ("path", COMMIT)
    assert Path(path).is_relative_to(tmp_path / "hub")
    assert files_in(path) == WANTED
    assert {name: (Path(path) / name).read_bytes() for name in WANTED} == {name: FILES[name] for name in WANTED}


def test_a_revision_and_a_cache_directory_can_be_named(server: HubServer, tmp_path: Path) -> None:
    ((kind, path),) = downloads(server.url, tmp_path, ("org/good", COMMIT), cache=str(tmp_path / "mounted"))

    assert kind == "path"
    assert Path(path).is_relative_to(tmp_path / "mounted")
    assert files_in(path) == WANTED


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_token_opens_a_private_repository(server: HubServer, tmp_path: Path, variable: str) -> None:
    without, with_token = (
        downloads(server.url, tmp_path, ("org/private", None), **env)[0] for env in ({}, {variable: "sesame"})
    )

    assert without[0] == "error"
    assert with_token[0] == "path"


def test_each_thing_that_goes_wrong_has_its_line(server: HubServer, tmp_path: Path) -> None:
    none = "no such local path, and no such repository on the hub (a private one needs `HF_TOKEN`)"
    wanted: dict[tuple[str, str | None], str] = {
        ("org/none", None): none,
        ("org/none", "v1"): none,
        ("org/private", None): none,
        ("org/good", "v9"): "the repository has no such revision",
        ("org/gated", None): "the repository is gated; accept its terms on the hub and set `HF_TOKEN`",
        ("org/disabled", None): f"{NOT_HERE} the hub answered 403 Forbidden",
        ("org/closed", None): f"{NOT_HERE} {CLOSED}",
        ("org/busy", None): f"{NOT_HERE} {BUSY}",
        ("org/stale-token", None): WRONG_TOKEN,
        ("org/stale-file", None): WRONG_TOKEN,
        ("org/down", None): f"{NOT_HERE} the hub answered 500 Internal Server Error",
        ("org/forbidden", None): f"{NOT_HERE} {CLOSED}",
    }
    found = downloads(server.url, tmp_path, *wanted)

    assert found == [
        ["error", f"`model_id` {model_id}{f' at revision {revision}' if revision else ''}: {line}"]
        for (model_id, revision), line in wanted.items()
    ]


def test_what_the_client_says_itself_is_cut_to_one_line(server: HubServer, tmp_path: Path) -> None:
    wanted: dict[tuple[str, str | None], str] = {
        ("org/vanished", None): "RemoteEntryNotFoundError: 404 Client Error.*",
        ("org/broken", None): r"RemoteProtocolError: .*received 5120 bytes, expected 10240.*",
        ("a--b", None): "HFValidationError: .*'a--b'.*",
    }
    found = downloads(server.url, tmp_path, *wanted)

    assert [kind for kind, _ in found] == ["error"] * len(wanted)
    for (_, message), ((model_id, _), line) in zip(found, wanted.items(), strict=True):
        # Without DOTALL: a second line would not match.
        assert re.fullmatch(f"`model_id` {model_id}: the download failed: {line}", message)


def test_a_revision_never_leads_out_of_the_cache(server: HubServer, tmp_path: Path) -> None:
    """The client makes a path of it: `refs/REVISION` holds the commit whose snapshot is taken."""
    ((_, snapshot),) = downloads(server.url, tmp_path, ("org/good", None))
    (tmp_path / "planted").write_text(f"../../../../{Path(snapshot).parent.name}")
    outside = os.path.relpath(tmp_path / "planted", Path(snapshot).parent.parent / "refs")
    revisions = [
        outside,
        str(tmp_path / "planted"),
        "..",
        ".",
        "",
        "a/../b",
        "a//b",
        "/",
        "a/",
        "a\\b",
        "a\nb",
        "x" * 201,
    ]
    for mode in ({}, {"HF_HUB_OFFLINE": "1"}):
        found = downloads(server.url, tmp_path, *(("org/good", revision) for revision in revisions), **mode)
        assert [kind for kind, _ in found] == ["error"] * len(revisions)
        for _, message in found:
            assert message.endswith(": no branch, tag or commit can have this name; check `revision`")
    assert downloads(server.url, tmp_path, ("org/good", "main"), HF_HUB_OFFLINE="1") == [["path", snapshot]]
    assert downloads(server.url, tmp_path, ("org/good", "refs/pr/1"))[0][1].endswith("has no such revision")


def test_offline_takes_what_is_in_the_cache_and_refuses_the_rest(server: HubServer, tmp_path: Path) -> None:
    online = downloads(server.url, tmp_path, ("org/good", None), ("org/broken", None))
    seen = len(server.requests)
    offline = downloads(
        server.url,
        tmp_path,
        ("org/good", None),
        ("org/good", COMMIT),
        ("org/good", "v9"),
        ("org/broken", None),
        ("org/none", None),
        HF_HUB_OFFLINE="1",
    )

    assert offline[0] == offline[1] == online[0]
    assert offline[2:] == [
        ["error", f"`model_id` {name}: {NOT_HERE} {NOT_REACHED}"]
        for name in ("org/good at revision v9", "org/broken", "org/none")
    ]
    assert len(server.requests) == seen


def test_without_a_connection_the_cache_is_used(server: HubServer, tmp_path: Path) -> None:
    online = downloads(server.url, tmp_path, ("org/good", None))
    url = f"http://127.0.0.1:{refused_port()}"
    found = downloads(url, tmp_path, ("org/good", None), ("org/none", None))

    assert found == [online[0], ["error", f"`model_id` org/none: {NOT_HERE} {NOT_REACHED}"]]


def test_a_neuron_model_brings_its_programs_and_no_pickles(server: HubServer, tmp_path: Path) -> None:
    ((kind, path),) = downloads(server.url, tmp_path, ("org/neuron", None))
    offline = downloads(server.url, tmp_path, ("org/neuron", None), HF_HUB_OFFLINE="1")

    assert kind == "path"
    assert files_in(path) == sorted(NEURON.keys() - {"pytorch_model.bin", "README.md"})
    assert (Path(path) / "model.pt").read_bytes() == b"programs"
    assert offline == [["path", path]]


def test_a_branch_gives_its_own_files(server: HubServer, tmp_path: Path) -> None:
    (_, new), (_, old), (_, commit) = downloads(
        server.url, tmp_path, ("org/old", None), ("org/old", "v1"), ("org/old", OLD_COMMIT)
    )

    assert (Path(new).name, Path(old).name) == (COMMIT, OLD_COMMIT)
    assert commit == old
    assert files_in(old) == ["config.json"]
    assert (Path(old) / "config.json").read_bytes() == b"old"


def test_a_wrong_token_is_told_from_a_missing_one(server: HubServer, tmp_path: Path) -> None:
    found = downloads(server.url, tmp_path, ("org/private", None), ("org/gated", None), HF_TOKEN="open")
    file = downloads(server.url, tmp_path, ("org/stale-file", None), file="model.safetensors", HF_TOKEN="open")

    assert found == [
        [
            "error",
            "`model_id` org/private: no such local path, and no such repository on the hub "
            "(this `HF_TOKEN` may not see a private one)",
        ],
        [
            "error",
            "`model_id` org/gated: the repository is gated and the token's account has no access; accept its terms on "
            "the hub with that account, or set another `HF_TOKEN`",
        ],
    ]
    assert file == [["error", f"`model_id` org/stale-file: {WRONG_TOKEN}"]]


def test_one_file_can_be_read_alone(tmp_path: Path) -> None:
    with hub_server({"org/good": Repository(FILES)}) as server:
        ((kind, path),) = downloads(server.url, tmp_path, ("org/good", None), file="config.json")
        fetched = {request.partition(" ")[2] for request in server.requests if " org/good/" in request}
        offline = downloads(server.url, tmp_path, ("org/good", None), file="config.json", HF_HUB_OFFLINE="1")
        absent = downloads(server.url, tmp_path, ("org/good", None), ("org/good", "v9"), file="none.json")

    assert (kind, Path(path).read_bytes()) == ("path", FILES["config.json"])
    assert fetched == {"org/good/resolve/main/config.json"}
    assert offline == [["path", path]]
    assert absent == [
        ["error", "`model_id` org/good: the repository has no file `none.json`"],
        ["error", "`model_id` org/good at revision v9: the repository has no such revision"],
    ]


def test_a_connection_that_is_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    """The client writes 10 MiB at a time, and resumes after what it has written."""
    weights = bytes(24 << 20)
    with hub_server({"org/cut": Repository({"model.safetensors": weights}, cuts={"model.safetensors": 2})}) as server:
        ((kind, path),) = downloads(server.url, tmp_path, ("org/cut", None))

    assert kind == "path"
    assert (Path(path) / "model.safetensors").read_bytes() == weights
    assert server.ranges == [f"bytes={10 << 20}-"] * 2


def test_a_busy_hub_is_asked_again(tmp_path: Path) -> None:
    tree = {f"{number}.json": b"{}" for number in range(3)}
    with hub_server({"org/busy": Repository(tree, others={"v1": (OLD_COMMIT, tree)}, busy=2)}) as server:
        ((kind, path),) = downloads(server.url, tmp_path, ("org/busy", OLD_COMMIT))

    assert kind == "path"
    assert files_in(path) == sorted(tree)


def test_after_a_failed_download_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    with hub_server({"org/model": Repository(FILES, broken=frozenset({"model.safetensors"}))}) as server:
        ((failed, _),) = downloads(server.url, tmp_path, ("org/model", None))
        ((offline, message),) = downloads(server.url, tmp_path, ("org/model", None), HF_HUB_OFFLINE="1")
    with hub_server({"org/model": Repository(FILES)}) as server:
        ((kind, path),) = downloads(server.url, tmp_path, ("org/model", None))
        fetched = [request for request in server.requests if request.startswith("GET org/")]

    assert (failed, offline, kind) == ("error", "error", "path")
    assert message == f"`model_id` org/model: {NOT_HERE} {NOT_REACHED}"
    assert fetched == [f"GET org/model/resolve/{COMMIT}/model.safetensors"]
    assert files_in(path) == WANTED


def test_what_killed_downloads_left_goes_when_nobody_writes_it(server: HubServer, tmp_path: Path) -> None:
    ((_, path),) = downloads(server.url, tmp_path, ("org/good", None))
    blobs = Path(path).parent.parent / "blobs"
    stale, alive = blobs / "a.1.incomplete", blobs / "b.2.incomplete"
    for file in (stale, alive):
        file.write_bytes(b"half")
    os.utime(stale, (0, 0))
    again = downloads(server.url, tmp_path, ("org/good", None))

    assert again == [["path", path]]
    assert (stale.exists(), alive.exists()) == (False, True)
    assert files_in(path) == WANTED


def test_a_cache_that_cannot_be_written_has_its_line(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    ((kind, message),) = downloads(server.url, tmp_path, ("org/good", None), cache=f"{tmp_path}/in-the-way")

    assert kind == "error"
    assert re.fullmatch("`model_id` org/good: the download failed: NotADirectoryError: .*in-the-way.*", message)


def test_the_command_line_shows_one_line_and_no_traceback(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{refused_port()}"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ranvier.launcher.main import ranvier; ranvier()",
            *("export", "--model-id", "org/model", str(tmp_path / "artifact")),
        ],
        env=environment(url, tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: `model_id` org/model: {NOT_HERE} {NOT_REACHED}\n"
    assert not (tmp_path / "artifact").exists()
