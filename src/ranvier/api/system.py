"""Routes that tell about the server: health, info, metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ranvier import __version__
from ranvier.api.errors import error_response, json_response
from ranvier.api.wire import Info
from ranvier.errors import UnhealthyError
from ranvier.service import GenerationService


class SystemRoutes:
    """Handlers over one service."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """GET `/health`, `/ping`, `/`: an empty 200, or 503. A full queue is healthy."""
        return Response() if self._service.is_healthy else error_response(UnhealthyError())

    async def info(self, request: Request) -> Response:
        """GET `/info`."""
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
            )
        )

    async def metrics(self, request: Request) -> Response:
        """GET `/metrics`."""
        return Response(self._service.metrics.render(), media_type="text/plain")
