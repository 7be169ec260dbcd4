"""Reading JSON bodies the way TGI does: plain-text errors before any validation."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

T = TypeVar("T", bound=msgspec.Struct)

_JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json", re.IGNORECASE)
_PATH = re.compile(r"^(?P<detail>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)


class BodyError(Exception):
    """The body cannot be taken; `text` is the whole reply."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


async def read_body(request: Request, decoder: msgspec.json.Decoder[T], payload_limit: int) -> T:
    """The decoded body. Raises `BodyError` with TGI's status and text."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if not _JSON_TYPE.fullmatch(content_type):
        raise BodyError(415, "Expected request with `Content-Type: application/json`")
    body = await _read_limited(request, payload_limit)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BodyError(422, f"Failed to deserialize the JSON body into the target type: {_with_path(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError(400, f"Failed to parse the request body as JSON: {error}") from None


async def _read_limited(request: Request, payload_limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    too_large = BodyError(413, "Failed to buffer the request body: length limit exceeded")
    if declared.isdigit() and int(declared) > payload_limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > payload_limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _with_path(error: msgspec.ValidationError) -> str:
    """`path: detail`, as serde words it, from msgspec's `detail - at `$.path``."""
    match = _PATH.match(str(error))
    return f"{match['path']}: {match['detail']}" if match and match["path"] else str(error)
