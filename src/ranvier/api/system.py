"""Routes that tell about the server: health, info, models, metrics."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from ranvier import __version__
from ranvier.api.errors import error_response, json_response
from ranvier.api.wire import Info
from ranvier.errors import ShuttingDownError, UnhealthyError
from ranvier.service import GenerationService


class ModelInfo(Struct, frozen=True):
    """One model of `/v1/models`; `parent` is the model that an adapter was loaded beside."""

    id: str
    object: str
    created: int
    owned_by: str
    parent: str | UnsetType = UNSET


class ModelsInfo(Struct, frozen=True):
    """Body of `/v1/models`."""

    object: str
    data: list[ModelInfo]


class SystemRoutes:
    """Handlers over one service."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """GET `/health`, `/ping`, `/`: an empty 200, or 503. A full queue is healthy."""
        return Response() if self._service.is_healthy else error_response(UnhealthyError())

    async def live(self, request: Request) -> Response:
        """GET `/livez`: an empty 200 as long as the process serves, without an engine and while draining, too."""
        return Response()

    async def ready(self, request: Request) -> Response:
        """GET `/readyz`: an empty 200 while new requests are taken, or 503 with the reason. A full queue is ready."""
        if not self._service.engine.is_healthy:
            return error_response(UnhealthyError())
        return Response() if self._service.is_healthy else error_response(ShuttingDownError())

    async def info(self, request: Request) -> Response:
        """GET `/info`: the model, and the limits of this server."""
        text, limits, shape = self._service.text, self._service.limits, self._service.engine.info.limits
        return json_response(
            Info(
                model_id=text.model_id,
                model_sha=text.model_sha,
                model_pipeline_tag=None,
                max_concurrent_requests=limits.max_concurrent_requests,
                max_best_of=limits.max_best_of,
                max_stop_sequences=limits.max_stop_sequences,
                max_input_tokens=shape.max_input_tokens,
                max_total_tokens=shape.sequence_length,
                validation_workers=limits.validation_workers,
                max_client_batch_size=limits.max_client_batch_size,
                router="text-generation-router",
                version=__version__,
                sha=None,
                docker_label=None,
                adapters=list(self._service.adapters) or UNSET,
                emulated=True if self._service.engine.info.is_emulated else UNSET,
            )
        )

    async def models(self, request: Request) -> Response:
        """GET `/v1/models`: the model that is served, then its adapters."""
        model_id = self._service.text.model_id
        adapters = [ModelInfo(name, "model", 0, model_id, model_id) for name in self._service.adapters]
        return json_response(ModelsInfo("list", [ModelInfo(model_id, "model", 0, model_id), *adapters]))

    async def metrics(self, request: Request) -> Response:
        """GET `/metrics`: figures for Prometheus."""
        return Response(self._service.metrics.render(), media_type="text/plain")
