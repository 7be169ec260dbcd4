"""What every route needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request

from ranvier.api.sse import KEEP_ALIVE_S
from ranvier.service import GenerationService, Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """`payload_limit` in bytes; `cors_allow_origin` empty for any origin; `api_key` None for an open server.

    `keep_alive_s`: seconds without an event after which a stream gets a comment. `vertex_…`: further paths that
    Vertex AI wants its prediction and health routes at.
    """

    payload_limit: int
    api_key: str | None = field(repr=False)
    cors_allow_origin: tuple[str, ...]
    compute_type: str
    keep_alive_s: float = KEEP_ALIVE_S
    vertex_predict_route: str | None = None
    vertex_health_route: str | None = None


@dataclass(frozen=True, slots=True)
class ApiContext:
    """One service and the options of its edge."""

    service: GenerationService
    options: ApiOptions


def origin_of(request: Request) -> Origin:
    """The headers that logs and traces want."""
    headers = request.headers
    return Origin(
        request_id=headers.get("x-request-id"),
        traceparent=headers.get("traceparent"),
        tracestate=headers.get("tracestate"),
    )
