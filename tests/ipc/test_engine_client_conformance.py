"""What every `EngineClient` does, whether its engine is a thread of this process or behind a socket.

The scripted target's tokens, vocabulary 100: [5, 6, 7] gives 55, 34, 49, 15 (see `tests/engine/test_engine.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from ipc_helpers import (
    FAULT,
    Gated,
    OpenClient,
    Sink,
    guarded,
    make_info,
    make_limits,
    open_local,
    open_remote,
    run_async,
    until,
)

from ranvier.core import (
    EngineClient,
    FailEvent,
    FinishEvent,
    StartEvent,
    StepStats,
    TokenEvent,
    is_terminal,
)
from ranvier.engine import Engine
from ranvier.errors import UnhealthyError
from scripted_requests import make_request, scripted_tokens

P, P_TOKENS = [5, 6, 7], [55, 34, 49, 15]


@dataclass
class Rig:
    """A client, the programs its engine runs, and the figures it has passed on."""

    client: EngineClient
    programs: Gated
    stats: list[StepStats] = field(default_factory=list)

    def submit(self, request_id: str, prompt_ids: list[int], max_new_tokens: int = 3, **more: Any) -> Sink:
        sink = Sink()
        self.client.submit(make_request(request_id, prompt_ids, max_new_tokens, **more), sink)
        return sink

    async def step_until(self, condition: Callable[[], bool]) -> None:
        """With a closed gate: step after step, each heard of before the next, until something holds."""
        while not condition():
            await self._step(condition)

    async def _step(self, condition: Callable[[], bool]) -> None:
        num_heard = len(self.stats)
        self.programs.permit()
        await until(lambda: len(self.stats) > num_heard or condition())


Conform: TypeAlias = Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[open_local, open_remote], ids=["local", "remote"])
def conform(request: pytest.FixtureRequest, tmp_path: Path) -> Conform:
    """Runs a test's coroutine with a rig."""
    open_client: OpenClient = request.param

    def run(test: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
        limits = make_limits()
        programs = Gated(limits)
        stats: list[StepStats] = []

        def opened() -> AbstractAsyncContextManager[EngineClient]:
            return open_client(tmp_path / "engine.sock", programs, limits, stats.append)

        async def main() -> None:
            async with opened() as client:
                await test(Rig(client, programs, stats))

        run_async(main())

    return run


def test_info_is_what_the_engine_says_of_itself(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        assert rig.client.info == make_info()
        assert rig.client.is_healthy

    conform(test)


def test_events_arrive_in_order(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        before_s = time.monotonic()
        events = await rig.submit("p", P, 4).to_end()
        start = events[0]
        assert isinstance(start, StartEvent)
        assert before_s <= start.at_s <= time.monotonic()
        assert [event.token_id for event in events[1:-1] if isinstance(event, TokenEvent)] == P_TOKENS
        assert len(events) == 6
        assert events[-1] == FinishEvent("p", "length")

    conform(test)


def test_the_events_are_those_of_a_bare_engine_to_the_bit(conform: Conform) -> None:
    request = make_request(
        "r", P, 8, [], do_sample=True, temperature=4.0, seed=2**64 - 1, top_n_tokens=3, repetition_penalty=1.2
    )

    async def test(rig: Rig) -> None:
        engine = Engine(Gated(make_limits()), make_limits())
        engine.submit(request)
        expected = [event for _ in range(8) for event in engine.step().events]
        sink = Sink()
        rig.client.submit(request, sink)
        assert (await sink.to_end())[1:] == expected[1:]

    conform(test)


def test_end_of_sequence_ids_reach_the_engine(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        events = await rig.submit("p", P, 4, eos=[34]).to_end()
        assert events[-1] == FinishEvent("p", "eos_token")

    conform(test)


def test_many_requests_at_once_each_get_their_own_tokens(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        prompts = [[n, n + 1, n * n % 100] for n in range(20, 70)]
        sinks = [rig.submit(str(n), prompt, 1 + n % 7) for n, prompt in enumerate(prompts)]
        for n, (sink, prompt) in enumerate(zip(sinks, prompts, strict=True)):
            events = await sink.to_end()
            assert sink.tokens == scripted_tokens(prompt, 1 + n % 7)
            assert {event.request_id for event in events} == {str(n)}
        starts = [sink.events[0] for sink in sinks]
        times_s = [start.at_s for start in starts if isinstance(start, StartEvent)]
        assert len(times_s) == 50
        assert times_s == sorted(times_s)
        assert all(sink.num_ends == 1 for sink in sinks)

    conform(test)


def test_figures_of_the_steps_are_passed_on(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        await rig.submit("p", P, 4).to_end()
        await until(lambda: len(rig.stats) == 4)
        assert [stats.num_prefill_tokens for stats in rig.stats] == [3, 0, 0, 0]
        assert [stats.num_decode_tokens for stats in rig.stats] == [0, 1, 1, 1]

    conform(test)


def test_a_sink_may_submit_the_next_request(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        following = Sink()

        def submit_next(event: object) -> None:
            if isinstance(event, FinishEvent):
                rig.client.submit(make_request("next", P, 1), following)

        rig.client.submit(make_request("first", P, 1), submit_next)
        await following.to_end()
        assert following.tokens == [55]

    conform(test)


# Cancelling


def test_a_running_request_that_is_cancelled_ends_once_and_says_nothing_more(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        rig.programs.is_open = False
        sink = rig.submit("p", P, 4000)
        await rig.step_until(lambda: len(sink.tokens) == 2)
        rig.client.cancel("p")
        await rig.step_until(lambda: sink.num_ends > 0)
        assert sink.events[-1] == FinishEvent("p", "cancelled")
        rig.programs.open()
        await rig.submit("later", P, 5).to_end()
        assert [is_terminal(event) for event in sink.events] == [False] * (len(sink.events) - 1) + [True]
        assert sink.tokens[:4] == P_TOKENS[: len(sink.tokens)]

    conform(test)


def test_a_waiting_request_that_is_cancelled_never_starts(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        rig.programs.is_open = False
        running = [rig.submit(str(n), [n], 4000) for n in range(4)]
        waiting = rig.submit("waiting", P)
        rig.client.cancel("waiting")
        await rig.step_until(lambda: waiting.num_ends > 0)
        assert waiting.events == [FinishEvent("waiting", "cancelled")]
        for n in range(4):
            rig.client.cancel(str(n))
        await rig.step_until(lambda: all(sink.num_ends for sink in running))
        assert [sink.events[-1] for sink in running] == [FinishEvent(str(n), "cancelled") for n in range(4)]

    conform(test)


def test_cancelling_unknown_and_ended_requests_is_ignored(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        rig.client.cancel("nobody")
        sink = rig.submit("p", P, 1)
        await sink.to_end()
        rig.client.cancel("p")
        await rig.submit("later", P, 1).to_end()
        assert sink.num_ends == 1
        assert rig.client.is_healthy

    conform(test)


# Failures


def test_a_request_that_does_not_fit_fails_with_the_reason(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        sink = rig.submit("long", P, 4094)
        message = "3 prompt and 4094 new tokens do not fit a slot of 4096"
        assert await sink.to_end() == [FailEvent("long", message)]

    conform(test)


def test_a_failing_step_fails_its_request_and_the_next_is_served(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        events = await rig.submit("bad", [FAULT]).to_end()
        assert events[-1] == FailEvent("bad", "the step that held this request failed on the device")
        sink = rig.submit("p", P, 4)
        await sink.to_end()
        assert sink.tokens == P_TOKENS
        assert rig.client.is_healthy

    conform(test)


def test_a_lost_device_fails_every_open_request_once_and_refuses_new_ones(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        for number in range(2):
            await rig.submit(str(number), [FAULT]).to_end()
        rig.programs.is_open = False
        sinks = [rig.submit(name, [FAULT]) for name in ("a", "b", "c", "d", "waiting")]
        rig.programs.open()
        for sink, name in zip(sinks, ("a", "b", "c", "d", "waiting"), strict=True):
            assert (await sink.to_end())[-1] == FailEvent(name, "3 steps in a row failed: scripted fault at token 1000")
            assert sink.num_ends == 1
        assert not rig.client.is_healthy
        with pytest.raises(UnhealthyError, match="^unhealthy$"):
            rig.submit("late", P)
        rig.client.cancel("a")

    conform(test)


# Closing


def test_close_fails_what_is_open_exactly_once(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        rig.programs.is_open = False
        sinks = [rig.submit(str(number), P, 4000) for number in range(6)]
        await rig.step_until(lambda: bool(sinks[0].tokens))
        closing = asyncio.ensure_future(rig.client.close())
        # One turn, so that the close has begun before the engine's step can end.
        await asyncio.sleep(0)
        rig.programs.open()
        await guarded(closing)
        for sink in sinks:
            end = sink.events[-1]
            assert isinstance(end, FailEvent)
            assert end.message in ("the engine was stopped", "the server was stopped")
            assert sink.num_ends == 1

    conform(test)


def test_a_closed_client_refuses_requests(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        await rig.client.close()
        assert not rig.client.is_healthy
        with pytest.raises(UnhealthyError, match="^unhealthy$"):
            rig.submit("late", P)
        rig.client.cancel("late")

    conform(test)


def test_a_client_may_be_closed_twice(conform: Conform) -> None:
    async def test(rig: Rig) -> None:
        await rig.client.close()
        await rig.client.close()
        assert rig.programs.num_releases <= 1

    conform(test)
