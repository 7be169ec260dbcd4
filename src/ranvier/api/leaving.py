"""Clients that leave before their reply is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from ranvier.errors import RequestError

T = TypeVar("T")


class ClientLeftError(Exception):
    """Nobody waits for the reply any more."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine; it is cancelled, and `ClientLeftError` raised, when the client leaves before."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        return task.result()
    finally:
        for each in (task, watcher):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError, RequestError):
            await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
