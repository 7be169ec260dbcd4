"""The router's end of the socket: an `EngineClient` that survives the engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from ranvier.core import EngineInfo, EngineRequest, EventSink
from ranvier.core.dispatch import Dispatcher
from ranvier.core.ports import StatsSink
from ranvier.errors import UnhealthyError
from ranvier.ipc.messages import (
    LENGTH_BYTES,
    Cancel,
    FrameError,
    FromEngine,
    Hello,
    StepFrame,
    body_length,
    frame,
    from_engine,
    submit_frame,
)

_log = logging.getLogger(__name__)

_RETRY_S = 0.02
_DIED = "the engine process died; the request can be sent again"


class RemoteEngineClient:
    """An engine in another process. When its socket breaks, open requests fail once and a reconnect is tried.

    Use `connect`, which waits for a warm engine.
    """

    def __init__(self, path: Path, on_stats: StatsSink) -> None:
        self._path = path
        self._on_stats = on_stats
        self._dispatcher = Dispatcher()
        self._info: EngineInfo | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._first_hello: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self.num_connections = 0

    @classmethod
    async def connect(cls, path: Path, on_stats: StatsSink) -> RemoteEngineClient:
        """A client whose engine is warm; waits as long as it takes."""
        client = cls(path, on_stats)
        client._task = asyncio.create_task(client._keep_connected())
        await asyncio.shield(client._first_hello)
        return client

    @property
    def info(self) -> EngineInfo:
        """See `EngineClient`. After a restart it is that of the new engine."""
        assert self._info is not None, "use `connect`"
        return self._info

    @property
    def is_healthy(self) -> bool:
        """Whether a warm engine is connected and not stuck."""
        return self._writer is not None and not self._dispatcher.is_stalled

    def submit(self, request: EngineRequest, sink: EventSink) -> None:
        """See `EngineClient`."""
        if self._writer is None:
            raise UnhealthyError
        self._dispatcher.open(request.request_id, sink)
        self._writer.write(frame(submit_frame(request)))

    def cancel(self, request_id: str) -> None:
        """See `EngineClient`."""
        if self._writer is not None:
            self._writer.write(frame(Cancel(request_id)))

    async def close(self) -> None:
        """Disconnect; open requests fail."""
        self._disconnected("the server was stopped")
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_connected(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path))
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                await self._listen(reader, writer)
            except (asyncio.IncompleteReadError, OSError, FrameError) as error:
                _log.error("the engine's connection broke: %s", error)
            finally:
                writer.close()
                self._disconnected(_DIED)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            length = body_length(await reader.readexactly(LENGTH_BYTES))
            self._arrive(from_engine(await reader.readexactly(length)), writer)

    def _arrive(self, message: FromEngine, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, StepFrame):
            self._dispatcher.dispatch(message.events())
            if message.stats is not None:
                self._on_stats(message.stats)
        elif isinstance(message, Hello):
            self._info = message.to_info()
            self._writer = writer
            self.num_connections += 1
            if not self._first_hello.done():
                self._first_hello.set_result(None)
        else:
            _log.error("the engine gave up: %s", message.reason)
            self._disconnected(message.reason)

    def _disconnected(self, reason: str) -> None:
        self._writer = None
        self._dispatcher.fail_all(reason)
