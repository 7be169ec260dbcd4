"""Paths that a hosting platform names in the environment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from http_driver import OPTIONS, client_of
from ranvier.compose.event_loop import run_async
from ranvier.compose.router import _route
from ranvier.errors import OptionError
from serving import scripted_service

VERTEX = replace(OPTIONS, vertex_predict_route="/v1/models/m:predict", vertex_health_route="/healthz", api_key="k")


async def ask() -> list[int]:
    async with scripted_service() as service, client_of(service, VERTEX) as client:
        body = {"instances": [{"inputs": "nerve", "parameters": {"max_new_tokens": 1}}]}
        key = {"Authorization": "Bearer k"}
        replies = [
            await client.get("/healthz"),
            await client.post("/v1/models/m:predict", json=body),
            await client.post("/v1/models/m:predict", json=body, headers=key),
        ]
        return [reply.status_code for reply in replies]


def test_vertex_finds_its_routes_and_its_predictions_need_the_key() -> None:
    assert run_async(ask()) == [200, 401, 200]


@pytest.mark.parametrize("value", [None, ""])
def test_a_route_that_is_not_named_is_none(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("AIP_HEALTH_ROUTE", raising=False)
    if value is not None:
        monkeypatch.setenv("AIP_HEALTH_ROUTE", value)
    assert _route("AIP_HEALTH_ROUTE") is None


def test_a_route_must_be_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "healthz")
    with pytest.raises(OptionError, match="`AIP_HEALTH_ROUTE` must be a path that begins with `/`. Given: 'healthz'"):
        _route("AIP_HEALTH_ROUTE")
