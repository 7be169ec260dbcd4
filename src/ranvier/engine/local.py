"""An engine in this process, behind the same port as one in another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ranvier.core import ConstraintFactory, EngineInfo, EngineRequest, Event, EventSink, StepStats
from ranvier.core.dispatch import Dispatcher
from ranvier.core.ports import StatsSink
from ranvier.engine.engine import Engine
from ranvier.engine.loop import EngineLoop
from ranvier.errors import UnhealthyError


class LocalEngineClient:
    """An `EngineClient` over an engine thread of this process. Make and use it on the event loop."""

    def __init__(
        self,
        engine: Engine,
        info: EngineInfo,
        on_stats: StatsSink,
        release: Callable[[], None],
        make_constraint: ConstraintFactory | None = None,
    ) -> None:
        self._info = info
        self._on_stats = on_stats
        self._release = release
        self._dispatcher = Dispatcher()
        self._event_loop = asyncio.get_running_loop()
        self._loop = EngineLoop(engine, self._deliver, self._lost, make_constraint)
        self._is_lost = False
        self._is_closed = False
        self._loop.start()

    @property
    def info(self) -> EngineInfo:
        """See `EngineClient`."""
        return self._info

    @property
    def is_healthy(self) -> bool:
        """True until the device is lost, stuck, or the client closed."""
        return not (self._is_lost or self._is_closed or self._dispatcher.is_stalled)

    def submit(self, request: EngineRequest, sink: EventSink) -> None:
        """See `EngineClient`."""
        if self._is_lost or self._is_closed:
            raise UnhealthyError
        self._dispatcher.open(request.request_id, sink)
        self._loop.submit(request)

    def cancel(self, request_id: str) -> None:
        """See `EngineClient`."""
        self._loop.cancel(request_id)

    async def close(self) -> None:
        """Stop the engine's thread, fail what is open, release the device. More than once is harmless."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._event_loop.run_in_executor(None, self._loop.stop)
        self._dispatcher.fail_all("the engine was stopped")
        self._release()

    def _deliver(self, events: list[Event], stats: StepStats | None) -> None:
        self._event_loop.call_soon_threadsafe(self._arrive, events, stats)

    def _arrive(self, events: list[Event], stats: StepStats | None) -> None:
        self._dispatcher.dispatch(events)
        if stats is not None:
            self._on_stats(stats)

    def _lost(self, reason: str) -> None:
        self._event_loop.call_soon_threadsafe(self._fail, reason)

    def _fail(self, reason: str) -> None:
        self._is_lost = True
        self._dispatcher.fail_all(reason)
