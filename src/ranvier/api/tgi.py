"""TGI's own generation routes: POST `/generate`, `/generate_stream` and `/`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ranvier.api import headers
from ranvier.api.body import read_body
from ranvier.api.context import ApiContext, origin_of
from ranvier.api.errors import error_body, json_response
from ranvier.api.leaving import while_connected
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
from ranvier.service import Completion, GenerateParameters, Origin


class TgiRoutes:
    """Handlers over one service."""

    def __init__(self, context: ApiContext) -> None:
        self._service = context.service
        self._options = context.options
        self._generate_decoder = msgspec.json.Decoder(GenerateRequest)
        self._compat_decoder = msgspec.json.Decoder(CompatGenerateRequest)

    async def generate(self, request: Request) -> Response:
        """POST `/generate`: the whole text at once."""
        body = await read_body(request, self._generate_decoder, self._options.payload_limit)
        reply, completion = await self._whole(request, body.inputs, body.to_parameters())
        return json_response(reply, headers=self._headers(body.inputs, completion))

    async def generate_stream(self, request: Request) -> Response:
        """POST `/generate_stream`: token by token."""
        body = await read_body(request, self._generate_decoder, self._options.payload_limit)
        return self._streamed(request, body.inputs, body.to_parameters())

    async def compat(self, request: Request) -> Response:
        """POST `/`: either way, as `stream` says; the prompt is part of the text unless refused."""
        return await self.complete(request, await read_body(request, self._compat_decoder, self._options.payload_limit))

    async def complete(self, request: Request, body: CompatGenerateRequest) -> Response:
        """The reply to a body of POST `/`."""
        parameters = body.to_parameters()
        if parameters.return_full_text is None:
            parameters = replace(parameters, return_full_text=True)
        if body.stream:
            return self._streamed(request, body.inputs, parameters)
        reply, completion = await self._whole(request, body.inputs, parameters)
        return json_response([reply], headers=self._headers(body.inputs, completion))

    async def _whole(
        self, request: Request, inputs: str, parameters: GenerateParameters
    ) -> tuple[GenerateResponse, Completion]:
        completion = await while_connected(request, self._service.generate(inputs, parameters, origin_of(request)))
        with_details = parameters.details or parameters.decoder_input_details
        prefix = inputs if parameters.return_full_text else ""
        return generate_response(completion, prefix=prefix, with_details=with_details), completion

    def _headers(self, inputs: str, completion: Completion) -> dict[str, str]:
        return headers.generation(self._options.compute_type, len(inputs), [[completion.best]])

    def _streamed(self, request: Request, inputs: str, parameters: GenerateParameters) -> Response:
        first = headers.stream(self._options.compute_type, len(inputs))
        return EventStream(self._frames(inputs, parameters, origin_of(request)), first, self._options.keep_alive_s)

    async def _frames(self, inputs: str, parameters: GenerateParameters, origin: Origin) -> AsyncIterator[bytes]:
        """Errors are events here: the status line has been sent."""
        prefix = inputs if parameters.return_full_text else ""
        index = 0
        stream = self._service.stream(inputs, parameters, 0, origin)
        try:
            async for item in stream:
                index += 1
                reply = stream_response(item, index, prefix=prefix, with_details=parameters.details)
                yield event(encoder.encode(reply))
        except RequestError as error:
            yield event(encoder.encode(error_body(error, is_stream=True)[1]))
        finally:
            await stream.aclose()
