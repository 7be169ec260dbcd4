"""Reasoning in chats: what a model thinks between markers is told apart from its answer, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_requests import CHAT, Played, chat, play, said
from openai_tools import DECLINED, WEATHER

from serving import END, END_THINK, MARK, THINK, Script, byte_tokenizer

CLOSES = "{{ messages[-1].content }}{# </think> #}"
OPENS = CLOSES + "<think>\n"
TEXT: Script = [*b"<think>\nWhy?\n</think>\n\nSo.", END]
SPECIAL: Script = [THINK, *b"\nWhy?\n", END_THINK, *b"\n\nSo.", END]


def ask(script: Script, *messages: dict[str, Any], template: str = CLOSES, **fields: Any) -> Played:
    body = chat(*messages, **fields)
    return play(CHAT, body, script, template=template, tokenizer=byte_tokenizer(thinks=True))


def whole(found: Played) -> dict[str, Any]:
    message: dict[str, Any] = found.json["choices"][0]["message"]
    return message


def streamed(found: Played) -> dict[str, str]:
    """Content and reasoning of a stream, joined."""
    joined = {"content": "", "reasoning_content": ""}
    for event in found.events:
        for choice in event["choices"]:
            for name in joined:
                joined[name] += choice["delta"].get(name, "")
    return joined


@pytest.mark.parametrize("script", [TEXT, SPECIAL], ids=["as text", "as special tokens"])
def test_reasoning_is_told_apart_from_the_content(script: Script) -> None:
    message = whole(ask(script))
    assert message == {"role": "assistant", "content": "So.", "reasoning_content": "Why?"}
    assert list(message) == ["role", "content", "reasoning_content"]
    assert streamed(ask(script, stream=True)) == {"content": "So.", "reasoning_content": "Why?"}


def test_each_chunk_has_reasoning_or_content_and_markers_have_neither() -> None:
    deltas = [event["choices"][0]["delta"] for event in ask(SPECIAL, stream=True).events]
    assert len(deltas) == len(SPECIAL)
    thoughts = [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta]
    assert (thoughts, [delta["content"] for delta in deltas if delta["content"]]) == (list("Why?"), list("So."))
    assert all(not delta["content"] for delta in deltas if "reasoning_content" in delta)


@pytest.mark.parametrize("script", [TEXT[8:], SPECIAL[1:]], ids=["as text", "as special tokens"])
def test_a_template_may_have_opened_the_reasoning(script: Script) -> None:
    assert whole(ask(script, template=OPENS))["reasoning_content"] == "Why?"
    assert streamed(ask(script, template=OPENS, stream=True)) == {"content": "So.", "reasoning_content": "Why?"}


def test_an_answer_cut_in_its_reasoning_has_no_content() -> None:
    for fields in ({"stream": True}, {}):
        found = ask(TEXT, max_tokens=len("<think>\nWhy"), **fields)
        told = streamed(found) if fields else whole(found)
        assert (told["content"], told["reasoning_content"]) == ("", "Why")


def test_an_answer_without_markers_is_content_alone() -> None:
    plain: Script = [*b" So. ", END]
    assert whole(ask(plain)) == {"role": "assistant", "content": " So. "}
    assert streamed(ask(plain, stream=True)) == {"content": " So. ", "reasoning_content": ""}


def test_where_the_template_knows_no_markers_they_are_text() -> None:
    template = "{{ messages[-1].content }}"
    assert whole(ask(TEXT, template=template))["content"] == "<think>\nWhy?\n</think>\n\nSo."
    assert whole(ask(SPECIAL, template=template))["content"] == "\nWhy?\n\n\nSo."


def test_a_continued_answer_goes_on_with_its_reasoning() -> None:
    begun = said("<think>\nBec", "assistant")
    rest: Script = [*b"ause</think>So.", END]
    for fields in ({"stream": True}, {}):
        found = ask(rest, said("Why?"), begun, **fields)
        told = streamed(found) if fields else whole(found)
        assert (told["content"], told["reasoning_content"]) == ("So.", "ause")
    done = said("<think>Because</think>S", "assistant")
    assert whole(ask([*b"o.", END], said("Why?"), done)) == {"role": "assistant", "content": "o."}


def test_a_format_leaves_no_room_for_reasoning() -> None:
    found = ask(TEXT, response_format={"type": "regex", "value": "a"})
    assert "reasoning_content" not in whole(found)


def test_tokens_of_the_reasoning_are_counted_and_logged_like_others() -> None:
    found = ask(SPECIAL, logprobs=True)
    assert found.json["usage"]["completion_tokens"] == len(SPECIAL)
    assert len(found.json["choices"][0]["logprobs"]["content"]) == len(SPECIAL)
    assert all(event["choices"][0]["logprobs"] for event in ask(SPECIAL, logprobs=True, stream=True).events)


def test_a_model_that_declines_its_tools_may_reason_then() -> None:
    for stream in (False, True):
        body = chat(tools=[WEATHER], stream=stream)
        found = play(CHAT, body, DECLINED, SPECIAL, template=CLOSES, tokenizer=byte_tokenizer(thinks=True))
        told = streamed(found) if stream else whole(found)
        assert (told["content"], told["reasoning_content"]) == ("So.", "Why?")


def test_each_of_several_answers_has_its_own_reasoning() -> None:
    other: Script = [*b"No.", END]
    found = play(CHAT, chat(n=2), TEXT, other, template=CLOSES, tokenizer=byte_tokenizer(thinks=True))
    messages = [choice["message"] for choice in found.json["choices"]]
    assert [message.get("reasoning_content") for message in messages] == ["Why?", None]


tokens = st.sampled_from([THINK, END_THINK, MARK, *b"<think>/ \na", *"é".encode()])
texts = st.sampled_from([[THINK], [END_THINK], list(b"<think>"), list(b"</think>")]) | st.lists(tokens, max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(texts, max_size=6), st.booleans(), st.integers(1, 40))
def test_a_stream_adds_up_to_the_whole_reply(parts: list[list[int]], is_open: bool, max_tokens: int) -> None:
    script: Script = [*(token for part in parts for token in part), END]
    options: dict[str, Any] = {"template": OPENS if is_open else CLOSES, "max_tokens": max_tokens}
    message = whole(ask(script, **options))
    assert streamed(ask(script, **options, stream=True)) == {
        "content": message["content"],
        "reasoning_content": message.get("reasoning_content", ""),
    }
