"""A small stand-in for the hub on the loopback interface: what the client asks for, and the hub's errors.

Routes, as in the hub's API, and nothing else:

    GET  /api/models/ID[/revision/REV]                    commit and file names
    GET  /api/models/ID/tree/REV[/FOLDER]?recursive=      pages with `Link` headers; 404 where the folder is absent
    GET  /ID/resolve/REV/FILE                             whole, or from `Range` on; HEAD too
    POST /api/models/ID/preupload/REV                     which files go through LFS
    POST /api/models/ID/commit/REV                        one line of JSON per operation
    POST /ID.git/info/lfs/objects/batch, PUT /lfs/ID/OID  large files
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(slots=True)
class Repository:
    """Files by path; a push replaces `files` and `commit`. `others` are further revisions: their commit and files.

    `errors` gives status, `X-Error-Code` and `X-Error-Message` for "info", "tree", "push", or for a file's path.
    Files named in `broken` are cut after half of their bytes each time. Those in `cuts` are cut so many times more,
    after half of what was asked for. A repository with a `token` is not there for anybody who does not send it; only
    who sends the `writer` token may push. `busy` requests for trees and files are answered with 429 first. `refusals`
    are the statuses that the next pushes are answered with.
    """

    files: Mapping[str, bytes]
    revisions: tuple[str, ...] = ("main", COMMIT)
    errors: Mapping[str, tuple[int, str, str]] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    token: str | None = None
    others: Mapping[str, tuple[str, Mapping[str, bytes]]] = field(default_factory=dict)
    cuts: MutableMapping[str, int] = field(default_factory=dict)
    writer: str | None = None
    busy: int = 0
    refusals: list[int] = field(default_factory=list)
    lfs_from: int = 1 << 20
    page: int = 1000
    commit: str = COMMIT
    objects: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, Mapping[str, bytes]] | None:
        """The commit and the files of a revision, or None."""
        for name, (commit, files) in self.others.items():
            if revision in (name, commit):
                return commit, files
        return (self.commit, self.files) if revision in (*self.revisions, self.commit) else None

    def push(self, changes: Mapping[str, bytes], message: str) -> None:
        """Add files in one commit."""
        self.files = {**self.files, **changes}
        self.commit = hashlib.sha1(f"{self.commit}{message}".encode()).hexdigest()
        self.messages.append(message)


@dataclass(frozen=True, slots=True)
class HubServer:
    """A running server. `requests` grows by "METHOD path" with each request, `ranges` by each `Range` that came."""

    url: str
    requests: list[str]
    ranges: list[str]


@contextlib.contextmanager
def hub_server(repositories: Mapping[str, Repository]) -> Iterator[HubServer]:
    """Serve the repositories (by id) until the block ends."""
    requests: list[str] = []
    seen_ranges: list[str] = []

    class Handler(_Handler):
        repos = repositories
        log = requests
        ranges = seen_ranges

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield HubServer(f"http://127.0.0.1:{server.server_address[1]}", requests, seen_ranges)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def git_oid(data: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    repos: Mapping[str, Repository]
    log: list[str]
    ranges: list[str]
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: else each answer waits for an acknowledgement that is delayed by 40 ms.
    wbufsize = -1

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def handle(self) -> None:
        # A client that was killed does not read its answer.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.log.append(f"{self.command} {path}")
        body = self._body()
        rest = path.removeprefix("api/models/").removeprefix("lfs/")
        name = next((name for name in self.repos if f"{rest}/".startswith((f"{name}/", f"{name}.git/"))), None)
        repository = None if name is None else self.repos[name]
        if name is None or repository is None or not self._may_see(repository):
            return self._fail(401, "RepoNotFound", "Repository not found")
        if self.command in ("POST", "PUT"):
            return self._push(repository, path, body)
        verb, _, what = rest.removeprefix(name).strip("/").partition("/")
        if not verb:
            verb, what = "revision", "main"
        return self._read(name, repository, verb if path.startswith("api/models/") else "resolve", what)

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _bearer(self) -> str:
        return str(self.headers["Authorization"] or "").removeprefix("Bearer ")

    def _may_see(self, repository: Repository) -> bool:
        return repository.token is None or self._bearer() in (repository.token, repository.writer)

    def _read(self, name: str, repository: Repository, verb: str, what: str) -> None:
        error = {"revision": "info", "tree": "tree"}.get(verb, "")
        if error in repository.errors:
            return self._fail(*repository.errors[error])
        if repository.busy and verb != "revision":
            repository.busy -= 1
            return self._fail(429, "", "Too many requests")
        revision = what if verb == "revision" else what.partition("/")[0]
        found = repository.at(revision)
        if found is None:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = found
        if verb == "revision":
            return self._json({"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]})
        if verb == "tree":
            return self._tree(repository, files, what.partition("/")[2])
        return self._file(repository, commit, files, what.partition("/")[2])

    def _tree(self, repository: Repository, files: Mapping[str, bytes], folder: str) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        is_recursive = query.get("recursive", "").lower() in ("true", "1")
        entries = _entries(repository, files, folder, is_recursive)
        if folder and not entries:
            return self._fail(404, "EntryNotFound", f"{folder} does not exist")
        start = int(query.get("cursor", 0))
        end = start + repository.page
        address = f"http://{self.headers['Host']}{url.path}?recursive={is_recursive}&cursor={end}"
        self._json(entries[start:end], {"Link": f'<{address}>; rel="next"'} if end < len(entries) else {})

    def _file(self, repository: Repository, commit: str, files: Mapping[str, bytes], path: str) -> None:
        if path in repository.errors:
            return self._fail(*repository.errors[path])
        if path not in files:
            return self._fail(404, "EntryNotFound", "Entry not found")
        data = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_oid(data)}"'}
        start = self._range_start() if path not in repository.broken else 0
        part = data[start:]
        is_cut = self.command == "GET" and (path in repository.broken or repository.cuts.get(path, 0) > 0)
        if is_cut and path not in repository.broken:
            repository.cuts[path] -= 1
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, headers, part[: len(part) // 2] if is_cut else part, len(part))
        self.close_connection = is_cut

    def _range_start(self) -> int:
        asked = self.headers["Range"]
        if asked is None:
            return 0
        self.ranges.append(asked)
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _push(self, repository: Repository, path: str, body: bytes) -> None:
        if path.startswith("lfs/"):
            repository.objects[path.rpartition("/")[2]] = body
            return self._json({})
        if "push" in repository.errors:
            return self._fail(*repository.errors["push"])
        if self._bearer() != repository.writer:
            return self._fail(403, "", "You don't have the rights to push here")
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(repository, path.removesuffix(".git/info/lfs/objects/batch"), json.loads(body))
        if "/preupload/" in path:
            return self._json({"files": [self._mode(repository, file) for file in json.loads(body)["files"]]})
        if repository.refusals:
            return self._fail(repository.refusals.pop(0), "", "A commit has happened since. Please retry.")
        return self._commit(repository, path.split("/commit/")[0], [json.loads(line) for line in body.splitlines()])

    def _mode(self, repository: Repository, file: Mapping[str, Any]) -> dict[str, Any]:
        known = repository.files.get(file["path"])
        is_large = file["size"] >= repository.lfs_from
        oid = None if known is None else hashlib.sha256(known).hexdigest() if is_large else git_oid(known)
        mode = "lfs" if is_large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _batch(self, repository: Repository, name: str, asked: Mapping[str, Any]) -> None:
        host = self.headers["Host"]
        upload = {item["oid"]: f"http://{host}/lfs/{name}/{item['oid']}" for item in asked["objects"]}
        missing = {oid: {"actions": {"upload": {"href": href}}} for oid, href in upload.items()}
        objects = [
            item | ({} if item["oid"] in repository.objects else missing[item["oid"]]) for item in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, name: str, lines: list[dict[str, Any]]) -> None:
        changes = {}
        for value in (line["value"] for line in lines[1:]):
            is_large = "oid" in value
            changes[value["path"]] = (
                repository.objects[value["oid"]] if is_large else base64.b64decode(value["content"])
            )
        repository.push(changes, lines[0]["value"]["summary"])
        url = f"http://{self.headers['Host']}/{name.removeprefix('api/models/')}/commit/{repository.commit}"
        self._json({"commitUrl": url, "commitOid": repository.commit})

    def _json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self._send(200, {"Content-Type": "application/json", **(headers or {})}, data, len(data))

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


def _entries(
    repository: Repository, files: Mapping[str, bytes], folder: str, is_recursive: bool
) -> list[dict[str, Any]]:
    """What the tree route lists: files, and folders as entries of their own, both sorted by path."""
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path, data in files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        folders = [prefix + "/".join(parts[:depth]) for depth in range(1, len(parts))]
        for parent in folders if is_recursive else folders[:1]:
            found[parent] = {"type": "directory", "path": parent, "size": 0, "oid": "0" * 40}
        if is_recursive or not folders:
            found[path] = _file_entry(repository, path, data)
    return [found[path] for path in sorted(found)]


def _file_entry(repository: Repository, path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
    if len(data) >= repository.lfs_from:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
