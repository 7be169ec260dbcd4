"""Ways to talk to the application: in process, message by message, and over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import uvicorn
from starlette.types import Message

from ranvier.api import ApiOptions, build_app
from ranvier.compose.event_loop import run_async
from ranvier.compose.http_protocol import ConnectionLimits, http_protocol
from ranvier.service import GenerationService

T = TypeVar("T")

OPTIONS = ApiOptions(payload_limit=2_000_000, api_key=None, cors_allow_origin=(), compute_type="cpu")

_DEADLINE_S = 20.0
"""Only a broken server takes this long: tests fail with it instead of hanging."""


@asynccontextmanager
async def client_of(service: GenerationService, options: ApiOptions = OPTIONS) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client on the application in this process. Streams come when they are complete."""
    transport = httpx.ASGITransport(app=build_app(service, options))
    async with httpx.AsyncClient(transport=transport, base_url="http://ranvier") as client:
        yield client


class AsgiCall:
    """One POST given and its reply taken message by message, with the client's leaving in the test's hand."""

    def __init__(
        self,
        service: GenerationService,
        path: str,
        body: object,
        options: ApiOptions = OPTIONS,
        *,
        parts: list[bytes] | None = None,
        breaks_after: int | None = None,
    ) -> None:
        """Send `body` as JSON; or only the `parts` of one, which is not complete then.

        After `breaks_after` messages of the reply the connection is found broken.
        """
        self._app = build_app(service, options)
        self._path = path
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._breaks_after = breaks_after
        for part in [json.dumps(body).encode()] if parts is None else parts:
            self._incoming.put_nowait({"type": "http.request", "body": part, "more_body": parts is not None})
        self._task = asyncio.ensure_future(self._run())

    def leave(self) -> None:
        """Close the connection."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def start(self) -> Message:
        """The status and headers."""
        message = await self._next()
        assert message["type"] == "http.response.start"
        return message

    async def frame(self) -> bytes:
        """The next part of the body; `b""` is the end."""
        message = await self._next()
        assert message["type"] == "http.response.body"
        assert message.get("more_body", False) == bool(message["body"])
        body: bytes = message["body"]
        return body

    async def done(self) -> list[Message]:
        """Wait for the application to return; messages that were not taken yet."""
        await asyncio.wait_for(self._task, _DEADLINE_S)
        return [self._sent.get_nowait() for _ in range(self._sent.qsize())]

    async def _next(self) -> Message:
        return await asyncio.wait_for(self._sent.get(), _DEADLINE_S)

    async def _run(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"ranvier"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("ranvier", 80),
        }
        await self._app(scope, self._incoming.get, self._take)

    async def _take(self, message: Message) -> None:
        if self._sent.qsize() == self._breaks_after:
            raise OSError("the client has left")
        self._sent.put_nowait(message)


def events_of(body: str) -> list[Any]:
    """The JSON of each event of a stream. Fails on anything that is not TGI's framing."""
    assert body.endswith("\n\n") or not body
    blocks = body.split("\n\n")[:-1]
    assert all(block.startswith("data: {") and "\n" not in block for block in blocks), body
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def openai_events_of(body: str) -> list[Any]:
    """The JSON of each event of an OpenAI stream, which ends with `[DONE]`."""
    end = "data: [DONE]\n\n"
    assert body.endswith(end), body
    return events_of(body.removesuffix(end))


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()


@dataclass
class LiveServer:
    """A server on a loopback port, on a thread of its own."""

    port: int
    service: GenerationService
    loop: asyncio.AbstractEventLoop

    def run(self, function: Callable[[], T]) -> T:
        """Call a function on the server's event loop and wait for it."""

        async def call() -> T:
            return function()

        return self.await_(call())

    def await_(self, work: Awaitable[T]) -> T:
        """Wait for something on the server's event loop."""

        async def call() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(_DEADLINE_S)

    def connect(self) -> Connection:
        """A new connection."""
        return Connection(socket.create_connection(("127.0.0.1", self.port), timeout=_DEADLINE_S))


@contextmanager
def live_server(
    make: Callable[[], AbstractAsyncContextManager[GenerationService]],
    options: ApiOptions = OPTIONS,
    *,
    limits: ConnectionLimits | None = None,
) -> Iterator[LiveServer]:
    """Serve what `make` gives, with the settings of `ranvier.compose.router`, until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    started: list[tuple[_Server, LiveServer]] = []
    failures: list[BaseException] = []
    is_made = threading.Event()

    async def serve() -> None:
        async with make() as service:
            app = build_app(service, options)
            config = uvicorn.Config(
                app,
                http=http_protocol(limits or ConnectionLimits()),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
            )
            server = _Server(config)
            live = LiveServer(listener.getsockname()[1], service, asyncio.get_running_loop())
            started.append((server, live))
            is_made.set()
            await server.serve(sockets=[listener])

    def run() -> None:
        try:
            run_async(serve())
        except BaseException as error:
            failures.append(error)
            is_made.set()

    thread = threading.Thread(target=run, name="live-server", daemon=True)
    thread.start()
    assert is_made.wait(_DEADLINE_S) and not failures, failures
    server, live = started[0]
    assert server.is_listening.wait(_DEADLINE_S)
    try:
        yield live
    finally:
        live.loop.call_soon_threadsafe(setattr, server, "should_exit", True)
        thread.join(_DEADLINE_S)
    assert not thread.is_alive() and not failures, failures


@dataclass
class RawReply:
    """A reply as it was on the wire; `chunks` is empty unless the transfer was chunked."""

    status_line: str
    headers: list[tuple[str, str]]
    body: bytes
    chunks: list[bytes] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """The value of a header that may come once."""
        values = [value for each, value in self.headers if each == name]
        assert len(values) < 2, values
        return values[0] if values else None


class Connection:
    """One connection, spoken to in bytes."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream
        self._file = stream.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def post(self, path: str, body: object) -> None:
        """Send a POST with a JSON body."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: ranvier\r\nContent-Type: application/json\r\n"
        self.send(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)

    def get(self, path: str) -> None:
        """Send a GET."""
        self.send(f"GET {path} HTTP/1.1\r\nHost: ranvier\r\n\r\n".encode())

    def head(self) -> RawReply:
        """Read the status line and headers."""
        status_line = self._line()
        headers = []
        while line := self._line():
            name, _, value = line.partition(": ")
            headers.append((name, value))
        return RawReply(status_line, headers, b"")

    def chunk(self) -> bytes:
        """Read one chunk of a chunked body; `b""` is the last."""
        data = self._file.read(int(self._line(), 16))
        assert self._line() == ""
        return data

    def reply(self) -> RawReply:
        """Read a whole reply."""
        reply = self.head()
        if reply.header("transfer-encoding") == "chunked":
            reply.chunks = list(iter(self.chunk, b""))
            reply.body = b"".join(reply.chunks)
        else:
            reply.body = self._file.read(int(reply.header("content-length") or "0"))
        return reply

    def is_closed(self) -> bool:
        """Whether the server has closed its side; waits for it or for more bytes."""
        return self._file.read(1) == b""

    def _line(self) -> str:
        line = self._file.readline()
        assert line.endswith(b"\r\n"), line
        return line[:-2].decode("latin-1")
