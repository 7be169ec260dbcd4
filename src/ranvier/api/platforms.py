"""Contracts of hosting platforms: SageMaker's `/invocations`, Vertex AI's `/vertex`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from ranvier.api.body import SHAPE_ERROR, BodyError, decoded, read_body, read_json
from ranvier.api.context import ApiContext, origin_of
from ranvier.api.errors import json_response
from ranvier.api.leaving import while_connected
from ranvier.api.openai import ChatRoutes, CompletionRoutes
from ranvier.api.openai.chat_wire import ChatRequest
from ranvier.api.openai.completions_wire import CompletionRequest
from ranvier.api.tgi import TgiRoutes
from ranvier.api.wire import CompatGenerateRequest, ErrorResponse, GenerateParameters
from ranvier.errors import RequestError, TemplateError, ToolError
from ranvier.service import ChatService, Origin, Prompt, all_of
from ranvier.service import GenerateParameters as ServiceParameters


class SageMakerRoutes:
    """One route for three bodies, told apart by their shape."""

    def __init__(self, context: ApiContext, tgi: TgiRoutes, chat: ChatRoutes, completions: CompletionRoutes) -> None:
        self._limit = context.options.payload_limit
        self._handlers: tuple[tuple[msgspec.json.Decoder[Any], Any], ...] = (
            (msgspec.json.Decoder(CompatGenerateRequest), tgi.complete),
            (msgspec.json.Decoder(ChatRequest), chat.complete),
            (msgspec.json.Decoder(CompletionRequest), completions.complete),
        )

    async def invocations(self, request: Request) -> Response:
        """POST `/invocations`: SageMaker's one route. The first shape of body that fits is served."""
        data = await read_json(request, self._limit)
        for decoder, handler in self._handlers:
            try:
                body = decoded(data, decoder)
            except BodyError as error:
                if error.status != 422:
                    raise
                continue
            reply: Response = await handler(request, body)
            return reply
        raise BodyError(422, f"{SHAPE_ERROR}data did not match any variant of untagged enum SagemakerRequest")


class VertexText(Struct, frozen=True):
    """A text to continue."""

    inputs: str
    parameters: GenerateParameters | None = None


class VertexRequest(Struct, frozen=True):
    """Body of `/vertex`: texts and chats, told apart by their shape."""

    instances: list[dict[str, Any]]


class VertexResponse(Struct, frozen=True):
    """The generated texts, in order."""

    predictions: list[str]


class VertexRoutes:
    """Handlers over one service."""

    def __init__(self, context: ApiContext) -> None:
        self._service = context.service
        self._chat = ChatService(context.service)
        self._limit = context.options.payload_limit
        self._decoder = msgspec.json.Decoder(VertexRequest)

    async def predict(self, request: Request) -> Response:
        """POST `/vertex`: a text for each instance, in their order. Texts are always sampled."""
        body = await read_body(request, self._decoder, self._limit)
        instances = [_instance(item) for item in body.instances]
        self._service.count_request()
        if not instances:
            return json_response(ErrorResponse("Input validation error", "Input validation error"), 422)
        origin = origin_of(request)
        try:
            prompts = [await self._prompt(instance) for instance in instances]
            work = all_of([self._text(*prompt, origin) for prompt in prompts])
            return json_response(VertexResponse(await while_connected(request, work)))
        except (TemplateError, ToolError):
            raise
        except RequestError:
            return json_response(ErrorResponse("Incomplete generation", "Incomplete generation"), 500)

    async def _prompt(self, instance: VertexText | ChatRequest) -> tuple[Prompt, ServiceParameters]:
        if isinstance(instance, VertexText):
            given = instance.parameters or GenerateParameters()
            honoured = ServiceParameters(do_sample=True, max_new_tokens=given.max_new_tokens, seed=given.seed)
            return Prompt(text=instance.inputs), honoured
        with self._service.failures_counted():
            messages, parameters = instance.to_chat(), instance.to_parameters()
        chat = await self._chat.prepare(messages)
        return chat.prompt, replace(self._service.with_model(parameters, instance.model), grammar=chat.grammar)

    async def _text(self, prompt: Prompt, parameters: ServiceParameters, origin: Origin) -> str:
        return (await self._service.generate(prompt, parameters, origin)).best.text


def _instance(item: dict[str, Any]) -> VertexText | ChatRequest:
    """Raises `BodyError` when neither shape fits."""
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(item, VertexText)
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(item, ChatRequest)
    raise BodyError(422, f"{SHAPE_ERROR}data did not match any variant of untagged enum VertexInstance")
