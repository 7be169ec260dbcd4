"""The router's end of the socket: an engine that dies, comes back, or talks nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from bare_ends import BareConnection, BareEngine, bare_pair
from ipc_helpers import Gated, ServedEngine, Sink, guarded, make_info, make_limits, make_stats, run_async, until

from ranvier.core import Event, FailEvent, FinishEvent, StartEvent, StepStats, TokenEvent
from ranvier.errors import UnhealthyError
from ranvier.ipc import RemoteEngineClient
from ranvier.ipc.messages import LENGTH_BYTES, MAX_FRAME_BYTES, Cancel, Lost, frame, step_frame, submit_frame
from scripted_requests import make_request

DIED = "the engine process died; the request can be sent again"
P, P_TOKENS = [5, 6, 7], [55, 34, 49, 15]

Test: TypeAlias = Callable[[BareEngine, BareConnection, RemoteEngineClient], Coroutine[Any, Any, None]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


def with_bare_engine(path: Path, test: Test) -> None:
    async def main() -> None:
        async with bare_pair(path, ignore) as (engine, connection, client):
            await test(engine, connection, client)

    run_async(main())


def ignore(stats: object) -> None:
    """For tests that do not look at figures."""


def submit(client: RemoteEngineClient, request_id: str) -> Sink:
    sink = Sink()
    client.submit(make_request(request_id, P), sink)
    return sink


async def assert_serves(client: RemoteEngineClient, connection: BareConnection, request_id: str) -> None:
    """A request goes to the engine and its end comes back."""
    sink = submit(client, request_id)
    assert await connection.heard() == submit_frame(make_request(request_id, P))
    await connection.say(step_frame([FinishEvent(request_id, "length")], None))
    assert await sink.to_end() == [FinishEvent(request_id, "length")]


# Connecting


def test_connect_waits_until_the_engine_listens_and_says_hello(path: Path) -> None:
    async def main() -> None:
        connecting = asyncio.ensure_future(RemoteEngineClient.connect(path, ignore))
        # Three turns: by then the first try has failed.
        for _ in range(3):
            await asyncio.sleep(0)
        engine = BareEngine(path)
        connection = await engine.accept()
        assert not connecting.done()
        await connection.send(frame(step_frame([], None)))
        await connection.welcome()
        client = await guarded(connecting)
        assert client.is_healthy
        assert client.num_connections == 1
        await client.close()
        connection.close()
        engine.close()

    run_async(main())


def test_connect_waits_out_whatever_keeps_the_path_from_being_opened(path: Path) -> None:
    """Of all errors only two were retried; any other ended the task, and `connect` waited for ever."""

    async def main() -> None:
        path.parent.joinpath("run").write_text("a file where the socket's directory will be")
        socket_path = path.parent / "run" / "engine.sock"
        connecting = asyncio.ensure_future(RemoteEngineClient.connect(socket_path, ignore))
        for _ in range(3):
            await asyncio.sleep(0)
        socket_path.parent.unlink()
        socket_path.parent.mkdir()
        engine = BareEngine(socket_path)
        connection = await engine.welcome()
        client = await guarded(connecting)
        await client.close()
        connection.close()
        engine.close()

    run_async(main())


def test_connect_outlives_an_engine_that_talks_nonsense_at_first(path: Path) -> None:
    """The task that connects ended with the decoder's error, and `connect` waited for ever."""

    async def main() -> None:
        engine = BareEngine(path)
        connecting = asyncio.ensure_future(RemoteEngineClient.connect(path, ignore))
        bad = await engine.accept()
        await bad.send(b"\x01\x00\x00\x00\xc1")
        good = await engine.welcome()
        client = await guarded(connecting)
        await assert_serves(client, good, "r")
        await client.close()
        for end in (bad, good, engine):
            end.close()

    run_async(main())


# Requests and events


def test_requests_and_cancels_go_to_the_engine_in_order(path: Path) -> None:
    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        submit(client, "a")
        client.cancel("a")
        submit(client, "b")
        assert [await connection.heard() for _ in range(3)] == [
            submit_frame(make_request("a", P)),
            Cancel("a"),
            submit_frame(make_request("b", P)),
        ]

    with_bare_engine(path, test)


def test_events_of_one_frame_go_to_their_requests_in_order(path: Path) -> None:
    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        a, b = submit(client, "a"), submit(client, "b")
        of_a: list[Event] = [StartEvent("a", 1.0, 0), TokenEvent("a", 1, -1.0, ()), FinishEvent("a", "eos_token")]
        of_b: list[Event] = [StartEvent("b", 1.0, 4), FailEvent("b", "why")]
        await connection.say(step_frame([*of_a, *of_b], None))
        assert (await a.to_end(), await b.to_end()) == (of_a, of_b)

    with_bare_engine(path, test)


def test_events_of_unknown_and_ended_requests_are_dropped(path: Path) -> None:
    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        sink = submit(client, "a")
        await connection.say(step_frame([TokenEvent("unknown", 1, 0.0, ()), FinishEvent("a", "length")], None))
        await connection.say(step_frame([TokenEvent("a", 1, 0.0, ()), FailEvent("a", "again")], None))
        assert await connection.heard() == submit_frame(make_request("a", P))
        await assert_serves(client, connection, "b")
        assert sink.events == [FinishEvent("a", "length")]

    with_bare_engine(path, test)


def test_figures_come_with_their_frame_and_only_if_there_are_any(path: Path) -> None:
    async def main() -> None:
        figures: asyncio.Queue[object] = asyncio.Queue()
        async with bare_pair(path, figures.put_nowait) as (_, connection, client):
            await connection.say(step_frame([], None))
            await connection.say(step_frame([], make_stats()))
            assert await guarded(figures.get()) == make_stats()
            assert client.is_healthy

    run_async(main())


# An engine that dies


def test_when_the_engine_dies_each_open_request_fails_once(path: Path) -> None:
    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        sinks = {name: submit(client, name) for name in ("a", "b", "c")}
        await connection.say(step_frame([TokenEvent("a", 1, 0.0, ()), FinishEvent("c", "length")], None))
        await sinks["c"].to_end()
        connection.close()
        assert await sinks["a"].to_end() == [TokenEvent("a", 1, 0.0, ()), FailEvent("a", DIED)]
        assert await sinks["b"].to_end() == [FailEvent("b", DIED)]
        assert sinks["c"].events == [FinishEvent("c", "length")]

    with_bare_engine(path, test)


def test_without_an_engine_requests_are_refused_and_cancels_ignored(path: Path) -> None:
    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        sink = submit(client, "a")
        connection.close()
        await sink.to_end()
        assert not client.is_healthy
        with pytest.raises(UnhealthyError, match="^unhealthy$"):
            submit(client, "b")
        client.cancel("a")
        assert sink.num_ends == 1

    with_bare_engine(path, test)


def test_the_client_reconnects_to_a_new_engine_on_the_same_path(path: Path) -> None:
    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        sink = submit(client, "a")
        engine.close()
        connection.close()
        await sink.to_end()
        path.unlink()
        info = replace(make_info("newer"), limits=make_limits(batch_size=9))
        newer = BareEngine(path)
        second = await newer.welcome(info)
        await until(lambda: client.is_healthy)
        assert (client.info, client.num_connections) == (info, 2)
        await assert_serves(client, second, "b")
        assert sink.events == [FailEvent("a", DIED)]
        second.close()
        newer.close()

    with_bare_engine(path, test)


@pytest.mark.parametrize(
    "data",
    [
        (MAX_FRAME_BYTES + 1).to_bytes(LENGTH_BYTES, "little"),
        b"\x03\x00\x00\x00\xc1\xc1\xc1",
        frame(Cancel("not an engine's word")),
        b"\x00\x00\x00\x00",
        b"\x08\x00\x00\x00\x92\xa4lost\xa1\xff",
    ],
    ids=["oversize", "garbage", "a router's message", "empty", "not utf-8"],
)
def test_an_engine_that_talks_nonsense_counts_as_dead(path: Path, data: bytes) -> None:
    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        sink = submit(client, "a")
        await connection.send(data)
        assert await sink.to_end() == [FailEvent("a", DIED)]
        second = await engine.welcome()
        await until(lambda: client.is_healthy)
        await assert_serves(client, second, "b")
        second.close()

    with_bare_engine(path, test)


def test_the_reason_of_an_engine_that_gives_up_is_passed_on(path: Path) -> None:
    """It counted as healthy until its socket closed."""

    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        sink = submit(client, "a")
        await connection.say(Lost("the chip is on fire"))
        assert await sink.to_end() == [FailEvent("a", "the chip is on fire")]
        assert not client.is_healthy
        with pytest.raises(UnhealthyError, match="^unhealthy$"):
            submit(client, "b")
        connection.close()
        second = await engine.welcome()
        await until(lambda: client.is_healthy)
        assert sink.num_ends == 1
        second.close()

    with_bare_engine(path, test)


# Closing


def test_close_fails_open_requests_with_the_servers_reason(path: Path) -> None:
    """The reason was that of a dead engine."""

    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        sink = submit(client, "a")
        await client.close()
        assert sink.events == [FailEvent("a", "the server was stopped")]
        assert not client.is_healthy

    with_bare_engine(path, test)


def test_close_without_an_engine_ends_the_search_for_one(path: Path) -> None:
    async def test(engine: BareEngine, connection: BareConnection, client: RemoteEngineClient) -> None:
        sink = submit(client, "a")
        engine.close()
        connection.close()
        await sink.to_end()
        await guarded(client.close())
        assert not client.is_healthy

    with_bare_engine(path, test)


# Both real ends


def test_a_request_is_served_by_the_engine_that_replaces_a_lost_one(path: Path) -> None:
    async def main() -> None:
        programs = Gated(make_limits())
        programs.is_open = False
        first = ServedEngine(path, programs, make_limits())
        client = await guarded(RemoteEngineClient.connect(path, ignore))
        sink = Sink()
        client.submit(make_request("a", P, 4000), sink)
        programs.permit()
        await until(lambda: bool(sink.tokens))
        stopping = asyncio.ensure_future(asyncio.to_thread(first.stop))
        assert (await sink.to_end())[-1] == FailEvent("a", "the test is over")
        programs.open()
        await guarded(stopping)
        path.unlink()
        second = ServedEngine(path, Gated(make_limits()), make_limits())
        await until(lambda: client.num_connections == 2)
        after = Sink()
        client.submit(make_request("b", P, 4), after)
        await after.to_end()
        assert after.tokens == P_TOKENS
        assert sink.num_ends == 1
        await client.close()
        second.stop()

    run_async(main())


def test_an_engine_whose_router_went_away_cancels_its_requests_and_serves_the_next(path: Path) -> None:
    async def main() -> None:
        limits = make_limits(batch_size=1)
        programs = Gated(limits)
        programs.is_open = False
        engine = ServedEngine(path, programs, limits)
        first = await guarded(RemoteEngineClient.connect(path, ignore))
        sink = Sink()
        first.submit(make_request("long", P, 4000), sink)
        programs.permit()
        await until(lambda: bool(sink.tokens))
        await first.close()
        figures: list[StepStats] = []
        second = await guarded(RemoteEngineClient.connect(path, figures.append))
        after = Sink()
        second.submit(make_request("b", P, 4), after)
        programs.open()
        await after.to_end()
        assert after.tokens == P_TOKENS
        # The step that `long` was in, and the four of `b`.
        await until(lambda: sum(stats.is_step for stats in figures) == 5)
        await second.close()
        engine.stop()

    run_async(main())
