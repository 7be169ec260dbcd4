"""Bare sockets for either end of the port, and a server whose commands are only written down."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from ipc_helpers import guarded, make_info

from ranvier.core import EngineInfo, EngineRequest
from ranvier.core.ports import StatsSink
from ranvier.ipc import EngineServer, RemoteEngineClient
from ranvier.ipc.messages import (
    LENGTH_BYTES,
    FromEngine,
    ToEngine,
    frame,
    from_engine,
    hello_frame,
    to_engine,
)
from scripted_requests import GUARD_S


class BareEngine:
    """The engine's end of the socket, by hand. Used on the event loop."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(path))
        self._listener.listen(1)

    async def accept(self) -> BareConnection:
        connection, _ = await guarded(asyncio.get_running_loop().sock_accept(self._listener))
        connection.setblocking(False)
        return BareConnection(connection)

    async def welcome(self, info: EngineInfo | None = None) -> BareConnection:
        """Accept a router and say hello."""
        connection = await self.accept()
        await connection.welcome(info)
        return connection

    def close(self) -> None:
        self._listener.close()


class BareConnection:
    """One router, seen from the engine's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    async def welcome(self, info: EngineInfo | None = None) -> None:
        await self.say(hello_frame(info or make_info()))

    async def say(self, message: FromEngine) -> None:
        await self.send(frame(message))

    async def send(self, data: bytes) -> None:
        await guarded(asyncio.get_running_loop().sock_sendall(self._socket, data))

    async def heard(self) -> ToEngine:
        length = int.from_bytes(await self._exactly(LENGTH_BYTES), "little")
        return to_engine(await self._exactly(length))

    async def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = await guarded(asyncio.get_running_loop().sock_recv(self._socket, length - len(data)))
            assert piece, "the router hung up"
            data += piece
        return data

    def close(self) -> None:
        self._socket.close()


@contextlib.asynccontextmanager
async def bare_pair(
    path: Path, on_stats: StatsSink
) -> AsyncIterator[tuple[BareEngine, BareConnection, RemoteEngineClient]]:
    """A bare engine and a real client that has just heard its hello."""
    engine = BareEngine(path)
    connecting = asyncio.ensure_future(RemoteEngineClient.connect(path, on_stats))
    connection = await engine.welcome()
    client = await guarded(connecting)
    try:
        yield engine, connection, client
    finally:
        await guarded(client.close())
        connection.close()
        engine.close()


class BareRouter:
    """The router's end of the socket, by hand. Blocking."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(GUARD_S)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def say(self, message: ToEngine) -> None:
        self.send(frame(message))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def heard(self) -> FromEngine:
        length = int.from_bytes(self._exactly(LENGTH_BYTES), "little")
        return from_engine(self._exactly(length))

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            assert piece, "the engine hung up"
            data += piece
        return data

    def rest(self) -> bytes:
        """All that still comes until the engine closes the connection."""
        data = b""
        # A close with commands unread looks like a reset.
        with contextlib.suppress(ConnectionResetError):
            while piece := self._socket.recv(4096):
                data += piece
        return data

    def end_sending(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()


class Commands:
    """What a server calls, written down in order."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[str, str]] = queue.Queue()
        self.requests: list[EngineRequest] = []

    def submit(self, request: EngineRequest) -> None:
        self.requests.append(request)
        self.calls.put(("submit", request.request_id))

    def cancel(self, request_id: str) -> None:
        self.calls.put(("cancel", request_id))

    def cancel_all(self) -> None:
        self.calls.put(("cancel_all", ""))

    def next_call(self) -> tuple[str, str]:
        return self.calls.get(timeout=GUARD_S)


@contextlib.contextmanager
def serving(path: Path, commands: Commands, kind: type[EngineServer] = EngineServer) -> Iterator[EngineServer]:
    """A server on a thread; ended by `lost` at the end of the block unless it was before."""
    server = kind(path, make_info())
    thread = threading.Thread(target=server.serve, args=(commands,), name="server", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.lost("the test is over")
        thread.join(GUARD_S)
    assert not thread.is_alive(), "the server did not end"
