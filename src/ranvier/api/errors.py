"""The one table from exception to status and `error_type`."""

from __future__ import annotations

from starlette.responses import Response

from ranvier.api.wire import ErrorResponse, encoder
from ranvier.errors import (
    BatchSizeError,
    GenerationError,
    IncompleteGenerationError,
    OverloadedError,
    RequestError,
    ShuttingDownError,
    SuffixError,
    TemplateError,
    ToolError,
    UnhealthyError,
    ValidationError,
)

_TABLE: dict[type[RequestError], tuple[int, str, str]] = {
    TemplateError: (422, "template_error", "Template error: {}"),
    ToolError: (422, "tool_error", "Tool error: {}"),
    SuffixError: (422, "suffix not supported", "{}"),
    BatchSizeError: (422, "batch size exceeded", "{}"),
    ValidationError: (422, "validation", "Input validation error: {}"),
    OverloadedError: (429, "overloaded", "{}"),
    ShuttingDownError: (503, "healthcheck", "{}"),
    UnhealthyError: (503, "healthcheck", "{}"),
    GenerationError: (424, "generation", "Request failed during generation: Server error: {}"),
    IncompleteGenerationError: (500, "incomplete_generation", "{}"),
}


_RETRY_AFTER_S: dict[type[RequestError], int] = {OverloadedError: 1, ShuttingDownError: 1, UnhealthyError: 5}
"""Seconds after which another try makes sense. A permit is free, or another replica found, within any second; an engine
that died is back after some. Guesses on purpose: how long requests take differs more than an estimate could say."""


def error_body(error: RequestError, *, is_stream: bool = False) -> tuple[int, ErrorResponse]:
    """Status and body for an error; a stream that stops short has its own name."""
    status, error_type, text = _TABLE[type(error)]
    if is_stream and isinstance(error, IncompleteGenerationError):
        return status, ErrorResponse("Incomplete generation stream", "incomplete_generation_stream")
    return status, ErrorResponse(text.format(error), error_type)


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON reply."""
    return Response(encoder.encode(value), status, headers, "application/json")


def error_response(error: RequestError) -> Response:
    """The reply for an error before any token was sent."""
    status, body = error_body(error)
    retry_after_s = _RETRY_AFTER_S.get(type(error))
    return json_response(body, status, {"retry-after": str(retry_after_s)} if retry_after_s else None)
