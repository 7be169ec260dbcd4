"""The HTTP protocol of the server's connections: uvicorn's, with bounds on what a slow client may hold.

A connection is in one of three states. Each may last only so long, and one timer watches it:

    waiting   no request is open       closed when idle for `idle_s`, or without a first request for `header_s`
    header    its first byte is here   408 when it is not complete after `header_s`, 431 when it is too large
    body      its header is complete   408 when nothing more comes for `body_s`, 431 when it ends in too large trailers

Sending is watched only while the client is behind: cut off when it has taken nothing for `send_s`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_UPGRADE = re.compile(rb"^upgrade(?=[ \t]*:)", re.IGNORECASE | re.MULTILINE)
"""No upgrade is offered here, and the parser drops the body of a request that asks for one (`curl --http2`, Java)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Seconds that a client may take, and `header_bytes` for the request line and all headers together.

    `header_s` is for a whole header, `body_s` for one part of a body after another, `idle_s` between two requests,
    `send_s` for taking any of what was sent.
    """

    header_s: float = 30.0
    body_s: float = 30.0
    idle_s: float = 75.0
    send_s: float = 60.0
    header_bytes: int = 65_536


def http_protocol(limits: ConnectionLimits) -> type[LimitedHttpProtocol]:
    """The class to give to `uvicorn.Config(http=...)`."""
    return type("LimitedHttpProtocol", (LimitedHttpProtocol,), {"limits": limits})


class LimitedHttpProtocol(HttpToolsProtocol):
    """Uvicorn's protocol under `limits`. A time-out does not cut a reply that is under way: it waits for its end."""

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading: Literal["waiting", "header", "body"] = "waiting"
        self._is_ended = False
        # Bytes of the latest reads that made nothing complete: the parser keeps what may be a header or a trailer.
        self._kept_bytes = 0
        self._has_progressed = False
        # When the client is late, on the loop's clock. None: it is not the client's turn.
        self._late_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._send_timer: asyncio.TimerHandle | None = None

    # What arrives

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give it time for a first request."""
        super().connection_made(transport)
        self._expect_within(self.limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._end()
        self._stop_watching_sending()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; what is not complete yet is bounded."""
        self._has_progressed = False
        if self._reading != "body":
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"x-upgrd", head) + end + rest
        super().data_received(data)
        if self._has_progressed or self._reading == "waiting":
            self._kept_bytes = 0
            return
        self._kept_bytes += len(data)
        if self._kept_bytes > self.limits.header_bytes:
            self._refuse_large_header()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._has_progressed = True
        self._reading = "header"
        self._expect_within(self.limits.header_s)

    def on_headers_complete(self) -> None:
        """Start the request, unless its header is too large."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refuse_large_header()
        if self._is_ended:
            return
        self._has_progressed = True
        self._reading = "body"
        self._expect_within(self.limits.body_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        if self._is_ended:
            return
        self._has_progressed = True
        self._expect_within(self.limits.body_s)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is the server's turn, unless it has replied before it had read everything."""
        if self._is_ended:
            return
        super().on_message_complete()
        self._reading = "waiting"
        self._late_at = None
        if not self._is_replying:
            self._expect_within(self.limits.idle_s)

    # What is sent

    def on_response_complete(self) -> None:
        """It is the client's turn again, with all its time."""
        super().on_response_complete()
        # Its timer stops at any byte; ours goes on until a request has begun.
        self._unset_keepalive_if_required()
        if self._reading == "header":
            self._expect_within(self.limits.header_s)
        elif self._reading == "body":
            self._expect_within(self.limits.body_s)
        elif not self._is_replying:
            self._expect_within(self.limits.idle_s)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is sent to; what waits for it holds a permit."""
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stop_watching_sending()

    def _watch_sending(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(self.limits.send_s, self._look_at_sending, left)

    def _look_at_sending(self, left_before: int) -> None:
        if self.transport.get_write_buffer_size() < left_before:
            self._watch_sending()
        else:
            self.transport.abort()

    def _stop_watching_sending(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    @property
    def _is_replying(self) -> bool:
        """Whether a request waits for its reply or the end of it. `cycle` is the last that has arrived."""
        return self.cycle is not None and not self.cycle.response_complete

    # The timer

    def _expect_within(self, seconds: float) -> None:
        if self._is_ended:
            return
        # Most of what moves the time moves it on: then the timer stays, and looks again when it fires.
        self._late_at = late_at = self.loop.time() + seconds
        if self._timer is None or late_at < self._timer_at:
            self._start_timer(late_at)

    def _start_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._late_at is None or self.transport.is_closing():
            return
        if self.loop.time() < self._late_at:
            self._start_timer(self._late_at)
        elif self._must_wait:
            self._expect_within(self.limits.body_s)
        else:
            self._time_out()

    @property
    def _must_wait(self) -> bool:
        """Whether the client cannot go on, or a reply is under way."""
        return self.flow.read_paused or (self._is_replying and not self._may_refuse)

    @property
    def _may_refuse(self) -> bool:
        """Whether the request that arrives has no reply yet, and those before it have theirs."""
        if self._reading == "header":
            return not self._is_replying
        is_open = self._reading == "body" and self._is_replying
        return is_open and not self.pipeline and not self.cycle.response_started

    def _time_out(self) -> None:
        limits = self.limits
        if self._reading == "header":
            self._refuse(408, f"The request's header was not complete after {limits.header_s:g} seconds")
        else:
            self._refuse(408, f"The request's body stopped for {limits.body_s:g} seconds")

    def _refuse_large_header(self) -> None:
        if not self._is_ended:
            self._refuse(431, f"The request's header is larger than {self.limits.header_bytes} bytes")

    def _refuse(self, status: int, text: str) -> None:
        """Close, and say why where there is a request to reply to; its handler finds that the client has left."""
        self._end()
        if self._may_refuse:
            if self._is_replying:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._reply(status, text)
        self.transport.close()

    def _reply(self, status: int, text: str) -> None:
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", text.encode()]))

    def _end(self) -> None:
        """Watch nothing any more, and take nothing of what the parser may still have."""
        self._is_ended = True
        self._late_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
