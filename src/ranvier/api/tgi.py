"""TGI's own generation routes: POST `/generate`, `/generate_stream` and `/`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ranvier.api import headers
from ranvier.api.body import read_body
from ranvier.api.errors import error_body, json_response
from ranvier.api.sse import EventStream, event
from ranvier.api.wire import (
    CompatGenerateRequest,
    GenerateRequest,
    GenerateResponse,
    encoder,
    generate_response,
    stream_response,
)
from ranvier.errors import RequestError
from ranvier.service import Completion, GenerateParameters, GenerationService


class TgiRoutes:
    """Handlers over one service. `payload_limit` in bytes, `keep_alive_s` in seconds without an event."""

    def __init__(
        self, service: GenerationService, *, payload_limit: int, compute_type: str, keep_alive_s: float
    ) -> None:
        self._service = service
        self._payload_limit = payload_limit
        self._compute_type = compute_type
        self._keep_alive_s = keep_alive_s
        self._generate_decoder = msgspec.json.Decoder(GenerateRequest)
        self._compat_decoder = msgspec.json.Decoder(CompatGenerateRequest)

    async def generate(self, request: Request) -> Response:
        """POST `/generate`: the whole text at once."""
        body = await read_body(request, self._generate_decoder, self._payload_limit)
        reply, completion = await self._whole(request, body.inputs, body.to_parameters())
        return json_response(reply, headers=self._headers(body.inputs, completion))

    async def generate_stream(self, request: Request) -> Response:
        """POST `/generate_stream`: token by token."""
        body = await read_body(request, self._generate_decoder, self._payload_limit)
        return self._streamed(body.inputs, body.to_parameters())

    async def compat(self, request: Request) -> Response:
        """POST `/`: either way, as `stream` says; the prompt is part of the text unless refused."""
        body = await read_body(request, self._compat_decoder, self._payload_limit)
        parameters = body.to_parameters()
        if parameters.return_full_text is None:
            parameters = replace(parameters, return_full_text=True)
        if body.stream:
            return self._streamed(body.inputs, parameters)
        reply, completion = await self._whole(request, body.inputs, parameters)
        return json_response([reply], headers=self._headers(body.inputs, completion))

    async def _whole(
        self, request: Request, inputs: str, parameters: GenerateParameters
    ) -> tuple[GenerateResponse, Completion]:
        completion = await _while_connected(request, self._service.generate(inputs, parameters))
        with_details = parameters.details or parameters.decoder_input_details
        prefix = inputs if parameters.return_full_text else ""
        return generate_response(completion, prefix=prefix, with_details=with_details), completion

    def _headers(self, inputs: str, completion: Completion) -> dict[str, str]:
        return headers.generation(self._compute_type, len(inputs), completion.best)

    def _streamed(self, inputs: str, parameters: GenerateParameters) -> Response:
        first = headers.stream(self._compute_type, len(inputs))
        return EventStream(self._frames(inputs, parameters), first, self._keep_alive_s)

    async def _frames(self, inputs: str, parameters: GenerateParameters) -> AsyncIterator[bytes]:
        """Errors are events here: the status line has been sent."""
        prefix = inputs if parameters.return_full_text else ""
        index = 0
        stream = self._service.stream(inputs, parameters)
        try:
            async for item in stream:
                index += 1
                reply = stream_response(item, index, prefix=prefix, with_details=parameters.details)
                yield event(encoder.encode(reply))
        except RequestError as error:
            yield event(encoder.encode(error_body(error, is_stream=True)[1]))
        finally:
            await stream.aclose()


async def _while_connected(request: Request, work: Coroutine[Any, Any, Completion]) -> Completion:
    """The result of a coroutine; it is cancelled when the client leaves before."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        return task.result()
    finally:
        for each in (task, watcher):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError, RequestError):
            await task


class ClientLeftError(Exception):
    """Nobody waits for the reply any more."""


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
