"""`docker/health` against a server that is well, one that is not, and none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from dockerfiles import health


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on a free port that answers `/health` with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield server.server_port
        thread.join()


def test_status_200_is_healthy() -> None:
    with answering(200) as port:
        assert health.is_healthy(port)


def test_status_503_is_not() -> None:
    with answering(503) as port:
        assert not health.is_healthy(port)


def test_no_server_is_not() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    assert not health.is_healthy(port)


@pytest.mark.parametrize(
    ("command", "environ", "ports"),
    [
        ("text-generation-launcher", {"PORT": "80"}, (80, 8080)),
        ("text-generation-launcher --port 3000", {"PORT": "80"}, (3000,)),
        ("text-generation-launcher --port=3000", {"PORT": "80"}, (3000,)),
        ("text-generation-launcher -p 3000", {"PORT": "80"}, (3000,)),
        ("text-generation-launcher", {"PORT": "80", "AIP_HTTP_PORT": "7080"}, (7080, 8080)),
        ("text-generation-launcher", {"PORT": "80", "SAGEMAKER_BIND_TO_PORT": "9000"}, (80, 9000)),
        ("text-generation-launcher", {"PORT": "8080"}, (8080,)),
        ("text-generation-launcher", {}, (80, 8080)),
    ],
)
def test_the_health_check_finds_the_port(command: str, environ: dict[str, str], ports: tuple[int, ...]) -> None:
    assert health.ports(command.split(), environ) == ports
