"""KServe's v2 routes: constants, and texts as bytes. The engine is played."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai_requests import HI, Played, play, script

from http_driver import OPTIONS, AsgiCall, client_of
from ranvier import __version__
from ranvier.core import FailEvent
from ranvier.service import ServiceLimits
from serving import END, LIMITS, HandEngine, Script, make_service, until

INFER = "/v2/models/any/versions/2/infer"


def text_input(data: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "in", "shape": [1, len(data)], "datatype": "BYTES", "data": list(data), **fields}


def body_of(*texts: bytes, **fields: Any) -> dict[str, Any]:
    outputs = [{"name": f"out{index}"} for index in range(len(texts))]
    return {"id": "7", "inputs": [text_input(text) for text in texts], "outputs": outputs, **fields}


def infer(*texts: bytes, scripts: tuple[Script, ...] = (HI,), **fields: Any) -> Played:
    return play(INFER, body_of(*texts, **fields), *scripts)


def get(path: str, method: str = "GET") -> httpx.Response:
    async def main() -> httpx.Response:
        engine = HandEngine()
        engine.is_healthy = False
        async with client_of(make_service(engine)) as client:
            return await client.request(method, path)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "/v2",
            f'{{"name":"text-generation-inference","version":"{__version__}",'
            '"extensions":["health","models","metrics"]}',
        ),
        ("/v2/health/live", '{"live":true}'),
        ("/v2/health/ready", '{"live":true}'),
        ("/v2/models/a%20b/versions/x", '{"name":"a b","version":"x","extensions":["infer","ready"]}'),
        ("/v2/models/é/versions/1", '{"name":"é","version":"1","extensions":["infer","ready"]}'),
        ("/v2/models/m/versions/1/ready", '{"live":true}'),
    ],
)
def test_the_get_routes_are_constants_even_without_an_engine(path: str, text: str) -> None:
    reply = get(path)
    assert (reply.status_code, reply.headers["content-type"], reply.text) == (200, "application/json", text)
    assert get(path, "HEAD").status_code == 200
    assert get(path, "POST").status_code == 405


def test_names_that_are_no_utf_8_do_no_harm() -> None:
    assert get("/v2/models/%ED%A0%80%FF/versions/1").status_code == 200


def test_texts_come_and_go_as_bytes_of_utf_8() -> None:
    found = infer("é".encode(), scripts=(script("ü!"),))
    assert list(found.json) == ["id", "outputs"]
    assert found.json["outputs"] == [
        {"name": "out0", "shape": [1, 3], "datatype": "BYTES", "data": list("ü!".encode())}
    ]
    assert list(found.json["outputs"][0]) == ["name", "shape", "datatype", "data"]
    assert found.engine.requests[0].prompt_ids == tuple("é".encode())
    assert not [name for name in found.reply.headers if name.startswith("x-")]
    assert found.counts == {"requests": 1, "success": 1}


def test_outputs_come_in_the_order_of_their_inputs() -> None:
    found = infer(b"a", b"b", b"c", scripts=(script("1"), script("22"), HI))
    assert [(each["name"], bytes(each["data"])) for each in found.json["outputs"]] == [
        ("out0", b"1"),
        ("out1", b"22"),
        ("out2", b"Hi"),
    ]
    assert found.counts == {"requests": 3, "success": 3}
    assert infer().json == {"id": "7", "outputs": []}


@pytest.mark.parametrize(
    ("fields", "do_sample"), [({}, True), ({"parameters": {}}, False), ({"parameters": {"temperature": 0.5}}, True)]
)
def test_without_parameters_tokens_are_sampled_and_with_empty_ones_they_are_not(
    fields: dict[str, Any], do_sample: bool
) -> None:
    """TGI's trap, as on `/generate`."""
    assert infer(b"a", **fields).engine.requests[0].sampling.do_sample is do_sample


def test_parameters_are_those_of_generate() -> None:
    found = infer(b"abc", parameters={"max_new_tokens": 1, "truncate": 2, "seed": 5, "do_sample": True})
    (request,) = found.engine.requests
    assert (request.max_new_tokens, request.prompt_ids, request.sampling.seed) == (1, (98, 99), 5)
    assert found.json["outputs"][0]["data"] == [72]


def test_counts_that_differ_are_refused() -> None:
    body = {**body_of(b"a", b"b"), "outputs": [{"name": "o"}]}
    assert play(INFER, body).refusal == (422, "length mismatch", "Inputs and outputs length mismatch")


def test_bytes_that_are_no_text_are_refused_before_counts_are_compared() -> None:
    status, error_type, text = play(INFER, {**body_of(b"\xed\xa0\x80"), "outputs": []}).refusal
    assert (status, error_type) == (422, "utf8")
    assert "can't decode byte 0xed" in text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": 7, "inputs": [], "outputs": []},
        {"id": "7", "outputs": []},
        {"id": "7", "inputs": []},
        {**body_of(b"a"), "parameters": None},
        {**body_of(b"a"), "parameters": {"stop": None}},
        *({**body_of(b"a"), "inputs": [text_input(data)]} for data in ([256], [-1], ["a"], [1.5])),
        {**body_of(b"a"), "inputs": [text_input(b"a", shape=[-1])]},
        {**body_of(b"a"), "inputs": [text_input(b"a", name=None)]},
        {**body_of(b"a"), "outputs": [{}]},
    ],
)
def test_other_shapes_are_refused(body: dict[str, Any]) -> None:
    assert play(INFER, body).shape_error


@pytest.mark.parametrize("texts", [(b"",), (b"x" * 33,), (b"a", b"")])
def test_whatever_goes_wrong_is_an_incomplete_generation(texts: tuple[bytes, ...]) -> None:
    found = play(INFER, body_of(*texts), limits=LIMITS)
    assert found.refusal == (500, "Incomplete generation", "Incomplete generation")
    failed = play(INFER, body_of(b"a"), [72], ending=lambda request_id: FailEvent(request_id, "no"))
    assert failed.refusal == (500, "Incomplete generation", "Incomplete generation")
    crowded = play(INFER, body_of(b"a", b"b"), service_limits=ServiceLimits(max_concurrent_requests=1))
    assert crowded.refusal == (500, "Incomplete generation", "Incomplete generation")


def test_a_client_that_leaves_frees_every_slot_and_permit() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        call = AsgiCall(service, INFER, body_of(b"a", b"b"))
        await until(lambda: len(engine.requests) == 2, "both are with the engine")
        call.leave()
        await call.done()
        await until(lambda: engine.num_open == 0, "both are cancelled")
        assert service.num_in_flight == 0

    asyncio.run(main())


def test_inference_needs_the_key_and_the_constants_do_not() -> None:
    async def main() -> None:
        options = replace(OPTIONS, api_key="secret")
        service = make_service(HandEngine())
        async with client_of(service, options) as client:
            assert (await client.post(INFER, json=body_of(b"a"))).status_code == 401
            for path in ("/v2", "/v2/health/live", "/v2/models/m/versions/1", "/v2/models/m/versions/1/ready"):
                assert (await client.get(path)).status_code == 200

    asyncio.run(main())


def test_a_text_may_be_empty() -> None:
    assert infer(b"a", scripts=([END],)).json["outputs"][0] == {
        "name": "out0",
        "shape": [1, 0],
        "datatype": "BYTES",
        "data": [],
    }
