"""Calls of a service that stay open until the test lets them end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from ranvier.service import GenerateParameters, GenerationService, StreamItem
from serving import HandEngine, until

GREEDY = GenerateParameters()
TWO = GenerateParameters(best_of=2, do_sample=True)


def failures(service: GenerationService) -> dict[str, float]:
    """Failures counted, by `err`."""
    names = ("overloaded", "validation", "generation", "incomplete", "dropped")
    counts = {name: service.metrics.request_failure.value(err=name) for name in names}
    return {name: count for name, count in counts.items() if count}


async def listen(service: GenerationService, parameters: GenerateParameters = GREEDY) -> list[StreamItem]:
    return [item async for item in service.stream("a", parameters)]


async def started(work: Coroutine[Any, Any, Any], engine: HandEngine) -> asyncio.Task[Any]:
    """A task whose request the engine has."""
    before = len(engine.requests)
    task = asyncio.ensure_future(work)
    await until(lambda: len(engine.requests) > before, "submitted")
    return task


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
