"""Requests made up from the server's own document, over a socket: nothing breaks, and replies are as it says.

`make test` makes up a few for each operation. `RANVIER_FUZZ_EXAMPLES`, which `make fuzz` sets, is another number; then
there are also requests at the edges of all types and bounds, thousands of them. They are the same in each run.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any

import httpx
import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
)

from http_driver import LiveServer, live_server
from ranvier.api.openapi import build_document
from ranvier.core import Limits
from ranvier.service import GenerationService, ServiceLimits
from serving import scripted_service

IS_LONG = "RANVIER_FUZZ_EXAMPLES" in os.environ
NUM_EXAMPLES = int(os.environ.get("RANVIER_FUZZ_EXAMPLES", "8"))
CALL_LIMIT_S = 10.0
"""Only a request that hangs takes this long."""

LIMITS = Limits(batch_size=4, sequence_length=96, max_input_tokens=80, max_batch_prefill_tokens=64)
DOCUMENT = build_document(
    asdict(ServiceLimits()) | {"max_input_tokens": LIMITS.max_input_tokens},
    has_key=False,
)
OPERATIONS = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=SchemathesisConfig.from_dict(
        {
            "generation": {"deterministic": True},
            "phases": {"coverage": {"enabled": IS_LONG}},
            "max-stream-events": 100_000,
        }
    ),
)

READS_ONLY_SHAPES = ("/tokenize", "/chat_tokenize", "/vertex")
"""Routes that use a part of their body, so that bounds of the rest are not looked at."""
HIDES_REASONS = ("/vertex", "/v2/models/{model}/versions/{version}/infer")
"""Routes that reply 500 to whatever cannot be generated, as TGI's do."""
HIDDEN = {"error": "Incomplete generation", "error_type": "Incomplete generation"}
OUT_OF_RANGE = "the model gave logits that are not finite"
ENDS_WITH_DONE = ("/v1/chat/completions", "/v1/completions")


def service() -> AbstractAsyncContextManager[GenerationService]:
    return scripted_service(limits=LIMITS)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(service) as live:
        yield live
        assert live.run(lambda: live.service.num_in_flight) == 0
        assert live.service.is_healthy


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as kept:
        yield kept


def events_of(body: bytes) -> list[Any]:
    """The JSON of each event; fails on anything that is not TGI's framing."""
    assert body.endswith(b"\n\n")
    blocks = [block for block in body.decode().split("\n\n")[:-1] if block != ":"]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


@functools.cache
def event_validator(path: str) -> jsonschema.Draft202012Validator:
    media = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    return jsonschema.Draft202012Validator({**media["schema"], "components": DOCUMENT["components"]})


def check_stream(path: str, body: bytes) -> bool:
    """Fails unless each event is as the document says. Whether there is an error among them."""
    events = events_of(body)
    if path in ENDS_WITH_DONE:
        assert events.pop() == "[DONE]"
    else:
        events = events[:-1] if events[-1] == "[DONE]" else events
    assert events
    values = [json.loads(event) for event in events]
    for value in values:
        event_validator(path).validate(value)
    return any("error" in value for value in values)


def reason_of(response: Any) -> str:
    """What the server said of a failure; empty for a success or a wrong request."""
    text = response.content.decode(errors="replace")
    failed = ("Request failed during generation", "Incomplete generation")
    if response.status_code < 424 and not (is_stream(response) and any(each in text for each in failed)):
        return ""
    # Only a repetition penalty near zero makes it so; the request fails alone.
    return "" if OUT_OF_RANGE in text else text[-500:]


def is_stream(response: Any) -> bool:
    """Whether the reply is a stream of events."""
    kind: str = response.headers.get("content-type", [""])[0]
    return kind == "text/event-stream"


@OPERATIONS.parametrize()
@settings(
    max_examples=NUM_EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_nothing_breaks_and_replies_are_as_the_document_says(
    case: schemathesis.Case, server: LiveServer, session: requests.Session
) -> None:
    response = case.call(base_url=f"http://127.0.0.1:{server.port}", session=session, timeout=CALL_LIMIT_S)
    path = case.operation.path
    is_hidden = path in HIDES_REASONS and response.status_code == 500
    if is_hidden:
        assert response.json() == HIDDEN
    else:
        assert reason_of(response) == ""
    # Rules about several fields, and limits of prompts, are not in the document.
    excluded: list[Any] = [positive_data_acceptance]
    if is_stream(response):
        excluded.append(response_schema_conformance)
    has_nothing_to_do = isinstance(case.body, dict) and case.body.get("inputs") == []
    is_refused = is_stream(response) and check_stream(path, response.content)
    if path in READS_ONLY_SHAPES or has_nothing_to_do or is_refused:
        excluded.append(negative_data_rejection)
    if is_hidden:
        excluded.append(schemathesis.checks.not_a_server_error)
    case.validate_response(response, excluded_checks=excluded)


def test_the_document_is_the_one_that_the_server_gives(server: LiveServer) -> None:
    assert httpx.get(f"http://127.0.0.1:{server.port}/api-doc/openapi.json").json() == DOCUMENT
