"""Permits under `max_concurrent_requests`: taken before anything is looked at, given back whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from calls import GREEDY, TWO, cancelled, failures, listen, started
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.core import FinishEvent
from ranvier.errors import OverloadedError, RequestError, ValidationError
from ranvier.service import GenerateParameters, GenerationService, ServiceLimits
from serving import HandEngine, make_service, until


def test_with_all_permits_taken_a_request_is_refused_at_once() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine, limits=ServiceLimits(max_concurrent_requests=2))
        tasks = [await started(service.generate("a", GREEDY), engine) for _ in range(2)]
        assert service.num_in_flight == 2
        with pytest.raises(OverloadedError) as caught:
            await service.generate("a", GREEDY)
        assert str(caught.value) == "Model is overloaded"
        with pytest.raises(OverloadedError):
            await listen(service)
        assert failures(service) == {"overloaded": 2}
        engine.end(0)
        await tasks[0]
        assert service.num_in_flight == 1
        tasks.append(await started(listen(service), engine))
        engine.end(1)
        engine.end(2)
        await asyncio.gather(*tasks)
        assert service.num_in_flight == 0

    asyncio.run(main())


def test_overload_is_told_before_the_values_are_looked_at_and_best_of_limits_before_overload() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine, limits=ServiceLimits(max_concurrent_requests=1))
        task = await started(service.generate("a", GREEDY), engine)
        with pytest.raises(OverloadedError):
            await service.generate("", GenerateParameters(temperature=0.0))
        with pytest.raises(ValidationError):
            await service.generate("a", GenerateParameters(best_of=3))
        with pytest.raises(ValidationError):
            await listen(service, GenerateParameters(best_of=2))
        await cancelled(task)

    asyncio.run(main())


def test_best_of_takes_a_permit_for_each_sequence() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine, limits=ServiceLimits(max_concurrent_requests=3))
        both = await started(service.generate("a", TWO), engine)
        assert (service.num_in_flight, len(engine.requests)) == (2, 2)
        with pytest.raises(OverloadedError):
            await service.generate("a", TWO)
        single = await started(service.generate("a", GREEDY), engine)
        assert service.num_in_flight == 3
        for index in range(3):
            engine.end(index)
        await asyncio.gather(both, single)
        assert service.num_in_flight == 0

    asyncio.run(main())


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["generate", "best_of", "stream", "invalid", "leave", "end", "fail", "vanish"]),
        st.integers(0, 5),
    ),
    max_size=24,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_permits_are_given_back_whatever_happens(actions: list[tuple[str, int]]) -> None:
    """Beside the service a list of open calls with what each costs. One permit too many or too few shows at once."""

    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine, limits=ServiceLimits(max_concurrent_requests=5))
        calls: list[tuple[asyncio.Task[Any], int, list[int]]] = []
        for action, number in actions:
            await _act(service, engine, calls, action, number)
            calls[:] = [call for call in calls if not call[0].done()]
            assert service.num_in_flight == sum(cost for _, cost, _ in calls)
        for task, _, _ in calls:
            await cancelled(task)
        assert service.num_in_flight == 0
        await until(lambda: engine.num_open == 0, "the engine let go")

    asyncio.run(main())


async def _act(
    service: GenerationService,
    engine: HandEngine,
    calls: list[tuple[asyncio.Task[Any], int, list[int]]],
    action: str,
    number: int,
) -> None:
    first = len(engine.requests)
    if action == "invalid":
        with pytest.raises(RequestError):
            await service.generate("", GREEDY)
    elif action in ("generate", "best_of", "stream"):
        cost = 2 if action == "best_of" else 1
        fits = service.num_in_flight + cost <= 5
        work = listen(service) if action == "stream" else service.generate("a", TWO if cost == 2 else GREEDY)
        if not fits:
            with pytest.raises(OverloadedError):
                await work
            return
        calls.append((await started(work, engine), cost, list(range(first, first + cost))))
    elif calls:
        task, _, indices = calls[number % len(calls)]
        await _finish(engine, task, indices, action)


async def _finish(engine: HandEngine, task: asyncio.Task[Any], indices: list[int], action: str) -> None:
    if action == "leave":
        return await cancelled(task)
    for index in indices:
        if action == "end":
            engine.end(index)
        elif action == "fail":
            engine.fail(index, "broken")
        else:
            engine.emit(FinishEvent(engine.requests[index].request_id, "cancelled"))
    with contextlib.suppress(RequestError):
        await task
