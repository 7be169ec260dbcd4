"""Tool calls in streams of `/v1/chat/completions`. The engine is played."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from openai_requests import CHAT, Played, chat, play, said, script
from openai_tools import PARIS, WEATHER, ask, tool

from http_driver import AsgiCall
from ranvier.api.openai import replies
from ranvier.core import FailEvent
from serving import LONG, call_text, scripted_service


def deltas(found: Played) -> list[dict[str, Any]]:
    """The calls' parts of a stream, each with its reason."""
    return [{**choice["delta"], "reason": choice["finish_reason"]} for e in found.events for choice in e["choices"]]


def joined(found: Played) -> tuple[str, str, set[str]]:
    """Name, arguments and ids of a streamed call."""
    calls = [call for delta in deltas(found) for call in delta.get("tool_calls", [])]
    names = [call["function"]["name"] for call in calls]
    assert names.count(None) == len(names) - 1
    return names[0], "".join(call["function"]["arguments"] for call in calls), {call["id"] for call in calls}


def test_the_events_of_a_call_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "time", SimpleNamespace(time=lambda: 5.9))

    def event(delta: str, reason: str) -> str:
        return (
            'data: {"object":"chat.completion.chunk","id":"","created":5,"model":"ranvier/scripted",'
            f'"system_fingerprint":"{replies.FINGERPRINT}","choices":[{{"index":0,"delta":{delta},"logprobs":null,'
            f'"finish_reason":{reason}}}],"usage":null}}\n\n'
        )

    call = '{"index":0,"id":"0","type":"function","function":{"name":"time","arguments":"{}"}}'
    assert ask(script(call_text("time")), stream=True).reply.text == (
        event(f'{{"role":"assistant","tool_calls":[{call}]}}', "null")
        + event('{"role":"assistant","content":""}', '"stop"')
        + "data: [DONE]\n\n"
    )


def test_a_streamed_call_is_its_name_then_pieces_of_its_arguments_then_the_reason() -> None:
    found = deltas(ask(script(call_text("time", a="}")), stream=True))

    def part(name: str | None, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        call = {"index": 0, "id": "0", "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call], "reason": None}

    pieces = [part(None, character) for character in '"a":"}"}']
    assert found == [part("time", "{"), *pieces, {"role": "assistant", "content": "", "reason": "stop"}]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (call_text("time"), "{}"),
        (call_text("time", city='é{\\"😀'), json.dumps({"city": 'é{\\"😀'}, ensure_ascii=False, separators=(",", ":"))),
        (call_text("time", a={"b": [{}, "]"]}, c=None), '{"a":{"b":[{},"]"]},"c":null}'),
        ('{"function":{"_name":"time","a":"\\ud800"}}', '{"a":"\\ud800"}'),
    ],
)
def test_the_pieces_joined_are_the_arguments(text: str, arguments: str) -> None:
    found = ask(script(text), stream=True)
    assert joined(found) == ("time", arguments, {"0"})
    assert deltas(found)[-1] == {"role": "assistant", "content": "", "reason": "stop"}


def test_a_streamed_call_that_is_cut_says_so_and_is_no_error() -> None:
    found = ask(stream=True, max_tokens=len(PARIS) - 4)
    assert joined(found)[:2] == ("weather", '{"city":"Paris')
    assert [delta["reason"] for delta in deltas(found)][-1] == "length"
    cut_before_the_name = ask(stream=True, max_tokens=10)
    assert deltas(cut_before_the_name) == [{"role": "assistant", "content": "", "reason": "length"}]


@pytest.mark.parametrize(
    ("ids", "next_id"), [([], "0"), (["0"], "1"), (["3", "11"], "12"), (["7", "2"], "8"), (["007"], "8")]
)
def test_a_streamed_call_counts_on_from_the_calls_before(ids: list[str], next_id: str) -> None:
    calls = [{"id": each, "type": "function", "function": {"name": "time"}} for each in ids]
    before = [{"role": "assistant", "tool_calls": [call]} for call in calls]
    found = play(CHAT, chat(said("a"), *before, said("b"), tools=[WEATHER], stream=True), PARIS)
    assert joined(found)[2] == {next_id}


@pytest.mark.parametrize("odd", ["call_1", "", "-1", "1.0", "\u0663", "9" * 20])
def test_where_an_id_is_no_number_the_next_is_a_uuid(odd: str) -> None:
    calls = [{"id": each, "type": "function", "function": {"name": "time"}} for each in ("1", odd)]
    before = {"role": "assistant", "tool_calls": calls}
    found = play(CHAT, chat(before, said("b"), tools=[WEATHER], stream=True), PARIS)
    (call_id,) = joined(found)[2]
    assert [len(part) for part in call_id.split("-")] == [8, 4, 4, 4, 12]


def test_a_call_that_fails_is_an_error_event() -> None:
    body = chat(tools=[WEATHER], stream=True)
    found = play(CHAT, body, list(b'{"fun'), ending=lambda request_id: FailEvent(request_id, "no"))
    text = "Request failed during generation: Server error: no"
    assert found.events == [{"error": {"message": text, "http_status_code": 422}}]


def test_log_probabilities_come_with_the_pieces() -> None:
    found = ask(script(call_text("time")), stream=True, logprobs=True)
    logged = [choice["logprobs"] for event in found.events for choice in event["choices"]]
    assert [each["content"][0]["token"] for each in logged] == ["}", "<|end|>"]


def test_a_client_that_leaves_while_nothing_is_sent_yet_frees_its_slot() -> None:
    async def main() -> None:
        async with scripted_service(limits=LONG) as service:
            endless = tool("f", {"properties": {"a": {"type": "string"}}, "required": ["a"]})
            call = AsgiCall(service, CHAT, chat(tools=[endless], stream=True, n=3))
            await call.start()
            call.leave()
            await call.done()
            assert service.num_in_flight == 0

    asyncio.run(main())
