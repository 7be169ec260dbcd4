"""The same server over a real connection: bytes on the wire, reuse, limits, clients that leave."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from http_driver import OPTIONS, Connection, LiveServer, events_of, live_server
from ranvier.service import GenerationService
from serving import HandEngine, make_service, scripted_service

NERVE = {"inputs": "nerve", "parameters": {"max_new_tokens": 3, "top_k": 1, "seed": 0}}
STREAMED = (
    b'data: {"index":1,"token":{"id":49,"text":"1","logprob":0.0,"special":false},'
    b'"generated_text":null,"details":null}\n\n',
    b'data: {"index":2,"token":{"id":124,"text":"|","logprob":0.0,"special":false},'
    b'"generated_text":null,"details":null}\n\n',
    b'data: {"index":3,"token":{"id":61,"text":"=","logprob":0.0,"special":false},'
    b'"generated_text":"1|=","details":null}\n\n',
)
WAIT_S = 20.0
"""Only a broken server makes a test wait this long."""


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """Over the scripted target, with bodies up to 1000 bytes."""
    with live_server(scripted_service, replace(OPTIONS, payload_limit=1000)) as live:
        yield live


@pytest.fixture
def connection(server: LiveServer) -> Iterator[Connection]:
    with server.connect() as each:
        yield each


def test_a_stream_on_the_wire(connection: Connection) -> None:
    connection.post("/generate_stream", NERVE)
    reply = connection.reply()
    assert reply.status_line == "HTTP/1.1 200 OK"
    assert reply.body == b"".join(STREAMED)
    headers = dict(reply.headers)
    assert headers.pop("date")
    headers.pop("vary")
    assert headers == {
        "content-type": "text/event-stream",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-compute-type": "cpu",
        "x-compute-characters": "5",
        "transfer-encoding": "chunked",
    }


def test_each_event_is_a_chunk_of_its_own_so_that_none_waits_for_the_next(connection: Connection) -> None:
    connection.post("/generate_stream", NERVE)
    assert connection.reply().chunks == list(STREAMED)


def test_a_whole_reply_on_the_wire(connection: Connection) -> None:
    connection.post("/generate", NERVE)
    reply = connection.reply()
    assert (reply.status_line, reply.body) == ("HTTP/1.1 200 OK", b'{"generated_text":"1|="}')
    assert reply.header("content-length") == "24"
    assert reply.header("transfer-encoding") is None
    assert reply.header("server") is None


def test_a_connection_is_used_again_after_every_kind_of_reply(connection: Connection) -> None:
    """Mistakes, too, leave the connection open and in step."""
    statuses = []
    for path, body in [
        ("/generate", NERVE),
        ("/generate_stream", NERVE),
        ("/generate", {"inputs": ""}),
        ("/generate", {}),
        ("/generate", b"{"),
        ("/unknown", {}),
        ("/health", {}),
        ("/", NERVE),
    ]:
        connection.post(path, body)
        statuses.append(connection.reply().status_line.split()[1])
    assert statuses == ["200", "200", "422", "422", "400", "404", "405", "200"]


def test_requests_sent_without_waiting_are_answered_in_order(connection: Connection) -> None:
    connection.post("/generate", NERVE)
    connection.get("/health")
    connection.post("/generate_stream", NERVE)
    bodies = [connection.reply().body for _ in range(3)]
    assert bodies == [b'{"generated_text":"1|="}', b"", b"".join(STREAMED)]


def test_a_body_in_chunks_is_taken(connection: Connection) -> None:
    data = json.dumps(NERVE).encode()
    connection.send(b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\n")
    connection.send(b"Transfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(data), 7):
        part = data[start : start + 7]
        connection.send(b"%x\r\n%b\r\n" % (len(part), part))
    connection.send(b"0\r\n\r\n")
    assert connection.reply().body == b'{"generated_text":"1|="}'


def assert_too_long(connection: Connection) -> None:
    reply = connection.reply()
    assert reply.status_line.split()[1] == "413"
    assert reply.header("content-type") == "text/plain; charset=utf-8"
    assert reply.body == b"Failed to buffer the request body: length limit exceeded"


def test_a_declared_length_over_the_limit_is_refused_before_the_body_is_sent(connection: Connection) -> None:
    connection.send(b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\n")
    connection.send(b"Content-Length: 1001\r\n\r\n")
    assert_too_long(connection)


def test_chunks_over_the_limit_are_refused_before_their_end(connection: Connection) -> None:
    connection.send(b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\n")
    connection.send(b"Transfer-Encoding: chunked\r\n\r\n")
    connection.send(b"1f4\r\n%b\r\n" % (b" " * 500) * 2 + b"1\r\n \r\n")
    assert_too_long(connection)


def test_an_empty_reply_has_no_type(connection: Connection) -> None:
    connection.send(b"PUT /generate HTTP/1.1\r\nHost: r\r\n\r\n")
    reply = connection.reply()
    assert (reply.status_line.split()[1], reply.body, reply.header("allow")) == ("405", b"", "POST")
    assert reply.header("content-type") is None
    connection.get("/unknown")
    reply = connection.reply()
    assert (reply.status_line.split()[1], reply.body, reply.header("content-length")) == ("404", b"", "0")
    assert reply.header("content-type") is None


def test_many_streams_at_once_get_each_their_own_text(server: LiveServer) -> None:
    """12 streams in 4 slots; every prompt says something else."""
    prompts = [f"nerve {number}" for number in range(12)]

    def body(prompt: str) -> dict[str, Any]:
        return {"inputs": prompt, "parameters": {"max_new_tokens": 20}}

    connections = [server.connect() for _ in prompts]
    for each, prompt in zip(connections, prompts, strict=True):
        each.post("/generate_stream", body(prompt))
    texts = [events_of(each.reply().body.decode())[-1]["generated_text"] for each in connections]
    assert len(set(texts)) == len(prompts)
    for each, prompt, text in zip(connections, prompts, texts, strict=True):
        each.post("/generate", body(prompt))
        assert json.loads(each.reply().body)["generated_text"] == text
        each.close()


class Hand:
    """A live server whose engine the test plays from outside its thread."""

    def __init__(self) -> None:
        self.engine = HandEngine()
        self.was_submitted = threading.Semaphore(0)
        self.was_cancelled = threading.Event()
        self.engine.on_submit = self.was_submitted.release
        self.engine.on_cancel = self.was_cancelled.set

    def make(self) -> Callable[[], AbstractAsyncContextManager[GenerationService]]:
        @asynccontextmanager
        async def service() -> AsyncIterator[GenerationService]:
            yield make_service(self.engine)

        return service


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def played(hand: Hand) -> Iterator[LiveServer]:
    """With a comment after each 20 ms without an event."""
    with live_server(hand.make(), replace(OPTIONS, keep_alive_s=0.02)) as live:
        yield live


def settled(played: LiveServer) -> tuple[int, float]:
    """Permits taken and clients that left, once the loop has had its turn."""
    service = played.service
    return played.run(lambda: (service.num_in_flight, service.metrics.request_failure.value(err="dropped")))


def wait_until_free(played: LiveServer) -> tuple[int, float]:
    """The same after the application has let go of the request."""

    async def free() -> None:
        while played.service.num_in_flight:
            await asyncio.sleep(0)

    played.await_(free())
    return settled(played)


def test_comments_keep_an_idle_stream_open(hand: Hand, played: LiveServer) -> None:
    with played.connect() as connection:
        connection.post("/generate_stream", {"inputs": "a", "parameters": {}})
        assert hand.was_submitted.acquire(timeout=WAIT_S)
        assert connection.head().status_line == "HTTP/1.1 200 OK"
        assert [connection.chunk() for _ in range(2)] == [b":\n\n"] * 2
        played.run(lambda: hand.engine.say(0, "x"))
        frames = [connection.chunk()]
        while frames[-1] == b":\n\n":
            frames.append(connection.chunk())
        played.run(lambda: hand.engine.end(0))
        frames += list(iter(connection.chunk, b""))
        events = [frame for frame in frames if frame != b":\n\n"]
        assert [json.loads(event[6:])["token"]["text"] for event in events] == ["x", "<|end|>"]


def test_a_client_who_closes_a_stream_frees_the_slot(hand: Hand, played: LiveServer) -> None:
    with played.connect() as connection:
        connection.post("/generate_stream", {"inputs": "a", "parameters": {}})
        assert hand.was_submitted.acquire(timeout=WAIT_S)
        assert settled(played) == (1, 0)
        played.run(lambda: hand.engine.say(0, "x"))
        assert connection.head().status_line == "HTTP/1.1 200 OK"
    assert hand.was_cancelled.wait(WAIT_S)
    assert hand.engine.cancelled == [hand.engine.requests[0].request_id]
    assert wait_until_free(played) == (0, 1)


@pytest.mark.parametrize("path", ["/generate", "/"])
def test_a_client_who_closes_before_the_reply_frees_the_slot(hand: Hand, played: LiveServer, path: str) -> None:
    with played.connect() as connection:
        connection.post(path, {"inputs": "a", "parameters": {}})
        assert hand.was_submitted.acquire(timeout=WAIT_S)
        assert settled(played) == (1, 0)
    assert hand.was_cancelled.wait(WAIT_S)
    assert wait_until_free(played) == (0, 1)


def test_clients_who_leave_make_no_noise(hand: Hand, played: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a body that is not finished nor a reply that nobody reads is an error of the server."""
    caplog.set_level(logging.INFO)
    with played.connect() as connection:
        connection.send(b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\n")
        connection.send(b"Content-Length: 100\r\n\r\n{")
    with played.connect() as connection:
        connection.post("/generate_stream", {"inputs": "a", "parameters": {}})
        assert hand.was_submitted.acquire(timeout=WAIT_S)
    assert hand.was_cancelled.wait(WAIT_S)
    assert wait_until_free(played) == (0, 1)
    with played.connect() as connection:
        connection.get("/health")
        assert connection.reply().status_line == "HTTP/1.1 200 OK"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_stream_in_flight_goes_on_to_its_end_while_the_server_drains(hand: Hand, played: LiveServer) -> None:
    with played.connect() as stream, played.connect() as other:
        stream.post("/generate_stream", {"inputs": "a", "parameters": {}})
        assert hand.was_submitted.acquire(timeout=WAIT_S)
        played.run(played.service.drain)
        other.post("/generate", {"inputs": "a"})
        assert other.reply().status_line.split()[1] == "503"
        other.get("/health")
        assert other.reply().status_line.split()[1] == "503"
        played.run(lambda: hand.engine.say(0, "ok"))
        played.run(lambda: hand.engine.end(0))
        body = stream.reply().body.replace(b":\n\n", b"")
        assert events_of(body.decode())[-1]["generated_text"] == "ok"
    assert wait_until_free(played) == (0, 0)
