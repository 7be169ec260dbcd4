"""Streams: events to the byte, errors as events, comments while idle, clients that leave. The engine is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run_in_virtual_time

from http_driver import OPTIONS, AsgiCall, client_of, events_of
from ranvier.api.sse import EventStream
from ranvier.core import Event, FailEvent, FinishEvent, Limits, TokenChoice, TokenLogprob
from ranvier.service import GenerationService
from serving import END, MARK, HandEngine, PlayingEngine, Script, make_service, until

HI: Script = [*b"Hi", END]


def post(path: str, body: dict[str, Any], engine: HandEngine | None = None) -> httpx.Response:
    async def main() -> httpx.Response:
        async with client_of(make_service(engine or PlayingEngine(HI))) as client:
            return await client.post(path, json=body)

    return asyncio.run(main())


def event(index: int, token: str, rest: str = '"generated_text":null,"details":null') -> str:
    return f'data: {{"index":{index},"token":{token},{rest}}}\n\n'


H = '{"id":72,"text":"H","logprob":-0.5,"special":false}'
I_ = '{"id":105,"text":"i","logprob":-0.5,"special":false}'
STOP = '{"id":256,"text":"<|end|>","logprob":-0.5,"special":true}'
TWO_EVENTS = event(1, H) + event(2, I_)


def test_each_token_is_one_event_and_the_last_has_the_text() -> None:
    reply = post("/generate_stream", {"inputs": "a", "parameters": {}})
    assert reply.status_code == 200
    assert reply.text == TWO_EVENTS + event(3, STOP, '"generated_text":"Hi","details":null')


def test_details_come_with_the_last_event() -> None:
    reply = post("/generate_stream", {"inputs": "abc", "parameters": {"details": True}})
    details = '{"finish_reason":"eos_token","generated_tokens":3,"seed":null,"input_length":3}'
    assert reply.text == TWO_EVENTS + event(3, STOP, f'"generated_text":"Hi","details":{details}')


def test_details_of_a_sampled_stream_tell_the_seed_and_of_a_truncated_one_the_tokens_kept() -> None:
    parameters = {"details": True, "do_sample": True, "seed": 2**64 - 1, "truncate": 2, "max_new_tokens": 1}
    reply = post("/generate_stream", {"inputs": "abc", "parameters": parameters})
    details = f'{{"finish_reason":"length","generated_tokens":1,"seed":{2**64 - 1},"input_length":2}}'
    assert reply.text == event(1, H, f'"generated_text":"H","details":{details}')


def test_top_tokens_stand_between_token_and_text() -> None:
    script: Script = [TokenChoice(72, -0.5, (TokenLogprob(72, -0.5), TokenLogprob(MARK, -3.0))), END]
    reply = post("/generate_stream", {"inputs": "a", "parameters": {"top_n_tokens": 2}}, PlayingEngine(script))
    mark = '{"id":257,"text":"<|mark|>","logprob":-3.0,"special":true}'
    first = event(1, H, f'"top_tokens":[{H},{mark}],"generated_text":null,"details":null')
    assert reply.text == first + event(2, STOP, '"generated_text":"H","details":null')


def test_the_compat_route_streams_with_the_prompt_unless_refused() -> None:
    def last(path: str, **body: Any) -> Any:
        return events_of(post(path, {"inputs": "Oh! ", **body}).text)[-1]["generated_text"]

    assert last("/", stream=True) == "Oh! Hi"
    assert last("/", stream=True, parameters={"return_full_text": False}) == "Hi"
    assert last("/generate_stream", parameters={"return_full_text": True}) == "Oh! Hi"
    assert last("/generate_stream", parameters={}) == "Hi"


def test_the_compat_route_streams_the_same_bytes() -> None:
    body = {"inputs": "a", "stream": True, "parameters": {"return_full_text": False, "details": True}}
    assert post("/", body).text == post("/generate_stream", body).text


@pytest.mark.parametrize(("path", "extra"), [("/generate_stream", {}), ("/", {"stream": True})])
def test_a_stream_has_its_own_headers_and_none_of_the_others(path: str, extra: dict[str, Any]) -> None:
    reply = post(path, {"inputs": "é👋", "parameters": {}, **extra})
    assert {name: value for name, value in reply.headers.items() if name != "vary"} == {
        "content-type": "text/event-stream",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-compute-type": "cpu",
        "x-compute-characters": "2",
    }


def test_a_stop_string_over_token_borders_ends_the_stream() -> None:
    body = {"inputs": "a", "parameters": {"stop": ["lo w"], "details": True, "max_new_tokens": 30}}
    events = events_of(post("/generate_stream", body, PlayingEngine(list(b"hello world"))).text)
    assert "".join(each["token"]["text"] for each in events) == "hello w"
    assert events[-1]["generated_text"] == "hello w"
    assert events[-1]["details"]["finish_reason"] == "stop_sequence"


PARTS = st.one_of(
    st.sampled_from(["👩‍🚀", "你好", "é", "🇫🇷 ", "plain", "\u2028", "\r\n\r\n", "data: x"]).map(str.encode),
    st.binary(max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PARTS, max_size=8).map(b"".join))
def test_the_texts_of_all_events_joined_are_the_last_events_text(data: bytes) -> None:
    """Line ends and invalid bytes in the text must not break an event apart."""
    limits = Limits(batch_size=1, sequence_length=600, max_input_tokens=32, max_batch_prefill_tokens=64)
    body = {"inputs": "a", "parameters": {"max_new_tokens": max(1, len(data))}}
    reply = post("/generate_stream", body, PlayingEngine(list(data) or [END], limits=limits))
    events = events_of(reply.text)
    assert [each["index"] for each in events] == list(range(1, len(events) + 1))
    assert "".join(each["token"]["text"] for each in events if not each["token"]["special"]) == data.decode(
        errors="replace"
    )
    assert events[-1]["generated_text"] == data.decode(errors="replace")
    assert all(each["generated_text"] is None and each["details"] is None for each in events[:-1])


FAILED = 'data: {"error":"Request failed during generation: Server error: out of luck","error_type":"generation"}\n\n'
INCOMPLETE = 'data: {"error":"Incomplete generation stream","error_type":"incomplete_generation_stream"}\n\n'


@pytest.mark.parametrize(("path", "extra"), [("/generate_stream", {}), ("/", {"stream": True})])
@pytest.mark.parametrize(
    ("ending", "text"), [(FailEvent("", "out of luck"), FAILED), (FinishEvent("", "cancelled"), INCOMPLETE)]
)
def test_a_stream_that_cannot_go_on_ends_with_an_error_event(
    path: str, extra: dict[str, Any], ending: FailEvent | FinishEvent, text: str
) -> None:
    def end(request_id: str) -> Event:
        return replace(ending, request_id=request_id)

    reply = post(path, {"inputs": "a", "parameters": {}, **extra}, PlayingEngine(list(b"Hi"), ending=end))
    assert (reply.status_code, reply.text) == (200, TWO_EVENTS + text)


def test_a_comment_is_sent_after_fifteen_seconds_without_an_event() -> None:
    """Tokens at 10 s, 20 s, 36 s and the end at 65.5 s. The time is counted anew from each event and each comment.

    So comments come 15 s after 20 s and after 36 s; the next one, due at 66 s, is too late.
    """

    async def main() -> list[tuple[float, bytes]]:
        loop = asyncio.get_running_loop()
        engine = HandEngine()
        call = AsgiCall(make_service(engine), "/generate_stream", {"inputs": "a", "parameters": {}})
        await call.start()
        for at_s in (10.0, 20.0, 36.0):
            loop.call_at(at_s, engine.say, 0, "x")
        loop.call_at(65.5, engine.end, 0)
        frames: list[tuple[float, bytes]] = []
        while not frames or frames[-1][1]:
            frame = await call.frame()
            frames.append((round(loop.time(), 3), frame if frame.startswith(b":") else frame[:4]))
        assert await call.done() == []
        return frames

    assert run_in_virtual_time(main()) == [
        (10.0, b"data"),
        (20.0, b"data"),
        (35.0, b":\n\n"),
        (36.0, b"data"),
        (51.0, b":\n\n"),
        (65.5, b"data"),
        (65.5, b""),
    ]


def test_comments_go_on_for_as_long_as_a_request_waits() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        engine = HandEngine()
        call = AsgiCall(make_service(engine), "/generate_stream", {"inputs": "a"}, replace(OPTIONS, keep_alive_s=2.5))
        await call.start()
        times = []
        for _ in range(4):
            assert await call.frame() == b":\n\n"
            times.append(loop.time())
        call.leave()
        assert await call.done() == []
        return times

    assert run_in_virtual_time(main()) == [2.5, 5.0, 7.5, 10.0]


def test_no_comment_follows_the_end() -> None:
    """A regression: an end that met the timer was followed by the comment, which servers take for an error."""

    async def main() -> list[bytes]:
        engine = HandEngine()
        asyncio.get_running_loop().call_at(2.0, engine.end, 0)
        options = replace(OPTIONS, keep_alive_s=2.0)
        call = AsgiCall(make_service(engine), "/generate_stream", {"inputs": "a"}, options)
        await call.start()
        await asyncio.sleep(30.0)
        return [message["body"][:4] for message in await call.done()]

    assert run_in_virtual_time(main()) == [b"data", b""]


def test_a_client_who_does_not_read_finds_one_comment_in_the_end() -> None:
    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        may_write = asyncio.Event()
        written: list[bytes] = []

        async def slow_send(message: Any) -> None:
            await may_write.wait()
            written.append(message.get("body", b"start"))

        async def frames() -> AsyncIterator[bytes]:
            may_write.clear()
            loop.call_later(60.0, may_write.set)
            await asyncio.sleep(61.0)
            yield b"data: {}\n\n"

        async def never() -> Any:
            await loop.create_future()

        may_write.set()
        await EventStream(frames(), {}, 2.0)({"type": "http"}, never, slow_send)
        return written

    assert run_in_virtual_time(main()) == [b"start", b":\n\n", b"data: {}\n\n", b""]


class Call:
    """A stream whose engine is played by hand."""

    def __init__(self) -> None:
        self.engine = HandEngine()
        self.service: GenerationService = make_service(self.engine)

    def dropped(self) -> float:
        return self.service.metrics.request_failure.value(err="dropped")


@pytest.mark.parametrize("num_events", [0, 1, 3])
def test_a_client_who_leaves_frees_the_slot(num_events: int) -> None:
    async def main() -> None:
        here = Call()
        call = AsgiCall(here.service, "/generate_stream", {"inputs": "a", "parameters": {}})
        await call.start()
        await until(lambda: len(here.engine.requests) == 1, "submitted")
        here.engine.say(0, "x" * num_events)
        for _ in range(num_events):
            assert (await call.frame()).startswith(b"data: ")
        assert here.service.num_in_flight == 1
        call.leave()
        assert await call.done() == []
        assert here.engine.cancelled == [here.engine.requests[0].request_id]
        assert (here.service.num_in_flight, here.dropped()) == (0, 1)
        await until(lambda: here.engine.num_open == 0, "the engine let go")

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/generate", "/"])
def test_a_client_who_leaves_before_the_whole_reply_frees_the_slot(path: str) -> None:
    async def main() -> None:
        here = Call()
        call = AsgiCall(here.service, path, {"inputs": "a"})
        await until(lambda: len(here.engine.requests) == 1, "submitted")
        here.engine.say(0, "x")
        call.leave()
        (start, _) = await call.done()
        assert start["status"] == 499
        assert here.engine.cancelled == [here.engine.requests[0].request_id]
        assert (here.service.num_in_flight, here.dropped()) == (0, 1)

    asyncio.run(main())


def test_a_client_who_leaves_after_the_end_was_served() -> None:
    async def main() -> None:
        here = Call()
        call = AsgiCall(here.service, "/generate_stream", {"inputs": "a", "parameters": {}})
        await call.start()
        await until(lambda: len(here.engine.requests) == 1, "submitted")
        here.engine.end(0)
        await call.frame()
        call.leave()
        await call.done()
        assert (here.service.metrics.request_success.value(), here.dropped()) == (1, 0)
        assert here.engine.cancelled == []

    asyncio.run(main())


def test_a_server_that_tells_of_a_left_client_by_an_error_frees_the_slot() -> None:
    """ASGI lets `send` raise OSError after a disconnect."""

    async def main() -> None:
        here = Call()
        call = AsgiCall(here.service, "/generate_stream", {"inputs": "a", "parameters": {}}, breaks_after=2)
        await until(lambda: len(here.engine.requests) == 1, "submitted")
        here.engine.say(0, "xx")
        assert len(await call.done()) == 2
        assert here.engine.cancelled == [here.engine.requests[0].request_id]
        assert (here.service.num_in_flight, here.dropped()) == (0, 1)

    asyncio.run(main())


def test_an_unexpected_error_in_a_stream_is_not_swallowed() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield b"data: {}\n\n"
        raise RuntimeError("a bug")

    async def main() -> None:
        async def send(message: Any) -> None:
            pass

        async def never() -> Any:
            await asyncio.get_running_loop().create_future()

        with pytest.raises(RuntimeError, match="a bug"):
            await EventStream(frames(), {}, 15.0)({"type": "http"}, never, send)

    asyncio.run(main())
