"""The ASGI application: routes, and what becomes of exceptions."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ranvier.api.body import BodyError
from ranvier.api.context import ApiContext, ApiOptions
from ranvier.api.docs import DocsRoutes
from ranvier.api.errors import error_response
from ranvier.api.kserve import KServeRoutes
from ranvier.api.leaving import ClientLeftError
from ranvier.api.openai import ChatRoutes, CompletionRoutes
from ranvier.api.openapi import OpenApiRoutes
from ranvier.api.platforms import SageMakerRoutes, VertexRoutes
from ranvier.api.security import Cors, Handler, with_key
from ranvier.api.system import SystemRoutes
from ranvier.api.tgi import TgiRoutes
from ranvier.api.tokenizing import TokenizeRoutes
from ranvier.errors import RequestError
from ranvier.service import GenerationService


def build_app(service: GenerationService, options: ApiOptions) -> ASGIApp:
    """The application over one service."""
    app = Starlette(
        routes=routes(service, options),
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
    # Around the whole, so that a page can read the 500 of a mistake of ours, too.
    return Cors(app, options.cors_allow_origin)


def routes(service: GenerationService, options: ApiOptions) -> list[Route]:
    """Every route of the application. `ranvier.api.openapi` has an operation for each."""
    context = ApiContext(service, options)
    tgi, tokenizing = TgiRoutes(context), TokenizeRoutes(context)
    chat, completions = ChatRoutes(context), CompletionRoutes(context)
    sagemaker = SageMakerRoutes(context, tgi, chat, completions)
    vertex, kserve = VertexRoutes(context), KServeRoutes(context)
    version = "/v2/models/{model}/versions/{version}"
    system, docs = SystemRoutes(service), DocsRoutes()

    def protected(handler: Handler) -> Handler:
        return with_key(handler, options.api_key)

    vertex_routes = [
        *([_post(path, protected(vertex.predict))] if (path := options.vertex_predict_route) else []),
        *([_get(path, system.health)] if (path := options.vertex_health_route) else []),
    ]
    return [
        Route("/", _get_or_post(system.health, protected(tgi.compat)), methods=["GET", "POST"]),
        _post("/generate", protected(tgi.generate)),
        _post("/generate_stream", protected(tgi.generate_stream)),
        _post("/v1/chat/completions", protected(chat.completions)),
        _post("/v1/completions", protected(completions.completions)),
        _post("/tokenize", protected(tokenizing.tokenize)),
        _post("/invocations", protected(sagemaker.invocations)),
        _post("/vertex", protected(vertex.predict)),
        # Open, as in TGI.
        _post("/chat_tokenize", chat.tokenize),
        _get("/v2", kserve.server),
        _get("/v2/health/live", kserve.live),
        _get("/v2/health/ready", kserve.live),
        _get(version, kserve.model),
        _get(version + "/ready", kserve.live),
        _post(version + "/infer", protected(kserve.infer)),
        _get("/health", system.health),
        _get("/ping", system.health),
        _get("/livez", system.live),
        _get("/readyz", system.ready),
        _get("/info", system.info),
        _get("/v1/models", system.models),
        _get("/metrics", system.metrics),
        _get("/api-doc/openapi.json", OpenApiRoutes(context).document),
        _get("/docs", docs.to_page),
        _get("/docs/{name:path}", docs.file),
        *vertex_routes,
    ]


def _get(path: str, handler: Handler) -> Route:
    # HEAD comes with it.
    return Route(path, handler, methods=["GET"])


def _post(path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=["POST"])


def _get_or_post(get: Handler, post: Handler) -> Handler:
    """One route for both, so that a 405 names both in `Allow`."""

    async def chosen(request: Request) -> Response:
        return await (post if request.method == "POST" else get)(request)

    return chosen


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
