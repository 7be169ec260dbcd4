"""Every validation rule as a reply of each route: the whole body, and which of two mistakes is told.

Limits: slots of 64 tokens, prompts of 32 at most; one byte of the prompt is one token.
"""

from __future__ import annotations

import asyncio
from itertools import combinations
from typing import Any

import httpx
import pytest

from http_driver import client_of
from ranvier.core import Limits
from ranvier.service import ServiceLimits
from serving import END, LIMITS, PlayingEngine, make_service


def post(
    path: str, body: dict[str, Any], *, limits: Limits = LIMITS, service_limits: ServiceLimits | None = None
) -> httpx.Response:
    async def main() -> httpx.Response:
        service = make_service(PlayingEngine([97, END], limits=limits), limits=service_limits)
        async with client_of(service) as client:
            reply = await client.post(path, json=body)
        assert service.num_in_flight == 0
        return reply

    return asyncio.run(main())


def error(text: str) -> str:
    return f'{{"error":"Input validation error: {text}","error_type":"validation"}}'


def assert_refused(reply: httpx.Response, text: str) -> None:
    assert (reply.status_code, reply.text) == (422, error(text))
    assert reply.headers["content-type"] == "application/json"
    assert not [name for name in reply.headers if name.startswith("x-")]


def assert_refused_in_stream(reply: httpx.Response, text: str) -> None:
    assert (reply.status_code, reply.text) == (200, f"data: {error(text)}\n\n")
    assert reply.headers["content-type"] == "text/event-stream"


GRAMMAR = {"type": "json", "value": {"properties": {}}}
TOTAL = "`inputs` tokens + `max_new_tokens` must be <= 64. "
UNSUPPORTED = "is not supported by this server (target hand); leave it out"

BEFORE_PERMIT: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
]
RULES: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": -0.1}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 32. Given: 0"),
    ({"truncate": 33}, "`truncate` must be strictly positive and less than 32. Given: 33"),
    ({"max_new_tokens": 64}, TOTAL + "Given: 1 `inputs` tokens and 64 `max_new_tokens`"),
    ({"inputs": "x" * 33}, "`inputs` must have less than 32 tokens. Given: 33"),
    ({"inputs": "x" * 64}, "`inputs` must have less than 32 tokens. Given: 64"),
    ({"inputs": "x" * 65}, TOTAL + "Given: 65 `inputs` tokens and 0 `max_new_tokens`"),
    ({"watermark": True}, f"`watermark` {UNSUPPORTED}"),
    ({"adapter_id": "lora"}, "`adapter_id` is not supported by this server: it has no adapters; leave it out"),
    ({"grammar": GRAMMAR}, "grammar is not supported"),
]
ONLY_WHOLE = [rule for rule in RULES if "best_of" in rule[0]]
ONLY_STREAM: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
    ({"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
    ({"best_of": 3, "do_sample": True}, "`best_of` != 1 is not supported when streaming tokens"),
    ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported when streaming tokens"),
]
STREAM_RULES = ONLY_STREAM + [rule for rule in RULES if rule not in ONLY_WHOLE]


def body_of(*mistakes: dict[str, Any]) -> dict[str, Any]:
    """A request with these mistakes; `inputs` beside the parameters."""
    parameters = {name: value for mistake in mistakes for name, value in mistake.items()}
    inputs = parameters.pop("inputs", "a")
    return {"inputs": inputs, "parameters": parameters}


@pytest.mark.parametrize(("mistake", "text"), BEFORE_PERMIT + RULES)
def test_a_mistake_is_told_in_tgis_words(mistake: dict[str, Any], text: str) -> None:
    assert_refused(post("/generate", body_of(mistake)), text)
    assert_refused(post("/", body_of(mistake)), text)
    assert_refused(post("/", {**body_of(mistake), "stream": False}), text)


@pytest.mark.parametrize(("mistake", "text"), STREAM_RULES)
def test_a_mistake_in_a_stream_is_its_only_event(mistake: dict[str, Any], text: str) -> None:
    assert_refused_in_stream(post("/generate_stream", body_of(mistake)), text)
    assert_refused_in_stream(post("/", {**body_of(mistake), "stream": True}), text)


IMPLY_SAMPLING = {"temperature", "top_p", "typical_p", "top_k", "do_sample"}


def pairs(rules: list[tuple[dict[str, Any], str]]) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Two mistakes in different fields, the one to be told first; not where the second makes the first right."""
    return [
        (first, second, text.replace("Given: 1 ", f"Given: {len(second.get('inputs', 'a'))} "))
        for (first, text), (second, _) in combinations(rules, 2)
        if not first.keys() & second.keys() and not (first == {"best_of": 2} and IMPLY_SAMPLING & second.keys())
    ]


def test_of_any_two_mistakes_the_earlier_rule_is_told() -> None:
    async def main() -> None:
        service = make_service(PlayingEngine([97, END]))
        async with client_of(service) as client:
            for first, second, text in pairs(BEFORE_PERMIT + RULES):
                assert_refused(await client.post("/generate", json=body_of(first, second)), text)
            for first, second, text in pairs(STREAM_RULES):
                body = body_of(first, second)
                assert_refused_in_stream(await client.post("/generate_stream", json=body), text)

    assert len(pairs(BEFORE_PERMIT + RULES)) > 200
    asyncio.run(main())


def test_best_of_may_be_switched_off() -> None:
    body = body_of({"best_of": 2, "do_sample": True})
    reply = post("/generate", body, service_limits=ServiceLimits(max_best_of=1))
    assert_refused(reply, "`best_of` != 1 is not allowed for this endpoint")


def test_limits_of_five_and_six_tokens() -> None:
    """The golden case: a prompt of one token and ten more do not fit six."""
    limits = Limits(batch_size=1, sequence_length=6, max_input_tokens=5, max_batch_prefill_tokens=64)
    reply = post("/generate", body_of({"max_new_tokens": 10}), limits=limits)
    text = "`inputs` tokens + `max_new_tokens` must be <= 6. Given: 1 `inputs` tokens and 10 `max_new_tokens`"
    assert_refused(reply, text)


@pytest.mark.parametrize(
    "fine",
    [
        {"best_of": 0},
        {"best_of": 1},
        {"top_k": 1},
        {"top_n_tokens": 0},
        {"top_n_tokens": 5},
        {"frequency_penalty": -2},
        {"stop": ["a", "b", "c", "d"]},
        {"seed": 0},
        {"truncate": 32},
        {"truncate": 1, "inputs": "x" * 100},
        {"max_new_tokens": 63},
        {"inputs": "x" * 32, "max_new_tokens": 32},
    ],
)
def test_values_at_their_limits_are_served(fine: dict[str, Any]) -> None:
    assert post("/generate", body_of(fine)).status_code == 200


def test_a_huge_max_new_tokens_is_served_where_1024_fit() -> None:
    limits = Limits(batch_size=1, sequence_length=1025, max_input_tokens=64, max_batch_prefill_tokens=64)
    assert post("/generate", body_of({"max_new_tokens": 100_000}), limits=limits).status_code == 200
    reply = post("/generate", body_of({"max_new_tokens": 100_000, "inputs": "ab"}), limits=limits)
    text = "`inputs` tokens + `max_new_tokens` must be <= 1025. Given: 2 `inputs` tokens and 1024 `max_new_tokens`"
    assert_refused(reply, text)
