"""Bodies that once held up every other client: what is long goes off the event loop, or is refused at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from http_driver import client_of
from ranvier.errors import ValidationError
from ranvier.grammar import from_regex
from ranvier.service import ChatInput, ChatMessage, ChatService, Grammar
from ranvier.service.grammars import MAX_WRITTEN_BYTES, _text
from ranvier.text import Tokenizer
from serving import LIMITS, PlayingEngine, byte_tokenizer, make_service


class Forbidden:
    """A tokenizers library whose `encode`, which keeps Python's lock, must not be called."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        assert name != "encode", "`encode` stops every other thread"
        return getattr(self._library, name)


def test_texts_are_encoded_by_the_call_that_lets_other_threads_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(byte_tokenizer()._library)
    expected = (tokenizer.encode("nerve é"), tokenizer.encode_with_offsets("nerve é"))
    monkeypatch.setattr(tokenizer, "_library", Forbidden(tokenizer._library))
    assert (tokenizer.encode("nerve é"), tokenizer.encode_with_offsets("nerve é")) == expected


def test_many_empty_messages_are_rendered_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no characters, but each is a round of the template's loop."""

    async def main() -> int:
        service = make_service(PlayingEngine([97]))
        weights: list[int] = []
        off_loop = service.off_loop

        async def weighed(num_characters: int, work: Any) -> Any:
            weights.append(num_characters)
            return await off_loop(num_characters, work)

        monkeypatch.setattr(service, "off_loop", weighed)
        message = ChatMessage(role="user", content="")
        await ChatService(service).prepare(ChatInput(messages=(message,) * 1000))
        service.close()
        return max(weights)

    assert asyncio.run(main()) > 10_000


def test_a_schema_is_weighed_before_anything_walks_through_it() -> None:
    schema = {"properties": {}, "x": [[]] * MAX_WRITTEN_BYTES}
    with pytest.raises(ValidationError) as caught:
        _text(Grammar("json", schema))
    assert str(caught.value) == (f"grammar is not valid: it has more than {MAX_WRITTEN_BYTES} bytes; make it smaller")


def test_a_repetition_of_many_digits_is_read_once() -> None:
    """A regression: the pattern that reads `{n,m}` tried every way to cut the digits in two, for nine seconds."""
    with pytest.raises(ValidationError):
        from_regex("a{" + "1" * 32_000)


def test_token_ids_over_the_limit_are_refused_before_they_are_decoded() -> None:
    async def main() -> tuple[int, str]:
        async with client_of(make_service(PlayingEngine([97]))) as client:
            body = {"prompt": [97] * (LIMITS.max_input_tokens + 1)}
            reply = await client.post("/v1/completions", json=body)
            return reply.status_code, reply.json()["error"]

    assert asyncio.run(main()) == (422, "Input validation error: `inputs` must have less than 32 tokens. Given: 33")
