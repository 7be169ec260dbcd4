"""Bodies that never reach validation: plain-text replies, and no metric moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from http_driver import OPTIONS, AsgiCall, client_of
from ranvier.api import ApiOptions
from serving import END, HandEngine, PlayingEngine, make_service

ROUTES = ["/generate", "/generate_stream", "/"]
TYPE = {"content-type": "application/json"}
SHAPE = "Failed to deserialize the JSON body into the target type: "


def post(
    path: str,
    content: bytes | AsyncIterator[bytes],
    headers: dict[str, str] | None = None,
    options: ApiOptions = OPTIONS,
    *,
    is_counted: bool = False,
) -> httpx.Response:
    """The reply to a POST; unless `is_counted`, no metric has moved."""

    async def main() -> httpx.Response:
        service = make_service(PlayingEngine([97, END]))
        async with client_of(service, options) as client:
            reply = await client.post(path, content=content, headers=TYPE if headers is None else headers)
        assert (service.metrics.render() == "") is not is_counted
        return reply

    return asyncio.run(main())


def assert_plain(reply: httpx.Response, status: int, text: str) -> None:
    assert (reply.status_code, reply.text) == (status, text)
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert not [name for name in reply.headers if name.startswith("x-")]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "text/json", "application/jsonx", "application/x-json", "json", "a+json"]
)
def test_another_content_type_is_refused(path: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    reply = post(path, b'{"inputs":"a"}', headers)
    assert_plain(reply, 415, "Expected request with `Content-Type: application/json`")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=utf-8",
        "Application/JSON",
        "application/vnd.api+json",
        "application/problem+json; charset=utf-8",
    ],
)
def test_every_json_content_type_is_taken(content_type: str) -> None:
    assert post("/generate", b'{"inputs":"a"}', {"content-type": content_type}, is_counted=True).status_code == 200


NOT_JSON = {
    "empty": b"",
    "cut short": b'{"inputs":"a"',
    "a bare word": b"inputs",
    "single quotes": b"{'inputs':'a'}",
    "a trailing comma": b'{"inputs":"a",}',
    "NaN": b'{"inputs":"a","parameters":{"temperature":NaN}}',
    "invalid UTF-8": b'{"inputs":"\xff"}',
    "a character cut in two": b'{"inputs":"\xf0\x9f\x91"}',
    "a lone surrogate": b'{"inputs":"\\ud800 and more text"}',
    "a control character": b'{"inputs":"a\nb"}',
    "a byte order mark": b'\xef\xbb\xbf{"inputs":"a"}',
    "UTF-16": '{"inputs":"a"}'.encode("utf-16"),
    "too deep": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"inputs":"a"}',
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("kind", NOT_JSON)
def test_what_is_not_json_is_refused(path: str, kind: str) -> None:
    """Too deep is a regression: it was a 500."""
    reply = post(path, NOT_JSON[kind])
    head, _, detail = reply.text.partition(": ")
    assert_plain(reply, 400, reply.text)
    assert head == "Failed to parse the request body as JSON"
    assert detail


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("{}", "Object missing required field `inputs`"),
        ("[]", "Expected `object`, got `array`"),
        ("null", "Expected `object`, got `null`"),
        ('"a"', "Expected `object`, got `str`"),
        ('{"inputs":null}', "inputs: Expected `str`, got `null`"),
        ('{"inputs":["a"]}', "inputs: Expected `str`, got `array`"),
        ('{"inputs":"a","parameters":null}', "parameters: Expected `object`, got `null`"),
        ('{"inputs":"a","parameters":[]}', "parameters: Expected `object`, got `array`"),
        ('{"inputs":"a","parameters":{"stop":null}}', "parameters.stop: Expected `array`, got `null`"),
        ('{"inputs":"a","parameters":{"stop":["a",1]}}', "parameters.stop[1]: Expected `str`, got `int`"),
        ('{"inputs":"a","parameters":{"max_new_tokens":-1}}', "parameters.max_new_tokens: Expected `int` >= 0"),
        (
            '{"inputs":"a","parameters":{"seed":18446744073709551616}}',
            "parameters: `seed` must be < 2**64",
        ),
    ],
)
def test_json_of_another_shape_is_refused_with_the_path(path: str, body: str, detail: str) -> None:
    assert_plain(post(path, body.encode()), 422, SHAPE + detail)


UNSIGNED: list[Any] = ["20", 20.0, True, [], {}, -1]
WRONG_VALUES: dict[str, list[Any]] = {
    "best_of": UNSIGNED,
    "max_new_tokens": [*UNSIGNED, 2**32],
    "truncate": UNSIGNED,
    "seed": UNSIGNED,
    "top_n_tokens": [*UNSIGNED, 2**32],
    "top_k": ["20", 20.0, True, [], 2**31, -(2**31) - 1],
    **dict.fromkeys(
        ["temperature", "repetition_penalty", "frequency_penalty", "top_p", "typical_p"], ["1", True, [], {}]
    ),
    **dict.fromkeys(["do_sample", "watermark", "details", "decoder_input_details"], [1, 0, "true", None, []]),
    "return_full_text": [1, 0, "true", []],
    "stop": [None, "x", [1], [None], {}],
    "adapter_id": [1, True, []],
    "grammar": ["json", [], {}, {"type": "json"}, {"value": {}}, {"type": "xml", "value": ""}, {"type": 1, "value": 1}],
}
NOT_NULLABLE = {"do_sample", "watermark", "details", "decoder_input_details", "stop"}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_VALUES.items() for value in values]
)
def test_values_are_not_coerced(name: str, value: Any) -> None:
    reply = post("/generate", json.dumps({"inputs": "a", "parameters": {name: value}}).encode())
    assert_plain(reply, 422, reply.text)
    assert reply.text.startswith(f"{SHAPE}parameters.{name}")


@pytest.mark.parametrize("name", ["best_of", "truncate", "seed"])
def test_integers_beyond_64_bits_are_refused(name: str) -> None:
    reply = post("/generate", json.dumps({"inputs": "a", "parameters": {name: 2**64}}).encode())
    assert_plain(reply, 422, f"{SHAPE}parameters: `{name}` must be < 2**64")


@pytest.mark.parametrize("stream", ["1", "null", '"true"', "0.0"])
def test_stream_is_a_bool(stream: str) -> None:
    reply = post("/", f'{{"inputs":"a","stream":{stream}}}'.encode())
    assert_plain(reply, 422, reply.text)
    assert reply.text.startswith(f"{SHAPE}stream: Expected `bool`, got ")


@pytest.mark.parametrize("name", sorted(WRONG_VALUES.keys() - NOT_NULLABLE))
def test_null_stands_for_absent_where_it_is_allowed(name: str) -> None:
    reply = post("/generate", json.dumps({"inputs": "a", "parameters": {name: None}}).encode(), is_counted=True)
    assert (reply.status_code, reply.text) == (200, '{"generated_text":"a"}')


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 1},
        {"repetition_penalty": 2, "frequency_penalty": -2},
        {"seed": 2**64 - 1, "top_k": 2**31 - 1, "do_sample": True},
        {"stop": []},
        {"max_new_tokens": 1},
    ],
)
def test_integers_stand_for_floats_and_limits_are_inside(values: dict[str, Any]) -> None:
    body = json.dumps({"inputs": "a", "parameters": values}).encode()
    assert post("/generate", body, is_counted=True).status_code == 200


def test_unknown_fields_are_ignored_everywhere() -> None:
    body = {
        "inputs": "a",
        "stream": True,
        "model": None,
        "parameters": {"stop_sequences": 5, "n": {"deep": [1]}, "min_p": "x", "ignore_eos": None},
    }
    reply = post("/generate", json.dumps(body).encode(), is_counted=True)
    assert (reply.status_code, reply.text) == (200, '{"generated_text":"a"}')


LIMITED = replace(OPTIONS, payload_limit=40)
TOO_LONG = b'{"inputs":"a","padding":"' + b"x" * 40 + b'"}'


async def in_parts(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 16):
        yield data[start : start + 16]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_over_the_limit_is_refused(path: str, is_declared: bool) -> None:
    reply = post(path, TOO_LONG if is_declared else in_parts(TOO_LONG), options=LIMITED)
    assert_plain(reply, 413, "Failed to buffer the request body: length limit exceeded")


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    body = b'{"inputs":"a"}'.ljust(40)
    assert post("/generate", body, options=LIMITED, is_counted=True).status_code == 200
    assert post("/generate", in_parts(body), options=LIMITED, is_counted=True).status_code == 200
    assert post("/generate", body + b" ", options=LIMITED).status_code == 413


def test_the_content_type_is_looked_at_before_the_length_and_the_length_before_the_json() -> None:
    assert post("/generate", TOO_LONG, {"content-type": "text/plain"}, LIMITED).status_code == 415
    assert post("/generate", b"{" * 50, options=LIMITED).status_code == 413


def test_a_client_who_leaves_while_sending_is_let_go_quietly() -> None:
    """A regression: it was logged as an exception of the application."""

    async def main() -> None:
        service = make_service(HandEngine())
        call = AsgiCall(service, "/generate", None, parts=[b'{"inp'])
        call.leave()
        await call.done()
        assert service.metrics.render() == ""

    asyncio.run(main())
