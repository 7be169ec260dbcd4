"""The ASGI application: routes, middleware, and what becomes of exceptions."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ranvier.api.body import BodyError
from ranvier.api.errors import error_response
from ranvier.api.sse import KEEP_ALIVE_S
from ranvier.api.system import SystemRoutes
from ranvier.api.tgi import ClientLeftError, TgiRoutes
from ranvier.errors import RequestError
from ranvier.service import GenerationService

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """`payload_limit` in bytes; `cors_allow_origin` empty for any origin; `api_key` None for an open server.

    `keep_alive_s`: seconds without an event after which a stream gets a comment.
    """

    payload_limit: int
    api_key: str | None
    cors_allow_origin: tuple[str, ...]
    compute_type: str
    keep_alive_s: float = KEEP_ALIVE_S


def build_app(service: GenerationService, options: ApiOptions) -> Starlette:
    """The application over one service."""
    tgi = TgiRoutes(
        service,
        payload_limit=options.payload_limit,
        compute_type=options.compute_type,
        keep_alive_s=options.keep_alive_s,
    )
    system = SystemRoutes(service)

    def protected(handler: Handler) -> Handler:
        return _with_key(handler, options.api_key) if options.api_key else handler

    routes = [
        Route("/", _get_or_post(system.health, protected(tgi.compat)), methods=["GET", "POST"]),
        Route("/generate", protected(tgi.generate), methods=["POST"]),
        Route("/generate_stream", protected(tgi.generate_stream), methods=["POST"]),
        Route("/health", system.health, methods=["GET"]),
        Route("/ping", system.health, methods=["GET"]),
        Route("/info", system.info, methods=["GET"]),
        Route("/metrics", system.metrics, methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[_cors(options.cors_allow_origin)],
        exception_handlers={
            BodyError: _body_error,
            RequestError: _request_error,
            ClientLeftError: _client_left,
            ClientDisconnect: _client_left,
            404: _empty,
            405: _empty,
        },
    )
    # With a slash at the end it is another path, as in TGI.
    app.router.redirect_slashes = False
    return app


def _cors(origins: tuple[str, ...]) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=list(origins) or ["*"],
        allow_methods=["GET", "POST"],
        allow_headers=["content-type", "authorization"],
    )


def _get_or_post(get: Handler, post: Handler) -> Handler:
    """One route for both, so that a 405 names both in `Allow`."""

    async def chosen(request: Request) -> Response:
        return await (post if request.method == "POST" else get)(request)

    return chosen


def _with_key(handler: Handler, api_key: str) -> Handler:
    """Ask for `Authorization: Bearer <key>`; the comparison takes the same time for any wrong key."""

    async def checked(request: Request) -> Response:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_known = hmac.compare_digest(given.strip().encode(), api_key.encode())
        return await handler(request) if is_known and scheme.lower() == "bearer" else Response(status_code=401)

    return checked


async def _body_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BodyError)
    return PlainTextResponse(error.text, error.status)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _client_left(request: Request, error: Exception) -> Response:
    # Nobody reads it; 499 is what access logs know for this.
    return Response(status_code=499)


async def _empty(request: Request, error: Exception) -> Response:
    """404 and 405 without a body; 405 keeps its `Allow`, in a fixed order."""
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    headers = {"allow": ", ".join(sorted(allowed.split(", ")))} if allowed else None
    return Response(status_code=error.status_code, headers=headers)
