"""Replies that change only with the server: sent once to each client that remembers them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response


@dataclass(frozen=True, slots=True)
class File:
    """Content with its headers."""

    content: bytes
    headers: Mapping[str, str]


def file_of(content: bytes, content_type: str, cache_control: str) -> File:
    """A file with the headers that it needs. The tag is the same for the same content."""
    headers = {
        "content-type": content_type,
        "cache-control": cache_control,
        "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        "x-content-type-options": "nosniff",
    }
    return File(content, headers)


def file_response(request: Request, file: File) -> Response:
    """The content, or 304 for a client that has this very one."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.headers["etag"] in known or known == ["*"]:
        return Response(status_code=304, headers={name: file.headers[name] for name in ("cache-control", "etag")})
    return Response(file.content, headers=file.headers)
