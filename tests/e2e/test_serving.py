"""The launcher's processes with a tiny random model: real text over real HTTP."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server import Server, serving, start

from tiny_checkpoints import TinyModel, write_checkpoint


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def checkpoint(directory: Path) -> str:
    write_checkpoint(directory / "checkpoint", TinyModel(max_positions=512))
    return str(directory / "checkpoint")


@pytest.fixture(scope="module", params=[(), ("--single-process",)], ids=["processes", "single process"])
def server(request: pytest.FixtureRequest, directory: Path, checkpoint: str) -> Iterator[Server]:
    with serving(
        directory, checkpoint, "--max-batch-size", "4", "--max-batch-prefill-tokens", "64", *request.param
    ) as s:
        yield s


def test_the_stream_joined_is_the_whole_text(server: Server) -> None:
    whole = server.generate("hello world", max_new_tokens=30, details=True)
    events = list(server.events("hello world", max_new_tokens=30))
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    visible = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
    assert visible == whole["generated_text"] == events[-1]["generated_text"]
    assert [event["token"] for event in events] == whole["details"]["tokens"]


def test_info_tells_the_limits(server: Server, checkpoint: str) -> None:
    info = httpx.get(f"{server.url}/info").json()
    assert info["model_id"] == checkpoint
    assert (info["max_total_tokens"], info["max_input_tokens"]) == (512, 511)


def test_many_clients_at_once_get_what_each_gets_alone(server: Server) -> None:
    prompts = [f"hello {number} " * (number + 1) for number in range(12)]
    parameters = [{"max_new_tokens": 20, "do_sample": number % 2 == 0, "seed": number} for number in range(12)]
    alone = [server.generate(p, **q)["generated_text"] for p, q in zip(prompts, parameters, strict=True)]
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = server.generate(prompts[number], **parameters[number])["generated_text"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(12)] == alone


def metric(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


def test_a_client_that_leaves_frees_its_slot(server: Server) -> None:
    before = metric(server, 'tgi_request_failure{err="dropped"}')
    for _ in range(6):  # more than there are slots
        events = server.events("hello", max_new_tokens=400)
        next(events)
        events.close()  # type: ignore[attr-defined]  # a generator
    assert server.generate("hello", max_new_tokens=2)
    deadline = 200
    while metric(server, 'tgi_request_failure{err="dropped"}') < before + 6 and deadline:
        deadline -= 1
        server.generate("hello", max_new_tokens=2)
    assert metric(server, 'tgi_request_failure{err="dropped"}') == before + 6
    assert metric(server, "tgi_batch_current_size") == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"not json", 400),
        (b'{"inputs": "\xff\xfe"}', 400),
        (b"{}", 422),
        (b'{"inputs": ""}', 422),
        (b'{"inputs": "a", "parameters": {"max_new_tokens": 0}}', 422),
        (b'{"inputs": "a", "parameters": {"max_new_tokens": 1000}}', 422),
        (json.dumps({"inputs": "hello " * 5000}).encode(), 422),
        (json.dumps({"inputs": "x" * 3_000_000}).encode(), 413),
        (b'{"deep": ' + b"[" * 100_000, 400),
    ],
)
def test_nonsense_is_answered_and_the_server_goes_on(server: Server, body: bytes, status: int) -> None:
    reply = httpx.post(f"{server.url}/generate", content=body, headers={"content-type": "application/json"}, timeout=60)
    assert reply.status_code == status, reply.text
    assert server.generate("hello", max_new_tokens=1)


def test_sigterm_lets_requests_in_flight_finish_and_refuses_new_ones(directory: Path, checkpoint: str) -> None:
    with serving(directory, checkpoint, "--max-batch-size", "2") as server:
        events = server.events("hello", max_new_tokens=450)
        first = next(events)
        server.process.terminate()
        server.wait_until(is_healthy=False)
        refused = httpx.post(f"{server.url}/generate", json={"inputs": "hello"})
        rest = list(events)
        assert refused.status_code == 503
        assert refused.json()["error_type"] == "healthcheck"
        assert len([first, *rest]) == 450 and rest[-1]["generated_text"] is not None
        assert server.process.wait(30) == 0


def test_the_port_is_closed_until_the_engine_is_warm(directory: Path, checkpoint: str) -> None:
    """Whatever answers first is a healthy answer: there is no 503 while loading."""
    server = start(directory, checkpoint)
    try:
        while True:
            try:
                reply = httpx.get(f"{server.url}/health")
                break
            except httpx.ConnectError:
                assert server.process.poll() is None, server.log
        assert reply.status_code == 200
    finally:
        assert server.stop() == 0


def test_an_engine_that_dies_fails_its_requests_once_and_comes_back(directory: Path, checkpoint: str) -> None:
    with serving(directory, checkpoint, "--max-batch-size", "2") as server:
        events = server.events("hello", max_new_tokens=450)
        next(events)
        engine = server.children()["engine"]
        os.kill(engine, signal.SIGKILL)
        last = list(events)[-1]
        assert last == {
            "error": "Request failed during generation: Server error: the engine process died; "
            "the request can be sent again",
            "error_type": "generation",
        }
        server.wait_until(is_healthy=False)
        server.wait_until(is_healthy=True)
        assert server.children()["engine"] != engine
        assert server.generate("hello", max_new_tokens=3)


def test_a_router_that_dies_ends_the_launcher(directory: Path, checkpoint: str) -> None:
    with serving(directory, checkpoint) as server:
        children = server.children()
        os.kill(children["router"], signal.SIGKILL)
        assert server.process.wait(30) == 1
        assert not Path(f"/proc/{children['engine']}").exists()


def test_a_killed_launcher_leaves_nobody_behind(directory: Path, checkpoint: str) -> None:
    with serving(directory, checkpoint) as server:
        children = server.children()
        server.process.kill()
        server.process.wait(10)
        deadline = 1000
        while any(_is_running(pid) for pid in children.values()) and deadline:
            deadline -= 1
            threading.Event().wait(0.01)
        assert not any(_is_running(pid) for pid in children.values())


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
