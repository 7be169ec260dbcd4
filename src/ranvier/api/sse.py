"""Server-sent events as TGI frames them: `data: <json>`, an empty line, a comment every 15 idle seconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

KEEP_ALIVE_S = 15.0
"""TGI's seconds without an event after which a comment is sent."""

KEEP_ALIVE = b":\n\n"
DONE = b"data: [DONE]\n\n"
"""The last event of the OpenAI streams."""


def event(data: bytes) -> bytes:
    """One event."""
    return b"data: " + data + b"\n\n"


class EventStream(Response):
    """A 200 reply that sends each frame of `frames` as it comes. The iterator is closed when the client leaves.

    A comment is sent whenever nothing was sent for `keep_alive_s` seconds.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterator[bytes], headers: dict[str, str], keep_alive_s: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        # Exactly TGI's value: starlette would add a charset.
        self.headers["content-type"] = "text/event-stream"
        self._frames = frames
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the frames end or the client leaves, whichever is first."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sender = asyncio.ensure_future(self._send_all(send))
        leaver = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sender, leaver}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                # A server may also tell by an OSError that the client has left.
                with contextlib.suppress(OSError):
                    sender.result()
        finally:
            sender.cancel()
            leaver.cancel()
            await asyncio.gather(sender, leaver, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        pulse = _Pulse(send, self._keep_alive_s)
        try:
            async for frame in self._frames:
                pulse.postpone()
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        finally:
            pulse.stop()
            await self._close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _close(self) -> None:
        close = getattr(self._frames, "aclose", None)
        if close is not None:
            await close()


class _Pulse:
    """Sends a comment whenever nothing was sent for `interval_s`."""

    def __init__(self, send: Send, interval_s: float) -> None:
        self._send = send
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._task: asyncio.Task[None] | None = None
        self._handle = self._loop.call_later(interval_s, self._check)

    def postpone(self) -> None:
        """Something was sent just now."""
        self._last_s = self._loop.time()

    def stop(self) -> None:
        """No more comments, not even one that is about to be sent: nothing may follow the end."""
        self._handle.cancel()
        if self._task is not None:
            self._task.cancel()

    def _check(self) -> None:
        # One timer a stream, looked at when it fires: cheaper than moving it with each token.
        idle_s = self._loop.time() - self._last_s
        if idle_s >= self._interval_s:
            idle_s = 0.0
            self.postpone()
            # A client that does not read finds one comment in the end, not hundreds.
            if self._task is None or self._task.done():
                self._task = asyncio.ensure_future(self._comment())
        self._handle = self._loop.call_later(self._interval_s - idle_s, self._check)

    async def _comment(self) -> None:
        with contextlib.suppress(OSError):
            await self._send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
