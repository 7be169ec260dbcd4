"""Whole replies of the scripted target, kept in `golden/`; `serving` works out their tokens by hand.

The chosen token's log-probability is -0.084549 and that of the likeliest other one, which is id 0 as the smallest
among equals, is 8 less. Log-probabilities are kept to six decimals: the last digits of a sum differ between machines.
With `top_k` 1 one token is left, so its log-probability is 0.0 and the seed has no say. The clock stands still, and
the version in fingerprints is left out.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from http_driver import client_of
from ranvier import __version__
from ranvier.api.openai import replies
from serving import LONG, scripted_service

GOLDEN = Path(__file__).with_name("golden")

NOW_S = 1_700_000_000.75


def chat(content: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": content}]
    return "/v1/chat/completions", {"messages": messages, "temperature": 0, **fields}


def completions(prompt: Any, **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"prompt": prompt, "temperature": 0, **fields}


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
    # After `!`, id 33, comes 3 * 33 + 1 = 100, `d`; after `!d` would come 3 * 133 + 1 = 400 -> 136, and not `!`.
    "has_prompt_scores.json": (
        "/generate",
        {"inputs": "no!d!", "parameters": {"decoder_input_details": True, "truncate": 3, "max_new_tokens": 1}},
    ),
    "chat.json": chat("signal", model="tgi"),
    "chat_with_logprobs.json": chat("nerve", model="mine", logprobs=True, top_logprobs=2, max_tokens=2),
    "chat_stream.sse": chat("Hello", stream=True),
    "chat_stream_with_usage.sse": chat("signal", stream=True, logprobs=True, stream_options={"include_usage": True}),
    "chat_in_a_format.json": chat("nerve", response_format={"type": "regex", "value": "(no|never) [0-9]"}),
    "chat_stream_that_fails.sse": chat("x" * 1025, stream=True),
    "chat_tokenize.json": ("/chat_tokenize", {"messages": [{"role": "user", "content": "é!"}]}),
    "completions.json": completions(["signal", "nerve", "Hello", "ab"], max_tokens=3),
    "completions_with_logprobs.json": completions("signal", logprobs=2, echo=True),
    "completions_stream.sse": completions("Hello", stream=True),
    "completions_stream_with_echo.sse": completions(
        list(b"signal"), stream=True, echo=True, stream_options={"include_usage": True}
    ),
    "completions_stream_with_logprobs.sse": completions("signal", stream=True, logprobs=1),
    "invocations_of_a_text.json": ("/invocations", {"inputs": "signal", "parameters": {}}),
    "vertex.json": (
        "/vertex",
        {"instances": [{"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}]},
    ),
    "kserve.json": (
        "/v2/models/any/versions/2/infer",
        {
            "id": "7",
            "inputs": [{"name": "in", "shape": [1, 5], "datatype": "BYTES", "data": list(b"Hello")}],
            "outputs": [{"name": "out"}],
            "parameters": {},
        },
    ),
}


def reply_to(path: str, body: dict[str, Any]) -> httpx.Response:
    async def main() -> httpx.Response:
        async with scripted_service(limits=LONG) as service, client_of(service) as client:
            return await client.post(path, json=body)

    return asyncio.run(main())


def rounded(text: str) -> str:
    text = text.replace(f'"system_fingerprint":"{__version__}-', '"system_fingerprint":"VERSION-')
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.6f}", text)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_reply_is_the_one_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "time", SimpleNamespace(time=lambda: NOW_S))
    reply = reply_to(*REQUESTS[name])
    assert reply.status_code == 200
    assert reply.headers["content-type"] == ("text/event-stream" if name.endswith("sse") else "application/json")
    assert rounded(reply.text) == (GOLDEN / name).read_text(encoding="utf-8")


def test_every_kept_reply_has_its_request() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == REQUESTS.keys()
