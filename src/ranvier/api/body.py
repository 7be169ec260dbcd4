"""Reading JSON bodies the way TGI does: plain-text errors before any validation."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

T = TypeVar("T", bound=msgspec.Struct)

_JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json", re.IGNORECASE)
_PATH = re.compile(r"^(?P<detail>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)


SHAPE_ERROR = "Failed to deserialize the JSON body into the target type: "


class BodyError(Exception):
    """The body cannot be taken; `text` is the whole reply."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


async def read_body(request: Request, decoder: msgspec.json.Decoder[T], payload_limit: int) -> T:
    """The decoded body. Raises `BodyError` with TGI's status and text."""
    return decoded(await read_json(request, payload_limit), decoder)


async def read_json(request: Request, payload_limit: int) -> bytes:
    """The bytes of a body that says it is JSON. Raises `BodyError`."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if not _JSON_TYPE.fullmatch(content_type):
        raise BodyError(415, "Expected request with `Content-Type: application/json`")
    return await _read_limited(request, payload_limit)


def decoded(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The value in a body. Raises `BodyError`."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BodyError(422, f"{SHAPE_ERROR}{_with_path(error)}") from None
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
