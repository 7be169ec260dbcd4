"""The one table from exception to status and `error_type`."""

from __future__ import annotations

from starlette.responses import Response

from ranvier.api.wire import ErrorResponse, encoder
from ranvier.errors import (
    GenerationError,
    IncompleteGenerationError,
    OverloadedError,
    RequestError,
    ShuttingDownError,
    UnhealthyError,
    ValidationError,
)

_TABLE: dict[type[RequestError], tuple[int, str, str]] = {
    ValidationError: (422, "validation", "Input validation error: {}"),
    OverloadedError: (429, "overloaded", "{}"),
    ShuttingDownError: (503, "healthcheck", "{}"),
    UnhealthyError: (503, "healthcheck", "{}"),
    GenerationError: (424, "generation", "Request failed during generation: Server error: {}"),
    IncompleteGenerationError: (500, "incomplete_generation", "{}"),
}


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
    return json_response(body, status)
