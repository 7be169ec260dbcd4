"""One connection of the server without a socket: the test is its client, and plays the time."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from ranvier.compose.http_protocol import ConnectionLimits, http_protocol


class FakeTransport(asyncio.Transport):
    """Keeps what is written; tells the protocol of its closing on the next turn, as real ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[float, bytes]] = []
        self.closed_at: float | None = None
        self.protocol: asyncio.Protocol | None = None
        self.is_reading_paused = False
        self.num_unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.num_unsent

    def abort(self) -> None:
        self.close()

    def write(self, data: Any) -> None:
        assert self.closed_at is None, data
        self.written.append((asyncio.get_running_loop().time(), bytes(data)))

    def close(self) -> None:
        if self.closed_at is None:
            loop = asyncio.get_running_loop()
            self.closed_at = loop.time()
            assert self.protocol is not None
            loop.call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closed_at is not None

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False


class Peer:
    """One connection, with the client's side in the test's hand. The application is `serve`."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.messages: list[str] = []
        self.reply_after_s = 0.0
        self.reads_body = True
        self.num_running = 0
        protocol_class = http_protocol(limits)
        config = uvicorn.Config(
            self.serve, interface="asgi3", http=protocol_class, ws="none", lifespan="off", log_config=None
        )
        config.load()
        self.loop = asyncio.get_running_loop()
        self.transport = FakeTransport()
        self.protocol = protocol_class(config=config, server_state=ServerState(), app_state={}, _loop=self.loop)
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, wait, reply in two parts of a second each."""
        self.num_running += 1
        try:
            while self.reads_body:
                message = await receive()
                self.messages.append(f"{self.loop.time():g} {message['type']}")
                if message["type"] == "http.disconnect":
                    return
                if not message["more_body"]:
                    break
            await asyncio.sleep(self.reply_after_s)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"o", "more_body": True})
            await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"k", "more_body": False})
        finally:
            self.num_running -= 1

    async def send(self, data: bytes) -> None:
        """Let bytes arrive; after its closing a transport reads none."""
        assert not self.transport.is_closing()
        self.protocol.data_received(data)
        await self.turn()

    async def turn(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def trickle(self, data: bytes, every_s: float) -> None:
        """Let the bytes arrive one by one until the connection is closed."""
        for byte in data:
            if self.transport.is_closing():
                return
            await self.send(bytes([byte]))
            await asyncio.sleep(every_s)

    @property
    def replies(self) -> list[str]:
        """Status and body of each reply."""
        found = []
        for reply in b"".join(data for _, data in self.transport.written).split(b"HTTP/1.1 ")[1:]:
            head, _, body = reply.partition(b"\r\n\r\n")
            found.append(f"{head[:3].decode()} {body.decode().replace('ok', 'OK')}")
        return found

    async def closed_at(self) -> float | None:
        """When the server closed the connection, within the next 1000 seconds; nothing is left running then."""
        for _ in range(1000):
            if self.transport.closed_at is not None:
                break
            await asyncio.sleep(1)
        await self.turn()
        assert self.transport.closed_at is None or (self.num_running, self.protocol._timer) == (0, None)
        return self.transport.closed_at
