"""Engine clients over a scripted engine, and sinks that can be awaited."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ranvier.core import (
    Capabilities,
    EngineClient,
    EngineInfo,
    Event,
    Limits,
    StepPlan,
    StepResult,
    StepStats,
    TokenEvent,
    is_terminal,
)
from ranvier.core.ports import StatsSink
from ranvier.engine import Engine, EngineLoop, LocalEngineClient
from ranvier.ipc import EngineServer, RemoteEngineClient
from ranvier.targets.scripted import ScriptedPrograms
from scripted_requests import GUARD_S

T = TypeVar("T")

FAULT = 1000
"""A prompt with this token makes its step fail; it is outside the vocabulary, so none is generated."""


def run_async(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


async def guarded(awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, GUARD_S)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something holds."""

    async def turn() -> None:
        while not condition():
            await asyncio.sleep(0)

    await guarded(turn())


def make_limits(*, batch_size: int = 4, sequence_length: int = 4096) -> Limits:
    return Limits(
        batch_size=batch_size,
        sequence_length=sequence_length,
        max_input_tokens=sequence_length - 1,
        max_batch_prefill_tokens=64,
    )


def make_info(target: str = "scripted", limits: Limits | None = None) -> EngineInfo:
    return EngineInfo(
        target=target,
        limits=limits or make_limits(),
        capabilities=Capabilities(mixed_steps=True, chunk_multiple=4, prefix_sharing=True),
        details={"vocab_size": "100"},
    )


def make_stats() -> StepStats:
    return StepStats(
        duration_s=0.5, num_prefill_tokens=1, num_decode_tokens=2, num_slots_used=3, num_waiting=4, num_started=5
    )


class Sink:
    """Keeps a request's events in order; may be awaited."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._ended = asyncio.Event()
        self._arrivals: asyncio.Queue[Event] = asyncio.Queue()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._arrivals.put_nowait(event)
        if is_terminal(event):
            self._ended.set()

    async def next_event(self) -> Event:
        return await guarded(self._arrivals.get())

    async def to_end(self) -> list[Event]:
        await guarded(self._ended.wait())
        return self.events

    @property
    def tokens(self) -> list[int]:
        return [event.token_id for event in self.events if isinstance(event, TokenEvent)]

    @property
    def num_ends(self) -> int:
        return sum(map(is_terminal, self.events))


class Gated(ScriptedPrograms):
    """The scripted target, whose runs wait for permits while the gate is closed. It begins open."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(num_slots=limits.batch_size, sequence_length=limits.sequence_length, fault_token=FAULT)
        self._permits = threading.Semaphore(0)
        self.is_open = True
        self.num_releases = 0

    def run(self, plan: StepPlan) -> StepResult:
        if not self.is_open:
            assert self._permits.acquire(timeout=GUARD_S), "no permit came"
        return super().run(plan)

    def permit(self) -> None:
        self._permits.release()

    def open(self) -> None:
        self.is_open = True
        self._permits.release()

    def release(self) -> None:
        self.num_releases += 1


class ServedEngine:
    """An engine thread behind an `EngineServer` thread, as in an engine process."""

    def __init__(self, path: Path, programs: Gated, limits: Limits) -> None:
        self.server = EngineServer(path, make_info(limits=limits))
        self.loop = EngineLoop(Engine(programs, limits), self.server.deliver, self.server.lost)
        self._thread = threading.Thread(target=self.server.serve, args=(self.loop,), name="server", daemon=True)
        self.loop.start()
        self._thread.start()

    def stop(self) -> None:
        self.server.lost("the test is over")
        self._thread.join(GUARD_S)
        self.loop.stop()
        assert not self._thread.is_alive(), "the server did not end"


OpenClient: TypeAlias = Callable[
    [Path, Gated, Limits, StatsSink], "contextlib.AbstractAsyncContextManager[EngineClient]"
]


@contextlib.asynccontextmanager
async def open_local(path: Path, programs: Gated, limits: Limits, on_stats: StatsSink) -> AsyncIterator[EngineClient]:
    client = LocalEngineClient(Engine(programs, limits), make_info(limits=limits), on_stats, programs.release)
    try:
        yield client
    finally:
        await guarded(client.close())


@contextlib.asynccontextmanager
async def open_remote(path: Path, programs: Gated, limits: Limits, on_stats: StatsSink) -> AsyncIterator[EngineClient]:
    served = ServedEngine(path, programs, limits)
    client = await guarded(RemoteEngineClient.connect(path, on_stats))
    try:
        yield client
    finally:
        await guarded(client.close())
        served.stop()
