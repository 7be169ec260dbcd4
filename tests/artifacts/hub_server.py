"""A small stand-in for the hub on the loopback interface: what `snapshot_download` asks for, and the hub's errors.

Routes, as in the hub's API: `/api/models/ID/revision/REV`, `/api/models/ID/tree/SHA`, `/ID/resolve/SHA/FILE`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True, slots=True)
class Repository:
    """Files by path. `errors` gives status, `X-Error-Code` and `X-Error-Message` for "info" or for a file's path.

    Files named in `broken` are cut after half of their bytes each time. A repository with a `token` is not there for
    anybody who does not send it.
    """

    files: Mapping[str, bytes]
    revisions: tuple[str, ...] = ("main", COMMIT)
    errors: Mapping[str, tuple[int, str, str]] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    token: str | None = None


@dataclass(frozen=True, slots=True)
class HubServer:
    """A running server. `requests` grows by "METHOD path" with each request."""

    url: str
    requests: list[str]


@contextlib.contextmanager
def hub_server(repositories: Mapping[str, Repository]) -> Iterator[HubServer]:
    """Serve the repositories (by id) until the block ends."""
    requests: list[str] = []

    class Handler(_Handler):
        repos = repositories
        log = requests

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield HubServer(f"http://127.0.0.1:{server.server_address[1]}", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    repos: Mapping[str, Repository]
    log: list[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.log.append(f"{self.command} {path}")
        is_api = path.startswith("api/models/")
        rest = path.removeprefix("api/models/")
        name = next((name for name in self.repos if rest.startswith(f"{name}/")), None)
        repository = None if name is None else self.repos[name]
        if name is None or repository is None or not self._may_see(repository):
            return self._fail(401, "RepoNotFound", "Repository not found")
        verb, _, what = rest.removeprefix(f"{name}/").partition("/")
        if is_api and verb == "revision":
            return self._info(name, repository, what)
        if is_api and verb == "tree":
            return self._tree(repository)
        return self._file(repository, what.partition("/")[2])

    def _may_see(self, repository: Repository) -> bool:
        return repository.token is None or self.headers["Authorization"] == f"Bearer {repository.token}"

    def _info(self, name: str, repository: Repository, revision: str) -> None:
        if "info" in repository.errors:
            return self._fail(*repository.errors["info"])
        if revision not in repository.revisions:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self._json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in repository.files]})

    def _tree(self, repository: Repository) -> None:
        self._json(
            [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in repository.files.items()
            ]
        )

    def _file(self, repository: Repository, path: str) -> None:
        if path in repository.errors:
            return self._fail(*repository.errors[path])
        data = repository.files[path]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        sent = data[: len(data) // 2] if path in repository.broken else data
        self._send(200, headers, sent, len(data))
        self.close_connection = path in repository.broken

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self._send(200, {"Content-Type": "application/json"}, data, len(data))

    def _fail(self, status: int, code: str, message: str) -> None:
        data = json.dumps({"error": message}).encode()
        headers = {"Content-Type": "application/json", "X-Error-Code": code, "X-Error-Message": message}
        self._send(status, headers, data, len(data))

    def _send(self, status: int, headers: Mapping[str, str], data: bytes, length: int) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
