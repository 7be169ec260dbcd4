"""POST `/tokenize`: ids, byte positions, and what lies between them."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_driver import client_of
from ranvier.api.tokenizing import ChatTokenizeResponse, to_tokens, tokens_json
from ranvier.service import ServiceLimits
from ranvier.text import Tokenizer
from serving import END, MARK, ONE_TWO, HandEngine, byte_tokenizer, make_service


def tokenize(body: Any, tokenizer: Tokenizer | None = None) -> httpx.Response:
    """The reply; no metric of TGI has moved, no permit was asked for, and the engine has heard of nothing."""

    async def main() -> httpx.Response:
        engine = HandEngine()
        engine.is_healthy = False
        service = make_service(engine, tokenizer=tokenizer, limits=ServiceLimits(max_concurrent_requests=1))
        service.drain()
        async with client_of(service) as client:
            reply = await client.post("/tokenize", json=body)
        assert "tgi_" not in service.metrics.render()
        assert engine.requests == []
        service.close()
        return reply

    return asyncio.run(main())


def token(token_id: int, text: str, start: int, stop: int) -> dict[str, object]:
    return {"id": token_id, "text": text, "start": start, "stop": stop}


def test_the_reply_is_a_bare_list() -> None:
    reply = tokenize({"inputs": "one. two!"})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert reply.text == '[{"id":258,"text":"one. two","start":0,"stop":8},{"id":33,"text":"!","start":8,"stop":9}]'
    assert [name for name in reply.headers if name.startswith("x-")] == []


def test_special_tokens_are_put_in_and_have_no_place() -> None:
    reply = tokenize({"inputs": "a<|end|>"}, byte_tokenizer(adds_mark=True))
    assert reply.json() == [token(MARK, "", 0, 0), token(97, "a", 0, 1), token(END, "<|end|>", 1, 8)]


def test_positions_are_bytes_and_tokens_of_one_character_span_it() -> None:
    """é has two bytes and 🧠 four, and here each byte is a token."""
    first, second = "é".encode()
    brain = "🧠".encode()
    assert tokenize({"inputs": "é!🧠one. two"}).json() == [
        token(first, "é", 0, 2),
        token(second, "é", 0, 2),
        token(33, "!", 2, 3),
        *(token(byte, "🧠", 3, 7) for byte in brain),
        token(ONE_TWO, "one. two", 7, 15),
    ]


def test_nothing_has_no_tokens() -> None:
    assert tokenize({"inputs": ""}).text == "[]"
    assert tokenize({"inputs": ""}, byte_tokenizer(adds_mark=True)).json() == [token(MARK, "", 0, 0)]


def test_parameters_need_the_right_shape_and_no_right_values() -> None:
    fine = {"max_new_tokens": 0, "truncate": 1, "temperature": -1.0, "best_of": 99}
    assert len(tokenize({"inputs": "abc", "parameters": fine}).json()) == 3
    reply = tokenize({"inputs": "abc", "parameters": {"truncate": "1"}})
    assert (reply.status_code, reply.headers["content-type"]) == (422, "text/plain; charset=utf-8")
    assert "parameters.truncate: Expected `int" in reply.text
    assert tokenize({"inputs": ["abc"]}).status_code == 422
    assert tokenize({}).status_code == 422


def test_a_text_longer_than_any_prompt_is_tokenized_whole_on_another_thread() -> None:
    threads = []

    class Watched(Tokenizer):
        def encode_with_offsets(self, text: str, *, add_special_tokens: bool = True) -> list[tuple[int, int, int]]:
            threads.append(threading.current_thread())
            return super().encode_with_offsets(text, add_special_tokens=add_special_tokens)

    text = "one. two" * 3000 + "é"
    watched = Watched(byte_tokenizer()._library)
    tokens = tokenize({"inputs": text}, watched).json()
    assert len(tokens) == 3002
    assert tokens[-3:] == [
        token(ONE_TWO, "one. two", 23_992, 24_000),
        *(token(byte, "é", 24_000, 24_002) for byte in "é".encode()),
    ]
    assert tokenize({"inputs": "short"}, watched).status_code == 200
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


def reference(text: str, tokens: list[tuple[int, int, int]]) -> list[dict[str, object]]:
    data = text.encode()
    return [token(token_id, data[start:stop].decode(errors="replace"), start, stop) for token_id, start, stop in tokens]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.data())
def test_any_positions_give_the_text_between_them(text: str, data: st.DataObject) -> None:
    """Also within a character, as other tokenizers have it: what is no text is U+FFFD."""
    place = st.integers(0, len(text.encode()))
    tokens = data.draw(st.lists(st.tuples(st.integers(0, 9), place, place)))
    assert json.loads(bytes(asyncio.run(tokens_json(text, tokens)))) == reference(text, tokens)
    assert msgspec.to_builtins(to_tokens(text, tokens)) == reference(text, tokens)


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2000, 2001])
def test_long_lists_are_written_in_parts_and_others_get_their_turn(count: int) -> None:
    async def main() -> tuple[bytes, int]:
        num_turns = 0

        async def other() -> None:
            nonlocal num_turns
            while True:
                num_turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        written = await tokens_json("abc", [(7, 0, 3)] * count)
        task.cancel()
        return bytes(written), num_turns

    written, num_turns = asyncio.run(main())
    assert json.loads(written) == [token(7, "abc", 0, 3)] * count
    assert num_turns == max(0, (count - 1) // 1000)


def test_the_tokens_of_a_chat_stand_beside_its_prompt() -> None:
    reply = ChatTokenizeResponse(to_tokens("aé", [(97, 0, 1), (98, 2, 3)]), "aé")
    assert msgspec.json.decode(msgspec.json.encode(reply)) == {
        "tokenize_response": [token(97, "a", 0, 1), token(98, "\ufffd", 2, 3)],
        "templated_text": "aé",
    }
