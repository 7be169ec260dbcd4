"""`/docs`: a page that needs nothing from elsewhere."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from http_driver import LiveServer, client_of, live_server
from ranvier.service import GenerationService
from serving import HandEngine, make_service

FILES = {
    "/docs/": "text/html; charset=utf-8",
    "/docs/docs.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui.css": "text/css; charset=utf-8",
    "/docs/favicon-32x32.png": "image/png",
}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    @asynccontextmanager
    async def service() -> AsyncIterator[GenerationService]:
        yield make_service(HandEngine())

    with live_server(service) as live:
        yield live


def get(path: str, headers: dict[str, str] | None = None, *, method: str = "GET") -> httpx.Response:
    async def main() -> httpx.Response:
        async with client_of(make_service(HandEngine())) as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(main())


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_docs_leads_to_the_page_behind_any_prefix(method: str) -> None:
    reply = get("/docs", method=method)
    assert (reply.status_code, reply.headers["location"], reply.content) == (303, "docs/", b"")


@pytest.mark.parametrize("path", FILES)
def test_each_file_has_its_type_and_says_how_long_it_may_be_kept(path: str) -> None:
    reply = get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (200, FILES[path])
    assert len(reply.content) > 100
    assert reply.headers["cache-control"] == ("no-cache" if path == "/docs/" else "public, max-age=3600")
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", FILES)
def test_a_client_that_has_the_file_does_not_get_it_again(path: str) -> None:
    tag = get(path).headers["etag"]
    assert re.fullmatch('"[0-9a-f]{32}"', tag)
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        reply = get(path, {"if-none-match": known})
        assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", tag)
        assert "content-type" not in reply.headers
    for other in ('"x"', "", tag.strip('"')):
        assert get(path, {"if-none-match": other}).status_code == 200


def test_head_tells_the_length() -> None:
    whole, head = get("/docs/swagger-ui.css"), get("/docs/swagger-ui.css", method="HEAD")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(whole.content)))


def test_the_page_asks_only_this_server() -> None:
    """Every file it names is served here, and it holds no script of its own, so a strict policy fits."""
    page = get("/docs/")
    names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sorted(names) == sorted(
        ["favicon-32x32.png", "swagger-ui.css", "swagger-ui-bundle.js", "docs.js", "../api-doc/openapi.json"]
    )
    assert "<script>" not in page.text
    assert "style=" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_page_shows_this_servers_description_and_asks_no_validator() -> None:
    script = get("/docs/docs.js").text
    assert 'url: "../api-doc/openapi.json"' in script
    assert "validatorUrl: null" in script
    assert "http" not in script


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "README.md",
        "LICENSE",
        "swagger-ui",
        "swagger-ui/",
        "swagger-ui/LICENSE",
        "x",
        "/",
        "//",
        "..",
        "../app.py",
        "../../ranvier/api/app.py",
        "..%2fapp.py",
        "%2e%2e/app.py",
        "%2e%2e%2fapp.py",
        "..%5capp.py",
        "docs.js/",
        "docs.js%00",
        "docs.js%00.png",
        "%00",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "file:///etc/passwd",
        "DOCS.JS",
        "a" * 5000,
        "%ff",
    ],
)
def test_no_other_name_is_served(server: LiveServer, name: str) -> None:
    """Over a socket: clients in between tidy such paths up."""
    with server.connect() as connection:
        connection.get(f"/docs/{name}")
        reply = connection.reply()
        assert (reply.status_line, reply.body) == ("HTTP/1.1 404 Not Found", b"")
