"""LoRA adapters over HTTP, on the scripted target with 264 token ids and adapters `one` and `org/two`.

With adapter number a each id counts 7 a more (see `ranvier.targets.scripted`). To the prompt `c`, which is token 99:

    the model itself    3 * 99 + 1 = 298 -> 34 `"`;  34 + 2 * 1 + 133 -> 169
    one                 3 * 106 + 1 = 319 -> 55 `7`;  55 + 2 * 1 + 168 -> 225
    org/two             3 * 113 + 1 = 340 -> 76 `L`;  76 + 2 * 1 + 203 = 281 -> 17
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import pytest

from http_driver import client_of, events_of, openai_events_of
from serving import scripted_service

T = TypeVar("T")
ADAPTERS = ("one", "org/two")
BASE = "ranvier/scripted"
IDS = {None: [34, 169], "one": [55, 225], "org/two": [76, 17]}
TEXTS = {BASE: '"', "one": "7", "org/two": "L"}
REFUSED = "Input validation error: `adapter_id` must be one of the adapters loaded: `one`, `org/two`; or leave it out"


def with_client(use: Callable[[httpx.AsyncClient], Awaitable[T]], adapters: tuple[str, ...] = ADAPTERS) -> T:
    async def main() -> T:
        async with scripted_service(adapters=adapters) as service, client_of(service) as client:
            return await use(client)

    return asyncio.run(main())


def post(path: str, body: Any) -> httpx.Response:
    return with_client(lambda client: client.post(path, json=body))


def get(path: str, adapters: tuple[str, ...] = ADAPTERS) -> Any:
    reply = with_client(lambda client: client.get(path), adapters)
    assert reply.status_code == 200
    return reply.json()


def body(adapter_id: str | None, **parameters: Any) -> dict[str, Any]:
    return {"inputs": "c", "parameters": {"max_new_tokens": 2, "adapter_id": adapter_id, **parameters}}


def ids(reply: httpx.Response) -> list[int]:
    assert reply.status_code == 200, reply.text
    given = reply.json()
    # POST `/` and `/invocations` answer with a list of one.
    (only,) = given if isinstance(given, list) else [given]
    return [token["id"] for token in only["details"]["tokens"]]


@pytest.mark.parametrize("path", ["/generate", "/"])
@pytest.mark.parametrize("adapter_id", IDS)
def test_a_text_is_generated_with_the_adapter_asked_for(path: str, adapter_id: str | None) -> None:
    assert ids(post(path, body(adapter_id, details=True))) == IDS[adapter_id]


def test_requests_with_different_adapters_are_served_together() -> None:
    order = ["one", None, "org/two", "one", "org/two", None]

    async def use(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post("/generate", json=body(each, details=True)) for each in order))

    assert [ids(reply) for reply in with_client(use)] == [IDS[each] for each in order]


@pytest.mark.parametrize("adapter_id", IDS)
def test_a_stream_is_generated_with_the_adapter_asked_for(adapter_id: str | None) -> None:
    events = events_of(post("/generate_stream", body(adapter_id)).text)
    assert [event["token"]["id"] for event in events] == IDS[adapter_id]


@pytest.mark.parametrize("adapter_id", ["three", "", "two", "ONE", BASE])
def test_an_adapter_that_is_not_loaded_is_refused(adapter_id: str) -> None:
    reply = post("/generate", body(adapter_id))
    assert (reply.status_code, reply.json()) == (422, {"error": REFUSED, "error_type": "validation"})


def test_a_stream_with_an_adapter_that_is_not_loaded_is_refused() -> None:
    (event,) = events_of(post("/generate_stream", body("three")).text)
    assert event == {"error": REFUSED, "error_type": "validation"}


# The OpenAI routes: the model's name chooses


@pytest.mark.parametrize(
    ("model", "shown", "answers"),
    [(None, BASE, BASE), ("tgi", BASE, BASE), ("other", "other", BASE), ("two", "two", BASE)]
    + [(name, name, name) for name in ADAPTERS],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_chat_is_answered_by_the_adapter_that_the_model_names(
    model: str | None, shown: str, answers: str, is_stream: bool
) -> None:
    chat = {"messages": [{"role": "user", "content": "c"}], "model": model, "max_tokens": 1, "stream": is_stream}
    reply = post("/v1/chat/completions", {**chat, "temperature": 0})
    if is_stream:
        (event,) = openai_events_of(reply.text)
        assert (event["model"], event["choices"][0]["delta"]["content"]) == (shown, TEXTS[answers])
    else:
        whole = reply.json()
        assert (whole["model"], whole["choices"][0]["message"]["content"]) == (shown, TEXTS[answers])


@pytest.mark.parametrize(
    ("model", "answers"), [(None, BASE), ("tgi", BASE), ("other", BASE), *((name, name) for name in ADAPTERS)]
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_completion_is_made_by_the_adapter_that_the_model_names(
    model: str | None, answers: str, is_stream: bool
) -> None:
    given = {"prompt": "c", "model": model, "max_tokens": 1, "temperature": 0, "stream": is_stream}
    reply = post("/v1/completions", given)
    found = openai_events_of(reply.text)[-1] if is_stream else reply.json()
    assert (found["model"], found["choices"][0]["text"]) == (answers, TEXTS[answers])


def test_every_event_of_a_completion_names_the_adapter() -> None:
    given = {"prompt": "c", "model": "one", "max_tokens": 2, "temperature": 0, "stream": True}
    events = openai_events_of(post("/v1/completions", {**given, "stream_options": {"include_usage": True}}).text)
    assert [event["model"] for event in events] == ["one"] * 3


# The routes of hosting platforms


def test_platforms_choose_as_the_routes_do_whose_bodies_they_take() -> None:
    chat = {"messages": [{"role": "user", "content": "c"}], "model": "one", "max_tokens": 1, "temperature": 0}
    assert ids(post("/invocations", body("org/two", details=True))) == IDS["org/two"]
    assert post("/invocations", chat).json()["choices"][0]["message"]["content"] == TEXTS["one"]
    assert post("/vertex", {"instances": [chat, {**chat, "model": "x"}]}).json() == {"predictions": ["7", '"']}
    kserve = {
        "id": "1",
        "inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [99]}],
        "outputs": [{"name": "text"}],
        "parameters": {"adapter_id": "org/two", "max_new_tokens": 1},
    }
    infer = post("/v2/models/m/versions/1/infer", kserve).json()
    assert infer["outputs"][0]["data"] == [76]


# What the server says of itself


def test_models_lists_the_model_and_its_adapters() -> None:
    model = {"id": BASE, "object": "model", "created": 0, "owned_by": BASE}
    adapters = [{**model, "id": name, "parent": BASE} for name in ADAPTERS]
    assert get("/v1/models") == {"object": "list", "data": [model, *adapters]}


def test_info_lists_the_adapters_only_where_there_are_some() -> None:
    without = get("/info", adapters=())
    assert "adapters" not in without
    assert get("/info") == {**without, "adapters": ["one", "org/two"]}
