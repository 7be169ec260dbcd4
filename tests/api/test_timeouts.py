"""Slow and oversized requests: what a connection may hold, on a clock that jumps; and once more over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from http_peer import Peer
from virtual_time import run_in_virtual_time

from http_driver import LiveServer, live_server
from ranvier.compose.http_protocol import ConnectionLimits, LimitedHttpProtocol
from ranvier.service import GenerationService
from serving import END, PlayingEngine, make_service

LIMITS = ConnectionLimits(header_s=10, body_s=20, idle_s=50, send_s=30, header_bytes=1000)
HEAD = b"POST / HTTP/1.1\r\nHost: r\r\n"
LENGTH_9 = HEAD + b"Content-Length: 9\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: r\r\n\r\n"
LATE_HEADER = "408 The request's header was not complete after 10 seconds"
LATE_BODY = "408 The request's body stopped for 20 seconds"
TOO_LARGE = "431 The request's header is larger than 1000 bytes"


def play(scene: Callable[[Peer], Any], limits: ConnectionLimits = LIMITS) -> Any:
    """The result of a coroutine over one connection, in virtual time."""

    async def main() -> Any:
        return await scene(Peer(limits))

    return run_in_virtual_time(main())


# The header


def test_a_connection_that_never_says_anything_is_closed_without_a_word() -> None:
    async def scene(peer: Peer) -> None:
        assert await peer.closed_at() == 10
        assert peer.replies == []

    play(scene)


@pytest.mark.parametrize("part", [b"P", b"POST", b"POST / HT", HEAD, LENGTH_9[:-2], LENGTH_9[:-1]])
def test_a_header_that_does_not_become_complete_is_a_408(part: bytes) -> None:
    async def scene(peer: Peer) -> None:
        await asyncio.sleep(3)
        await peer.send(part)
        assert await peer.closed_at() == 13
        assert peer.replies == [LATE_HEADER]
        assert peer.messages == []

    play(scene)


def test_a_header_that_trickles_in_gets_no_more_time() -> None:
    async def scene(peer: Peer) -> None:
        await peer.trickle(HEAD + b"X-Long: " + b"x" * 100, every_s=1)
        assert await peer.closed_at() == 10
        assert peer.replies == [LATE_HEADER]

    play(scene)


def test_empty_lines_before_a_request_give_no_more_time() -> None:
    """The parser skips them."""

    async def scene(peer: Peer) -> None:
        await peer.trickle(b"\r\n" * 100, every_s=1)
        assert await peer.closed_at() == 10

    play(scene)


def test_a_408_is_plain_text_and_closes() -> None:
    async def scene(peer: Peer) -> bytes:
        peer.protocol.server_state.default_headers = [(b"date", b"today")]
        await peer.send(HEAD)
        await peer.closed_at()
        return b"".join(data for _, data in peer.transport.written)

    assert play(scene) == (
        b"HTTP/1.1 408 Request Timeout\r\ndate: today\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: 54\r\nconnection: close\r\n\r\nThe request's header was not complete after 10 seconds"
    )


# The size of the header


@pytest.mark.parametrize("step", [1, 7, 100, 2000])
@pytest.mark.parametrize(("size", "reply"), [(950, "200 OK"), (1050, TOO_LARGE)])
def test_a_header_is_measured_however_it_is_cut(step: int, size: int, reply: str) -> None:
    async def scene(peer: Peer) -> None:
        data = (b"GET / HTTP/1.1\r\nX: ").ljust(size - 4, b"x") + b"\r\n\r\n"
        for start in range(0, size, step):
            if not peer.transport.is_closing():
                await peer.send(data[start : start + step])
        assert peer.replies == [reply]

    play(scene)


@pytest.mark.parametrize("start", [b"GET /", HEAD + b"X: ", HEAD, HEAD + b"X"])
def test_a_header_without_end_is_not_kept(start: bytes) -> None:
    """Neither a path, nor a value, nor a name, nor many small headers."""

    async def scene(peer: Peer) -> int:
        more = b"Y: y\r\n" if start == HEAD else b"y" * 6
        await peer.send(start)
        num_sent = 0
        while not peer.transport.is_closing():
            await peer.send(more)
            num_sent += len(more)
        assert peer.replies == [TOO_LARGE]
        assert await peer.closed_at() == 0
        return num_sent

    assert 1000 < play(scene) <= 1006


def test_a_large_header_behind_a_body_in_one_read_is_measured_alone() -> None:
    async def scene(peer: Peer) -> None:
        await peer.send(HEAD + b"Content-Length: 5000\r\n\r\n" + b"b" * 5000 + HEAD)
        await peer.send(b"Content-Length: 0\r\n\r\n")
        assert peer.replies == ["200 OK", "200 OK"]

    play(scene)


def test_trailers_without_end_are_not_kept() -> None:
    async def scene(peer: Peer) -> None:
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        while not peer.transport.is_closing():
            await peer.send(b"Y: y\r\n")
        assert peer.replies == [TOO_LARGE]
        assert peer.messages == ["0 http.request", "0 http.disconnect"]

    play(scene)


# The body


def test_a_body_that_stops_is_a_408_and_the_handler_finds_that_its_client_has_left() -> None:
    async def scene(peer: Peer) -> None:
        await peer.send(LENGTH_9 + b"12345")
        assert await peer.closed_at() == 20
        assert peer.replies == [LATE_BODY]
        assert peer.messages == ["0 http.request", "20 http.disconnect"]

    play(scene)


def test_a_body_that_never_begins_is_a_408() -> None:
    async def scene(peer: Peer) -> None:
        await asyncio.sleep(5)
        await peer.send(LENGTH_9)
        assert await peer.closed_at() == 25
        assert peer.replies == [LATE_BODY]

    play(scene)


def test_a_slow_body_that_goes_on_is_taken() -> None:
    async def scene(peer: Peer) -> None:
        await peer.send(LENGTH_9)
        await peer.trickle(b"123456789", every_s=19)
        assert peer.replies == ["200 OK"]
        assert peer.messages[-1] == "152 http.request"

    play(scene)


def test_a_large_body_is_taken_whatever_the_limit_of_headers() -> None:
    async def scene(peer: Peer) -> None:
        await peer.send(HEAD + b"Content-Length: 100000\r\n\r\n")
        for _ in range(100):
            await peer.send(b"b" * 1000)
        assert peer.replies == ["200 OK"]

    play(scene)


def test_the_time_of_a_body_does_not_run_while_the_server_does_not_read() -> None:
    """The handler is busy with something else and the buffer is full."""

    async def scene(peer: Peer) -> None:
        peer.reads_body, peer.reply_after_s = False, 99.0
        await peer.send(HEAD + b"Content-Length: 100000\r\n\r\n" + b"b" * 70_000)
        assert peer.transport.is_reading_paused
        await asyncio.sleep(98)
        assert peer.replies == []
        await asyncio.sleep(2)
        assert peer.replies == ["200 OK"]

    play(scene)


def test_the_rest_of_a_body_whose_reply_was_early_has_its_time_too_but_no_second_reply() -> None:
    async def scene(peer: Peer) -> None:
        peer.reads_body = False
        await peer.send(LENGTH_9 + b"123")
        assert peer.replies == ["200 OK"]
        await asyncio.sleep(15)
        await peer.send(b"456")
        assert await peer.closed_at() == 35
        assert peer.replies == ["200 OK"]

    play(scene)


def test_after_the_rest_of_such_a_body_the_connection_is_used_again() -> None:
    async def scene(peer: Peer) -> None:
        peer.reads_body = False
        await peer.send(LENGTH_9 + b"123")
        await peer.send(b"456789" + GET)
        assert peer.replies == ["200 OK", "200 OK"]
        assert await peer.closed_at() == 50

    play(scene)


# Between requests, and during replies


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def scene(peer: Peer) -> None:
        await peer.send(GET)
        await asyncio.sleep(49)
        await peer.send(GET)
        assert await peer.closed_at() == 99
        assert peer.replies == ["200 OK", "200 OK"]

    play(scene)


def test_empty_lines_between_requests_do_not_keep_a_connection_open() -> None:
    """A regression: uvicorn's own timer stops at any byte."""

    async def scene(peer: Peer) -> None:
        await peer.send(GET)
        await peer.trickle(b"\r\n" * 100, every_s=3)
        assert await peer.closed_at() == 50

    play(scene)


def test_a_second_header_has_its_own_time() -> None:
    async def scene(peer: Peer) -> None:
        await peer.send(GET)
        await asyncio.sleep(45)
        await peer.send(HEAD)
        assert await peer.closed_at() == 55
        assert peer.replies == ["200 OK", LATE_HEADER]

    play(scene)


def test_a_reply_may_take_as_long_as_it_likes() -> None:
    async def scene(peer: Peer) -> None:
        peer.reply_after_s = 900.0
        await peer.send(GET)
        await asyncio.sleep(900.5)
        assert peer.replies == ["200 OK"]
        assert await peer.closed_at() == 950

    play(scene)


@pytest.mark.parametrize("start", [HEAD, LENGTH_9 + b"123"])
def test_a_request_that_stops_behind_a_reply_under_way_waits_for_that_reply(start: bytes) -> None:
    """Its 408 may not stand in the middle of the other's body."""

    async def scene(peer: Peer) -> None:
        peer.reply_after_s = 95.0
        await peer.send(GET + start)
        closed_at = await peer.closed_at()
        assert closed_at is not None
        assert closed_at >= 105
        assert peer.replies == ["200 OK", LATE_HEADER if start == HEAD else LATE_BODY]

    play(scene)


def test_a_timer_is_not_moved_by_each_part_of_a_body() -> None:
    """Only looked at when it fires: a body costs no more timers than its time-outs."""

    async def scene(peer: Peer) -> None:
        await peer.send(HEAD + b"Content-Length: 1000\r\n\r\n")
        timer = peer.protocol._timer
        for _ in range(900):
            await peer.send(b"b")
        assert peer.protocol._timer is timer
        assert await peer.closed_at() == 20

    play(scene)


# A client that does not take what it is sent


def test_a_client_that_takes_nothing_is_cut_off() -> None:
    async def scene(peer: Peer) -> None:
        peer.reply_after_s = 1000
        await peer.send(GET)
        await asyncio.sleep(100)
        peer.transport.num_unsent = 5000
        peer.protocol.pause_writing()
        await asyncio.sleep(29)
        assert not peer.transport.is_closing()
        await asyncio.sleep(1)
        assert peer.transport.closed_at == 130
        await asyncio.sleep(1000)

    play(scene)


def test_a_client_that_takes_a_little_now_and_then_is_served_on() -> None:
    async def scene(peer: Peer) -> None:
        peer.reply_after_s = 1000
        await peer.send(GET)
        peer.transport.num_unsent = 5000
        peer.protocol.pause_writing()
        for _ in range(10):
            await asyncio.sleep(29)
            peer.transport.num_unsent -= 1
        assert not peer.transport.is_closing()
        peer.protocol.resume_writing()
        await asyncio.sleep(711)
        assert peer.replies == ["200 OK"]
        assert not peer.transport.is_closing()
        assert await peer.closed_at() == 1050

    play(scene)


@pytest.mark.parametrize("header", [b"Upgrade: h2c", b"upgrade: websocket", b"UPGRADE:h2c"])
def test_a_request_that_asks_for_an_upgrade_keeps_its_body(header: bytes) -> None:
    """A regression: `curl --http2` sends such a header, and the parser then took the body for another protocol's."""

    async def scene(peer: Peer) -> None:
        await peer.send(HEAD + header + b"\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok")
        assert peer.replies == ["200 OK"]
        assert len(peer.messages) == 1

    play(scene)


def test_the_defaults() -> None:
    assert LimitedHttpProtocol.limits == ConnectionLimits(
        header_s=30, body_s=30, idle_s=75, send_s=60, header_bytes=65_536
    )


# Over a socket


@pytest.fixture
def server() -> Iterator[LiveServer]:
    @asynccontextmanager
    async def service() -> AsyncIterator[GenerationService]:
        yield make_service(PlayingEngine([97, END]))

    limits = ConnectionLimits(header_s=0.05, body_s=0.05, idle_s=0.05, header_bytes=2000)
    with live_server(service, limits=limits) as live:
        yield live


def test_slow_requests_over_a_socket(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    for data, text in [
        (HEAD, b"The request's header was not complete after 0.05 seconds"),
        (
            b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
            b"The request's body stopped for 0.05 seconds",
        ),
    ]:
        with server.connect() as connection:
            connection.send(data)
            reply = connection.reply()
            assert (reply.status_line, reply.body) == ("HTTP/1.1 408 Request Timeout", text)
            assert reply.header("date")
            assert connection.is_closed()
    assert server.service.metrics.render() == ""
    assert caplog.records == []


def test_an_idle_connection_over_a_socket(server: LiveServer) -> None:
    with server.connect() as connection:
        connection.get("/health")
        assert connection.reply().status_line == "HTTP/1.1 200 OK"
        assert connection.is_closed()


def test_a_large_header_over_a_socket(server: LiveServer) -> None:
    with server.connect() as connection:
        connection.send(b"GET /health HTTP/1.1\r\nHost: r\r\nX: " + b"x" * 2000 + b"\r\n\r\n")
        reply = connection.reply()
        assert reply.status_line == "HTTP/1.1 431 Request Header Fields Too Large"
        assert connection.is_closed()
