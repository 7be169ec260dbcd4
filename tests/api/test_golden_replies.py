"""Whole replies of the scripted target, kept in `golden/`; `serving` works out their tokens by hand.

The chosen token's log-probability is -0.084549 and that of the likeliest other one, which is id 0 as the smallest
among equals, is 8 less. Log-probabilities are kept to six decimals: the last digits of a sum differ between machines.
With `top_k` 1 one token is left, so its log-probability is 0.0 and the seed has no say.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from http_driver import client_of
from serving import scripted_service

GOLDEN = Path(__file__).with_name("golden")

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ends_with_the_end_token.json": ("/generate", {"inputs": "signal", "parameters": {"details": True}}),
    "ends_with_length.json": ("/generate", {"inputs": "nerve", "parameters": {"details": True, "max_new_tokens": 4}}),
    "ends_with_a_stop_string.json": ("/generate", {"inputs": "nerve", "parameters": {"details": True, "stop": ["|="]}}),
    "has_a_broken_character.json": ("/generate", {"inputs": "Hello", "parameters": {"details": True}}),
    "has_top_tokens.json": ("/generate", {"inputs": "signal", "parameters": {"details": True, "top_n_tokens": 2}}),
    "has_a_seed.json": (
        "/generate",
        {"inputs": "signal", "parameters": {"details": True, "do_sample": True, "seed": 42, "top_k": 1}},
    ),
    "is_truncated.json": (
        "/generate",
        {"inputs": "ab nerve", "parameters": {"truncate": 5, "max_new_tokens": 3, "return_full_text": True}},
    ),
    "compat.json": ("/", {"inputs": "signal", "parameters": {"details": True}}),
    "compat_without_details.json": ("/", {"inputs": "nerve", "parameters": {"max_new_tokens": 4}}),
    "stream.sse": ("/generate_stream", {"inputs": "Hello", "parameters": {"details": True, "top_n_tokens": 1}}),
    "compat_stream.sse": (
        "/",
        {"inputs": "nerve", "stream": True, "parameters": {"stop": ["=="], "details": True, "seed": 3, "top_k": 1}},
    ),
}


def reply_to(path: str, body: dict[str, Any]) -> httpx.Response:
    async def main() -> httpx.Response:
        async with scripted_service() as service, client_of(service) as client:
            return await client.post(path, json=body)

    return asyncio.run(main())


def rounded(text: str) -> str:
    return re.sub(r'(?<="logprob":)-?\d[^,}]*', lambda number: f"{float(number[0]):.6f}", text)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_reply_is_the_one_kept(name: str) -> None:
    reply = reply_to(*REQUESTS[name])
    assert reply.status_code == 200
    assert reply.headers["content-type"] == ("text/event-stream" if name.endswith("sse") else "application/json")
    assert rounded(reply.text) == (GOLDEN / name).read_text(encoding="utf-8")


def test_every_kept_reply_has_its_request() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == REQUESTS.keys()
