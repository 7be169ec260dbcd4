"""Several streams as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

from ranvier.errors import RequestError

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T | RequestError], None]:
    """What each stream gives, with its number, as it comes, at most one item ahead of the reader.

    A stream's `RequestError` is its last item; the others go on. Any other exception is raised here.
    All streams are closed when this one is.
    """
    if len(streams) == 1:
        # Most streams are alone: no task and no queue for them.
        async with contextlib.aclosing(streams[0]) as stream:
            try:
                async for item in stream:
                    yield 0, item
            except RequestError as error:
                yield 0, error
        return
    queue: asyncio.Queue[tuple[int, T | RequestError] | Exception | None] = asyncio.Queue(1)
    tasks = [asyncio.ensure_future(_pump(index, stream, queue)) for index, stream in enumerate(streams)]
    try:
        num_open = len(tasks)
        while num_open:
            entry = await queue.get()
            if entry is None:
                num_open -= 1
            elif isinstance(entry, Exception):
                raise entry
            else:
                yield entry
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    index: int, stream: AsyncGenerator[T, None], queue: asyncio.Queue[tuple[int, T | RequestError] | Exception | None]
) -> None:
    try:
        async with contextlib.aclosing(stream):
            async for item in stream:
                await queue.put((index, item))
    except RequestError as error:
        await queue.put((index, error))
    except Exception as error:
        await queue.put(error)
    await queue.put(None)
