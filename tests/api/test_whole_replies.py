"""Whole replies of POST `/generate` and `/`: bodies to the byte, headers. The engine is played.

A played token has the log-probability -0.5 unless the script says otherwise.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest

from http_driver import client_of
from ranvier.api import headers
from ranvier.core import TokenChoice, TokenLogprob
from ranvier.service import Finished, Timings, TokenPiece
from serving import END, MARK, PlayingEngine, Script, make_service

HI: Script = [*b"Hi", END]


def post(path: str, body: dict[str, Any], *scripts: Script) -> httpx.Response:
    async def main() -> httpx.Response:
        async with client_of(make_service(PlayingEngine(*(scripts or [HI])))) as client:
            return await client.post(path, json=body)

    return asyncio.run(main())


def text_of(path: str, body: dict[str, Any], *scripts: Script) -> str:
    """The body of a 200, with each seed that was drawn as SEED."""
    reply = post(path, body, *scripts)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    return re.sub(r'"seed":\d{6,}', '"seed":SEED', reply.text)


DETAILS = (
    '{"finish_reason":"eos_token","generated_tokens":3,"seed":null,"prefill":[],"tokens":['
    '{"id":72,"text":"H","logprob":-0.5,"special":false},'
    '{"id":105,"text":"i","logprob":-0.5,"special":false},'
    '{"id":256,"text":"<|end|>","logprob":-0.5,"special":true}]}'
)


def test_without_details_there_is_only_the_text() -> None:
    assert text_of("/generate", {"inputs": "a", "parameters": {}}) == '{"generated_text":"Hi"}'
    assert text_of("/generate", {"inputs": "a", "parameters": {"details": False}}) == '{"generated_text":"Hi"}'


def test_details_follow_the_text() -> None:
    text = text_of("/generate", {"inputs": "a", "parameters": {"details": True}})
    assert text == f'{{"generated_text":"Hi","details":{DETAILS}}}'


@pytest.mark.parametrize(
    ("full_text", "shown"),
    [
        ({}, "Hi"),
        ({"return_full_text": None}, "Hi"),
        ({"return_full_text": False}, "Hi"),
        ({"return_full_text": True}, "Oh! Hi"),
    ],
)
def test_generate_prepends_the_prompt_only_when_asked(full_text: dict[str, Any], shown: str) -> None:
    text = text_of("/generate", {"inputs": "Oh! ", "parameters": full_text})
    assert text == f'{{"generated_text":"{shown}"}}'


@pytest.mark.parametrize(
    ("extra", "shown"),
    [
        ({}, "Oh! Hi"),
        ({"parameters": {}}, "Oh! Hi"),
        ({"parameters": {"return_full_text": None}, "stream": False}, "Oh! Hi"),
        ({"parameters": {"return_full_text": True}}, "Oh! Hi"),
        ({"parameters": {"return_full_text": False}}, "Hi"),
    ],
)
def test_the_compat_route_gives_a_list_of_one_with_the_prompt_unless_refused(extra: dict[str, Any], shown: str) -> None:
    assert text_of("/", {"inputs": "Oh! ", **extra}) == f'[{{"generated_text":"{shown}"}}]'


def test_the_compat_route_has_the_same_details() -> None:
    text = text_of("/", {"inputs": "a", "parameters": {"details": True}})
    assert text == f'[{{"generated_text":"aHi","details":{DETAILS}}}]'


def test_the_whole_prompt_is_prepended_even_if_it_was_truncated() -> None:
    parameters = {"truncate": 1, "return_full_text": True}
    assert text_of("/generate", {"inputs": "Oh! ", "parameters": parameters}) == '{"generated_text":"Oh! Hi"}'


def sampling_of(body: dict[str, Any], path: str = "/generate") -> bool:
    async def main() -> bool:
        engine = PlayingEngine(HI)
        async with client_of(make_service(engine)) as client:
            assert (await client.post(path, json=body)).status_code == 200
        return engine.requests[0].sampling.do_sample

    return asyncio.run(main())


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_without_parameters_tokens_are_sampled_and_with_empty_ones_they_are_not(path: str) -> None:
    """TGI's trap: the default of `do_sample` depends on whether its object is there."""
    assert sampling_of({"inputs": "a"}, path)
    assert not sampling_of({"inputs": "a", "parameters": {}}, path)
    assert not sampling_of({"inputs": "a", "parameters": {"details": True}}, path)
    assert sampling_of({"inputs": "a", "parameters": {"do_sample": True}}, path)


def test_the_seed_is_null_when_greedy_and_told_when_sampled() -> None:
    def seed(parameters: dict[str, Any]) -> Any:
        reply = post("/generate", {"inputs": "a", "parameters": {"details": True, **parameters}})
        return reply.json()["details"]["seed"]

    assert seed({}) is None
    assert seed({"seed": 7}) is None
    assert seed({"seed": 7, "do_sample": True}) == 7
    assert seed({"seed": 2**64 - 1, "temperature": 0.5}) == 2**64 - 1
    assert 0 <= seed({"top_k": 3}) < 2**64


def test_top_tokens_are_a_list_for_each_token() -> None:
    script: Script = [
        TokenChoice(72, -0.25, (TokenLogprob(72, -0.25), TokenLogprob(MARK, -1.5))),
        TokenChoice(END, -0.125, (TokenLogprob(END, -0.125), TokenLogprob(10, -2.0))),
    ]
    text = text_of("/generate", {"inputs": "a", "parameters": {"details": True, "top_n_tokens": 2}}, script)
    assert text == (
        '{"generated_text":"H","details":{"finish_reason":"eos_token","generated_tokens":2,"seed":null,"prefill":[],'
        '"tokens":[{"id":72,"text":"H","logprob":-0.25,"special":false},'
        '{"id":256,"text":"<|end|>","logprob":-0.125,"special":true}],'
        '"top_tokens":[[{"id":72,"text":"H","logprob":-0.25,"special":false},'
        '{"id":257,"text":"<|mark|>","logprob":-1.5,"special":true}],'
        '[{"id":256,"text":"<|end|>","logprob":-0.125,"special":true},'
        '{"id":10,"text":"\\n","logprob":-2.0,"special":false}]]}}'
    )


def test_best_of_gives_the_others_beside_the_best() -> None:
    first: Script = [TokenChoice(65, -2.0), TokenChoice(END, -2.0)]
    second: Script = [TokenChoice(66, -1.0, (TokenLogprob(66, -1.0),)), TokenChoice(END, -1.0)]
    parameters = {"best_of": 2, "do_sample": True, "details": True, "return_full_text": True}
    text = text_of("/generate", {"inputs": "x", "parameters": parameters}, first, second)
    assert text == (
        '{"generated_text":"xB","details":{"finish_reason":"eos_token","generated_tokens":2,"seed":SEED,"prefill":[],'
        '"tokens":[{"id":66,"text":"B","logprob":-1.0,"special":false},'
        '{"id":256,"text":"<|end|>","logprob":-1.0,"special":true}],'
        '"best_of_sequences":[{"generated_text":"xA","finish_reason":"eos_token","generated_tokens":2,"seed":SEED,'
        '"prefill":[],"tokens":[{"id":65,"text":"A","logprob":-2.0,"special":false},'
        '{"id":256,"text":"<|end|>","logprob":-2.0,"special":true}]}],'
        '"top_tokens":[[{"id":66,"text":"B","logprob":-1.0,"special":false}],[]]}}'
    )


@pytest.mark.parametrize("best_of", [None, 0, 1])
def test_one_sequence_has_no_others(best_of: int | None) -> None:
    text = text_of("/generate", {"inputs": "a", "parameters": {"details": True, "best_of": best_of}})
    assert text == f'{{"generated_text":"Hi","details":{DETAILS}}}'


def test_best_of_without_details_is_only_the_best_text() -> None:
    scripts: list[Script] = [[TokenChoice(65, -2.0), END], [TokenChoice(66, -1.0), END]]
    parameters = {"best_of": 2, "do_sample": True}
    assert text_of("/generate", {"inputs": "x", "parameters": parameters}, *scripts) == '{"generated_text":"B"}'


def test_text_is_utf8_and_not_escaped() -> None:
    text = text_of("/generate", {"inputs": "a", "parameters": {}}, [*'é你好👋"\\\n\x00'.encode(), END])
    assert text == '{"generated_text":"é你好👋\\"\\\\\\n\\u0000"}'


TIMED = {
    "x-compute-time",
    "x-total-time",
    "x-validation-time",
    "x-queue-time",
    "x-inference-time",
    "x-time-per-token",
}


@pytest.mark.parametrize("path", ["/generate", "/"])
def test_a_whole_reply_has_tgis_headers(path: str) -> None:
    """`é👋` is 2 characters and 6 bytes, so 6 tokens."""
    reply = post(path, {"inputs": "é👋", "parameters": {"truncate": 5}})
    found = {name: value for name, value in reply.headers.items() if name.startswith("x-")}
    assert found.keys() == TIMED | {"x-compute-type", "x-compute-characters", "x-prompt-tokens", "x-generated-tokens"}
    assert found["x-compute-type"] == "cpu"
    assert found["x-compute-characters"] == "2"
    assert found["x-prompt-tokens"] == "5"
    assert found["x-generated-tokens"] == "3"
    assert re.fullmatch(r"\d+\.\d+", found["x-compute-time"])
    assert all(re.fullmatch(r"\d+", found[name]) for name in TIMED - {"x-compute-time"})


def finished_with(tokens: tuple[TokenPiece, ...], timings: Timings, *, num_input: int) -> Finished:
    return Finished(
        text="H" * len(tokens),
        reason="length",
        tokens=tokens,
        num_input=num_input,
        num_reused=0,
        seed=None,
        timings=timings,
        request_id="r",
    )


def test_header_times_are_whole_milliseconds_but_for_the_compute_time_in_seconds() -> None:
    """Arrived at 10 s, queued 0.0021 later, started at 10.5, done at 12.25: 3 tokens in 1.75 s, 583.3 ms each."""
    piece = TokenPiece(72, "H", -0.5, is_special=False, visible="H")
    timings = Timings(arrived_s=10.0, queued_s=10.0021, started_s=10.5, first_token_s=11.0, done_s=12.25)
    finished = finished_with((piece,) * 3, timings, num_input=7)
    assert headers.generation("gpu+optimized", 9, [[finished]]) == {
        "x-compute-type": "gpu+optimized",
        "x-compute-characters": "9",
        "x-compute-time": "2.250000000",
        "x-total-time": "2250",
        "x-validation-time": "2",
        "x-queue-time": "497",
        "x-inference-time": "1750",
        "x-time-per-token": "583",
        "x-prompt-tokens": "7",
        "x-generated-tokens": "3",
    }


def test_a_very_short_compute_time_has_no_exponent() -> None:
    """A regression: 20 microseconds came as `2e-05`."""
    piece = TokenPiece(72, "H", -0.5, is_special=False, visible="H")
    timings = Timings(arrived_s=0.0, queued_s=0.0, started_s=0.0, first_token_s=0.0, done_s=0.00002)
    finished = finished_with((piece,), timings, num_input=1)
    assert headers.generation("cpu", 1, [[finished]])["x-compute-time"] == "0.000020000"


def test_best_of_headers_are_those_of_the_best_sequence() -> None:
    scripts: list[Script] = [[TokenChoice(65, -2.0), 65, END], [TokenChoice(END, -0.1)]]
    reply = post("/generate", {"inputs": "x", "parameters": {"best_of": 2, "do_sample": True}}, *scripts)
    assert reply.headers["x-generated-tokens"] == "1"
