"""KServe's v2 inference protocol over text: bytes in, bytes out.

Any model name and version is answered: one server serves one model.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from ranvier import __version__
from ranvier.api.body import read_body
from ranvier.api.context import ApiContext, origin_of
from ranvier.api.errors import json_response
from ranvier.api.leaving import while_connected
from ranvier.api.wire import ErrorResponse, GenerateParameters, GenerateRequest
from ranvier.errors import RequestError
from ranvier.service import GenerateParameters as ServiceParameters
from ranvier.service import Origin, all_of

Byte = Annotated[int, Meta(ge=0, le=255)]
Size = Annotated[int, Meta(ge=0)]


class Metadata(Struct, frozen=True):
    """Body of `/v2`."""

    name: str
    version: str
    extensions: list[str]


class Live(Struct, frozen=True):
    """Body of the health routes."""

    live: bool


class Input(Struct, frozen=True):
    """A text as bytes of UTF-8."""

    name: str
    shape: tuple[Size, ...]
    datatype: str
    data: tuple[Byte, ...]


class OutputName(Struct, frozen=True):
    """What an output is to be called."""

    name: str


class InferenceRequest(Struct, frozen=True):
    """Texts, and as many names for what is generated."""

    id: str
    inputs: tuple[Input, ...]
    outputs: tuple[OutputName, ...]
    parameters: GenerateParameters | UnsetType = UNSET


class Output(Struct, frozen=True):
    """A generated text as bytes of UTF-8."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[int]


class InferenceResponse(Struct, frozen=True):
    """Generated texts, in the order of the inputs."""

    id: str
    outputs: list[Output]


class KServeRoutes:
    """Handlers over one service."""

    def __init__(self, context: ApiContext) -> None:
        self._service = context.service
        self._limit = context.options.payload_limit
        self._decoder = msgspec.json.Decoder(InferenceRequest)

    async def server(self, request: Request) -> Response:
        """GET `/v2`: what this server is."""
        return json_response(Metadata("text-generation-inference", __version__, ["health", "models", "metrics"]))

    async def live(self, request: Request) -> Response:
        """GET `/v2/health/live`, `/v2/health/ready`: a constant, like the readiness of a model."""
        return json_response(Live(True))

    async def model(self, request: Request) -> Response:
        """GET `/v2/models/{m}/versions/{v}`: what the model can."""
        path = request.path_params
        return json_response(Metadata(path["model"], path["version"], ["infer", "ready"]))

    async def infer(self, request: Request) -> Response:
        """POST `/v2/models/{m}/versions/{v}/infer`: a text for each input, in their order."""
        body = await read_body(request, self._decoder, self._limit)
        try:
            texts = [bytes(each.data).decode() for each in body.inputs]
        except UnicodeDecodeError as error:
            return json_response(ErrorResponse(str(error), "utf8"), 422)
        if len(body.inputs) != len(body.outputs):
            return json_response(ErrorResponse("Inputs and outputs length mismatch", "length mismatch"), 422)
        origin = origin_of(request)
        try:
            requests = [GenerateRequest(text, body.parameters) for text in texts]
            work = all_of([self._text(each.inputs, each.to_parameters(), origin) for each in requests])
            generated = await while_connected(request, work)
        except RequestError:
            return json_response(ErrorResponse("Incomplete generation", "Incomplete generation"), 500)
        pairs = zip(body.outputs, generated, strict=True)
        return json_response(InferenceResponse(body.id, [_output(each.name, text) for each, text in pairs]))

    async def _text(self, text: str, parameters: ServiceParameters, origin: Origin) -> str:
        return (await self._service.generate(text, parameters, origin)).best.text


def _output(name: str, text: str) -> Output:
    data = list(text.encode())
    return Output(name, (1, len(data)), "BYTES", data)
