"""Several streams read as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.errors import OverloadedError, RequestError
from ranvier.service.merging import merged
from serving import until


class Stream:
    """A stream that waits for the test before each item, and notes how far it came."""

    def __init__(self, *items: int | Exception) -> None:
        self.num_given = 0
        self.is_closed = False
        self._items = items
        self._turns = asyncio.Semaphore(0)

    def allow(self, count: int = 1) -> None:
        """Let the next items, or the end, come."""
        for _ in range(count):
            self._turns.release()

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for item in self._items:
                await self._turns.acquire()
                if isinstance(item, Exception):
                    raise item
                self.num_given += 1
                yield item
            await self._turns.acquire()
        finally:
            self.is_closed = True


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        await asyncio.wait_for(main(), 20)

    asyncio.run(guarded())


def test_items_come_with_the_number_of_their_stream_in_the_order_they_are_made() -> None:
    async def main() -> None:
        first, second = Stream(1, 2), Stream(10)
        both = merged([first.items(), second.items()])
        for stream, expected in ((second, (1, 10)), (first, (0, 1)), (first, (0, 2))):
            stream.allow()
            assert await anext(both) == expected
        first.allow()
        second.allow()
        assert [item async for item in both] == []
        assert first.is_closed and second.is_closed

    run(main)


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=4), st.randoms())
def test_every_item_comes_once_and_each_streams_own_are_in_order(lists: list[list[int]], random: Any) -> None:
    async def main() -> None:
        streams = [Stream(*items) for items in lists]
        turns = [stream for stream, items in zip(streams, lists, strict=True) for _ in range(len(items) + 1)]
        random.shuffle(turns)
        both = merged([stream.items() for stream in streams])
        for stream in turns:
            stream.allow()
        found = [item async for item in both]
        for index, items in enumerate(lists):
            assert [item for number, item in found if number == index] == items
        assert len(found) == sum(map(len, lists))

    run(main)


def test_no_streams_give_nothing() -> None:
    async def main() -> None:
        assert [item async for item in merged([])] == []

    run(main)


def test_a_request_error_is_the_last_item_of_its_stream_and_the_others_go_on() -> None:
    async def main() -> None:
        error = OverloadedError()
        failing, other = Stream(1, error), Stream(10, 20)
        both = merged([failing.items(), other.items()])
        failing.allow(2)
        found: list[tuple[int, int | RequestError]] = [await anext(both), await anext(both)]
        assert found == [(0, 1), (0, error)]
        other.allow(3)
        assert [item async for item in both] == [(1, 10), (1, 20)]

    run(main)


def test_any_other_exception_ends_all_and_is_raised() -> None:
    """A regression: it was swallowed, and the stream looked as if it had ended well."""

    async def main() -> None:
        failing, other = Stream(ZeroDivisionError("a mistake of ours")), Stream(10)
        both = merged([failing.items(), other.items()])
        failing.allow()
        with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
            await anext(both)
        assert failing.is_closed and other.is_closed

    run(main)


@pytest.mark.parametrize("num_read", [0, 1, 2])
def test_closing_closes_every_stream_wherever_it_is(num_read: int) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        streams = [Stream(1, 2), Stream(10, 20), Stream()]
        both = merged([stream.items() for stream in streams])
        streams[0].allow(2)
        for _ in range(num_read):
            await anext(both)
        await both.aclose()
        assert [stream.is_closed for stream in streams] == [num_read > 0] * 3
        assert asyncio.all_tasks() == before

    run(main)


def test_cancelling_the_reader_closes_every_stream() -> None:
    async def main() -> None:
        streams = [Stream(1), Stream(2)]

        async def read() -> None:
            async for _ in merged([stream.items() for stream in streams]):
                raise AssertionError("nothing was allowed yet")

        reader = asyncio.ensure_future(read())
        for _ in range(5):
            await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await until(lambda: all(stream.is_closed for stream in streams), "closed")

    run(main)


def test_a_reader_that_stops_reading_holds_the_streams_back() -> None:
    async def main() -> None:
        stream = Stream(*range(100))
        both = merged([stream.items()])
        stream.allow(101)
        assert await anext(both) == (0, 0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert stream.num_given <= 3
        assert [item async for _, item in both] == list(range(1, 100))

    run(main)
