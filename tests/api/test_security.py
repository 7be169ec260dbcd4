"""The API key, and pages of other origins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from http_driver import OPTIONS, client_of
from ranvier.api import ApiOptions
from ranvier.api.security import with_key
from ranvier.service import ServiceLimits
from serving import END, HandEngine, PlayingEngine, make_service

BODY = {"inputs": "a", "parameters": {}}
LOCKED = replace(OPTIONS, api_key="Key-1")
PROTECTED = ["/generate", "/generate_stream", "/", "/tokenize"]
OPEN = ["/", "/health", "/ping", "/livez", "/readyz", "/info", "/v1/models", "/metrics", "/docs/"]
Headers = dict[str, str] | list[tuple[bytes, bytes]]


def request(
    method: str, path: str, headers: Headers | None = None, options: ApiOptions = OPTIONS, *, body: object = BODY
) -> httpx.Response:
    async def main() -> httpx.Response:
        async with client_of(make_service(PlayingEngine([97, END])), options) as client:
            return await client.request(method, path, json=body if method == "POST" else None, headers=headers)

    return asyncio.run(main())


# The key


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": " "},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Key-1"},
        {"authorization": "BearerKey-1"},
        {"authorization": "Bearer\tKey-1"},
        {"authorization": "Bearer Key-2"},
        {"authorization": "Bearer Key-1x"},
        {"authorization": "Bearer Key-"},
        {"authorization": "Bearer key-1"},
        {"authorization": "Basic Key-1"},
        {"authorization": "Bearer Bearer Key-1"},
        {"authorization": "Bearer Key-1 Key-1"},
        {"authorization": "Bearer Key-1, Bearer Key-1"},
        {"authorization": 'Bearer "Key-1"'},
        {"x-api-key": "Key-1"},
        {"proxy-authorization": "Bearer Key-1"},
    ],
)
def test_without_the_key_protected_routes_are_an_empty_401(path: str, headers: dict[str, str]) -> None:
    reply = request("POST", path, headers, LOCKED)
    assert (reply.status_code, reply.content, reply.headers["www-authenticate"]) == (401, b"", "Bearer")
    assert "content-type" not in reply.headers


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize(
    "value",
    [
        "Bearer Key-1",
        "bearer Key-1",
        "BEARER Key-1",
        "bEaReR Key-1",
        "Bearer   Key-1",
        " Bearer Key-1 ",
        "Bearer \tKey-1",
    ],
)
def test_with_the_key_they_are_served_whatever_the_scheme_looks_like(path: str, value: str) -> None:
    assert request("POST", path, {"authorization": value}, LOCKED).status_code == 200


def test_the_key_is_not_taken_from_the_address() -> None:
    assert request("POST", "/generate?api_key=Key-1&authorization=Bearer%20Key-1", {}, LOCKED).status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_what_tells_about_the_server_needs_no_key(path: str) -> None:
    assert request("GET", path, {}, LOCKED).status_code == 200


@pytest.mark.parametrize("values", [["Key-1", "Key-1"], ["Key-1", "Key-2"], ["Key-2", "Key-1"], ["Key-1", ""]])
def test_a_header_given_twice_is_refused(values: list[str]) -> None:
    """A proxy in front may have looked at the other one."""
    headers = [(b"authorization", f"Bearer {value}".encode()) for value in values]
    assert request("POST", "/generate", headers, LOCKED).status_code == 401


@pytest.mark.parametrize("key", ["schlüssel", "ключ", "鍵", "né-日"])
def test_a_key_of_other_letters_is_known_in_utf_8(key: str) -> None:
    options = replace(OPTIONS, api_key=key)
    assert request("POST", "/generate", [(b"authorization", b"Bearer " + key.encode())], options).status_code == 200
    assert request("POST", "/generate", {"authorization": "Bearer ??"}, options).status_code == 401


def test_a_key_of_latin_letters_is_known_as_browsers_send_it() -> None:
    options = replace(OPTIONS, api_key="schlüssel")
    latin = [(b"authorization", "Bearer schlüssel".encode("latin-1"))]
    assert request("POST", "/generate", latin, options).status_code == 200


def test_bytes_that_are_no_text_are_a_401() -> None:
    for value in (b"Bearer \xff\xfe", b"\xff", b"Bearer \xc3"):
        assert request("POST", "/generate", [(b"authorization", value)], LOCKED).status_code == 401


def test_a_key_from_a_variable_that_is_not_utf_8_is_compared_by_its_bytes() -> None:
    """Python hands such bytes on as lone surrogates."""
    options = replace(OPTIONS, api_key=b"k\xff".decode("utf-8", "surrogateescape"))
    assert request("POST", "/generate", [(b"authorization", b"Bearer k\xff")], options).status_code == 200
    assert request("POST", "/generate", [(b"authorization", b"Bearer k?")], options).status_code == 401


async def served(request: Request) -> Response:
    return Response(b"served")


def status_of(api_key: str, headers: list[tuple[bytes, bytes]]) -> int:
    scope = {"type": "http", "headers": headers}
    return asyncio.run(_status(with_key(served, api_key), Request(scope)))


async def _status(handler: Callable[[Request], Awaitable[Response]], request: Request) -> int:
    return (await handler(request)).status_code


@given(st.text(st.characters(codec="ascii"), min_size=1), st.binary())
def test_whatever_the_header_says_only_the_key_opens(api_key: str, value: bytes) -> None:
    key = api_key.strip(" \t\r\n").encode()
    opens = bool(key) and value.strip(b" \t") == key
    assert status_of(api_key, [(b"authorization", b"Bearer " + value)]) == (200 if opens else 401)
    assert status_of(api_key, [(b"authorization", b"Bearer " + key)]) == (200 if key else 401)
    assert status_of(api_key, [(b"authorization", b"Basic " + key)]) == 401
    assert status_of(api_key, [(b"authorization", key)]) == 401


def test_white_space_around_a_key_that_came_from_a_file_is_not_part_of_it() -> None:
    assert status_of("\tKey-1\r\n", [(b"authorization", b"Bearer Key-1")]) == 200


@pytest.mark.parametrize("api_key", [" ", "\t", "  \t ", "\r\n"])
@pytest.mark.parametrize("value", [b"", b"Bearer", b"Bearer ", b"Bearer  ", b"Bearer \t", b" ", b"Bearer \r\n"])
def test_a_blank_key_opens_nothing(api_key: str, value: bytes) -> None:
    assert status_of(api_key, [(b"authorization", value)]) == 401
    assert status_of(api_key, []) == 401


@pytest.mark.parametrize("api_key", [None, ""])
def test_without_a_key_the_handler_is_called_as_it_is(api_key: str | None) -> None:
    assert with_key(served, api_key) is served


def test_the_key_is_asked_for_before_the_body_is_looked_at_and_after_the_method() -> None:
    async def main() -> tuple[int, int]:
        async with client_of(make_service(HandEngine()), LOCKED) as client:
            wrong_body = await client.post("/generate", content=b"{")
            return wrong_body.status_code, (await client.get("/generate")).status_code

    assert asyncio.run(main()) == (401, 405)


def test_neither_the_key_nor_a_wrong_one_is_shown_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for value in ("Bearer Key-1", "Bearer Guess-2"):
        reply = request("POST", "/generate", {"authorization": value}, LOCKED)
        assert "Key-1" not in f"{reply.headers} {reply.text}"
        assert "Guess-2" not in f"{reply.headers} {reply.text}"
    assert "Key-1" not in repr(LOCKED)
    assert "Key-1" not in caplog.text
    assert "Guess-2" not in caplog.text


# Other origins

ORIGIN = {"origin": "https://a.example"}
PREFLIGHT = ORIGIN | {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
NAMED = replace(OPTIONS, cors_allow_origin=("https://a.example", "https://b.example"))


def names(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


@pytest.mark.parametrize("options", [OPTIONS, LOCKED])
@pytest.mark.parametrize("path", [*PROTECTED, "/info", "/v1/models"])
def test_any_origin_may_ask_unless_some_are_named(path: str, options: ApiOptions) -> None:
    """The outermost layer: a preflight of a protected route is answered without a key."""
    reply = request("OPTIONS", path, PREFLIGHT, options)
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["access-control-allow-origin"] == "*"
    assert names(reply.headers["access-control-allow-methods"]) == {"get", "post"}
    assert {"content-type", "authorization"} <= names(reply.headers["access-control-allow-headers"])
    assert reply.headers["access-control-max-age"] == "600"
    assert "origin" in names(reply.headers["vary"])
    assert "access-control-allow-credentials" not in reply.headers


OPENAI_HEADERS = (
    "authorization,content-type,openai-organization,openai-project,x-stainless-arch,x-stainless-lang,x-stainless-os,"
    "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,"
    "x-stainless-timeout"
)


def test_a_page_may_send_what_openais_clients_send() -> None:
    """TGI allows `content-type` alone, so that its key cannot be used from a page."""
    reply = request("OPTIONS", "/generate", PREFLIGHT | {"access-control-request-headers": OPENAI_HEADERS}, LOCKED)
    assert names(OPENAI_HEADERS) <= names(reply.headers["access-control-allow-headers"])


@pytest.mark.parametrize("name", ["x-forwarded-for", "x-remote-user", "cookie", "host", "xx-stainless-a", "*"])
def test_a_page_may_not_send_what_a_proxy_might_trust(name: str) -> None:
    headers = PREFLIGHT | {"access-control-request-headers": f"content-type,{name}"}
    assert name not in names(request("OPTIONS", "/generate", headers).headers["access-control-allow-headers"])


def test_every_kind_of_reply_can_be_read_by_a_page() -> None:
    """Mistakes and a missing key, too; and TGI's `x-...` headers."""
    mistakes = [
        (request("POST", "/generate", ORIGIN), 200),
        (request("POST", "/generate_stream", ORIGIN), 200),
        (request("GET", "/info", ORIGIN), 200),
        (request("POST", "/generate", ORIGIN, LOCKED), 401),
        (request("POST", "/generate", ORIGIN, body={}), 422),
        (request("POST", "/generate", ORIGIN, body={"inputs": ""}), 422),
        (request("POST", "/generate", ORIGIN, replace(OPTIONS, payload_limit=5)), 413),
        (request("GET", "/unknown", ORIGIN), 404),
        (request("GET", "/generate", ORIGIN), 405),
    ]
    for reply, status in mistakes:
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == "*"
        assert reply.headers["access-control-expose-headers"] == "*"
        assert reply.headers["vary"] == "Origin"


def test_a_mistake_of_ours_can_be_read_by_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> httpx.Response:
        service = make_service(HandEngine(), limits=ServiceLimits())
        monkeypatch.setattr(service.metrics, "render", lambda: 1 / 0)
        async with client_of(service) as client:
            # As a server does: the exception is logged, the reply is sent.
            client._transport.raise_app_exceptions = False  # type: ignore[attr-defined]
            return await client.get("/metrics", headers=ORIGIN)

    reply = asyncio.run(main())
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (500, "*")


def test_without_an_origin_there_is_nothing_to_allow() -> None:
    reply = request("POST", "/generate")
    assert [name for name in reply.headers if name.startswith("access-control-")] == []
    assert reply.headers["vary"] == "Origin"


def test_named_origins_are_echoed() -> None:
    for origin in ("https://a.example", "https://b.example"):
        reply = request("POST", "/generate", {"origin": origin}, NAMED)
        assert (reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (origin, "Origin")
        reply = request("OPTIONS", "/generate", PREFLIGHT | {"origin": origin}, NAMED)
        assert reply.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    "origin",
    [
        "https://c.example",
        "null",
        "*",
        "",
        "http://a.example",
        "https://a.example.evil",
        "https://a.example, *",
        "\xff",
    ],
)
def test_other_origins_are_not(origin: str) -> None:
    """The request is served all the same: it is the page that may not read the reply."""
    headers = {"origin": origin.encode("latin-1").decode("latin-1")}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    reply = request("POST", "/generate", raw, NAMED)
    assert (reply.status_code, reply.headers["vary"]) == (200, "Origin")
    assert [name for name in reply.headers if name.startswith("access-control-")] == []
    preflight = [*raw, (b"access-control-request-method", b"POST")]
    reply = request("OPTIONS", "/generate", preflight, NAMED)
    assert (reply.status_code, reply.content) == (200, b"")
    assert [name for name in reply.headers if name.startswith("access-control-")] == []
    assert "origin" in names(reply.headers["vary"])


@pytest.mark.parametrize("origins", [("*",), ("https://a.example", "*")])
def test_a_star_among_the_named_origins_means_any(origins: tuple[str, ...]) -> None:
    reply = request("POST", "/generate", {"origin": "https://c.example"}, replace(OPTIONS, cors_allow_origin=origins))
    assert reply.headers["access-control-allow-origin"] == "*"


def test_options_without_a_preflights_headers_is_a_method_like_others() -> None:
    assert request("OPTIONS", "/generate").status_code == 405
    assert request("OPTIONS", "/generate", ORIGIN).status_code == 405
