"""The engine's end of the socket. Plain threads: one reads commands, one writes frames, the engine has its own."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ranvier.core import EngineInfo, EngineRequest, Event, StepStats
from ranvier.ipc.messages import (
    LENGTH_BYTES,
    FrameError,
    FromEngine,
    Lost,
    Submit,
    body_length,
    frame,
    hello_frame,
    step_frame,
    to_engine,
)

_log = logging.getLogger(__name__)


class Commands(Protocol):
    """What the server calls; `EngineLoop` is one."""

    def submit(self, request: EngineRequest) -> None:
        """Queue a request."""
        ...

    def cancel(self, request_id: str) -> None:
        """End a request."""
        ...

    def cancel_all(self) -> None:
        """End every request."""
        ...


class EngineServer:
    """Serves one router at a time on a Unix socket. When a router goes, its requests are cancelled."""

    def __init__(self, path: Path, info: EngineInfo) -> None:
        self._info = info
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._outbox: queue.SimpleQueue[FromEngine | None] = queue.SimpleQueue()
        self._is_lost = threading.Event()

    def deliver(self, events: list[Event], stats: StepStats | None) -> None:
        """Send what a step said. Never blocks; with no router connected the frame is dropped."""
        self._outbox.put(step_frame(events, stats))

    def lost(self, reason: str) -> None:
        """Tell the router that the device is lost, then end `serve`."""
        self._is_lost.set()
        self._outbox.put(Lost(reason))
        self._outbox.put(None)
        # Wakes `serve` if it waits for a router.
        _shut_down(self._listener)

    def serve(self, commands: Commands) -> None:
        """Accept routers, one after the other, until `lost` was called. Blocks."""
        with self._listener:
            while (connection := self._accept()) is not None:
                with connection:
                    self._converse(connection, commands)

    def _accept(self) -> socket.socket | None:
        """The next router's connection; None once the device is lost."""
        while not self._is_lost.is_set():
            try:
                return self._listener.accept()[0]
            except OSError:
                if not self._is_lost.is_set():
                    raise
        return None

    def _converse(self, connection: socket.socket, commands: Commands) -> None:
        """Serve one router until it goes or the device is lost."""
        self._drop_old_frames()
        gone = threading.Event()
        reader = threading.Thread(target=self._read, args=(connection, commands, gone), name="reader", daemon=True)
        reader.start()
        self._write(connection, gone)
        # The reader ends first: a request it still hands in afterwards would be nobody's.
        _shut_down(connection)
        reader.join()
        commands.cancel_all()

    def _drop_old_frames(self) -> None:
        while not self._outbox.empty():
            self._outbox.get()

    def _write(self, connection: socket.socket, gone: threading.Event) -> None:
        if self._is_lost.is_set():
            # Its last words may have gone with the old frames.
            return
        try:
            connection.sendall(frame(hello_frame(self._info)))
            while (message := self._outbox.get()) is not None and not gone.is_set():
                connection.sendall(frame(message))
        except OSError as error:
            _log.debug("the router hung up: %s", error)

    def _read(self, connection: socket.socket, commands: Commands, gone: threading.Event) -> None:
        try:
            with connection.makefile("rb") as stream:
                while (body := _read_frame(stream.read)) is not None:
                    message = to_engine(body)
                    if isinstance(message, Submit):
                        commands.submit(message.to_request())
                    else:
                        commands.cancel(message.request_id)
        except (OSError, FrameError) as error:
            _log.warning("the router's connection broke: %s", error)
        gone.set()
        # Wakes the writer, which then sees that nobody reads any more.
        self._outbox.put(step_frame([], None))


def _shut_down(end: socket.socket) -> None:
    """Wake whoever blocks on a socket; nothing if it is shut down already."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _read_frame(read: Callable[[int], bytes]) -> bytes | None:
    """The next frame's body, or None at the end of the stream."""
    head = read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    length = body_length(head)
    body = read(length)
    return body if len(body) == length else None
