"""POST `/v1/chat/completions` and `/chat_tokenize`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ranvier.api import headers
from ranvier.api.body import read_body
from ranvier.api.context import ApiContext, origin_of
from ranvier.api.errors import json_response
from ranvier.api.leaving import while_connected
from ranvier.api.openai.chat_wire import ChatRequest
from ranvier.api.openai.replies import (
    FINGERPRINT,
    ChatCompletion,
    ChatCompletionChoice,
    ChatCompletionChunk,
    Usage,
    chat_choice,
    chat_delta,
    now,
    stream_error,
    usage_of,
)
from ranvier.api.sse import DONE, EventStream, event
from ranvier.api.tokenizing import tokens_json
from ranvier.api.wire import encoder
from ranvier.errors import RequestError
from ranvier.service import ChatService, Finished, GenerateParameters, Origin, PreparedChat, merged


class ChatRoutes:
    """Handlers over one service."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._service = context.service
        self._chat = ChatService(context.service)
        self._decoder = msgspec.json.Decoder(ChatRequest)

    async def read(self, request: Request) -> ChatRequest:
        """The body."""
        return await read_body(request, self._decoder, self._context.options.payload_limit)

    async def completions(self, request: Request) -> Response:
        """POST `/v1/chat/completions`: an answer to a chat, whole or as a stream."""
        return await self.complete(request, await self.read(request))

    async def complete(self, request: Request, body: ChatRequest) -> Response:
        """The reply to a body, whole or as a stream."""
        self._service.count_request()
        with self._service.failures_counted():
            given, parameters, count = body.to_chat(), body.to_parameters(), body.num_choices
        parameters = self._service.with_model(parameters, body.model)
        self._service.check_count(count)
        chat = await self._chat.prepare(given)
        if body.stream:
            first = headers.stream(self._context.options.compute_type, len(chat.prompt.text))
            frames = self._frames(body, chat, parameters, count, origin_of(request))
            return EventStream(frames, first, self._context.options.keep_alive_s)
        answers = await while_connected(request, self._chat.answers(chat, parameters, count, origin_of(request)))
        finished = [answer.finished for answer in answers]
        reply = ChatCompletion(
            id="",
            created=now(),
            model=self._model(body),
            system_fingerprint=FINGERPRINT,
            choices=[
                chat_choice(index, answer, with_logprobs=bool(body.logprobs)) for index, answer in enumerate(answers)
            ],
            usage=usage_of(finished),
        )
        compute_type = self._context.options.compute_type
        return json_response(reply, headers=headers.generation(compute_type, len(answers[0].prompt.text), [finished]))

    def _model(self, body: ChatRequest) -> str:
        return self._service.text.model_id if body.model in (None, "tgi") else str(body.model)

    async def _frames(
        self, body: ChatRequest, chat: PreparedChat, parameters: GenerateParameters, count: int, origin: Origin
    ) -> AsyncIterator[bytes]:
        """Errors are events here: the status line has been sent."""
        finished: list[Finished] = []
        streams = [self._chat.stream(chat, parameters, index, origin) for index in range(count)]
        both = merged(streams)
        try:
            async for index, delta in both:
                if isinstance(delta, RequestError):
                    yield event(encoder.encode(stream_error(delta)))
                    continue
                if delta.finished is not None:
                    finished.append(delta.finished)
                choice = chat_delta(index, delta, chat.call_id, with_logprobs=bool(body.logprobs))
                if choice is not None:
                    yield event(self._chunk(body, [choice], None))
            if body.with_usage and finished:
                yield event(self._chunk(body, [], usage_of(finished)))
            yield DONE
        finally:
            await both.aclose()

    def _chunk(self, body: ChatRequest, choices: list[ChatCompletionChoice], usage: Usage | None) -> bytes:
        return encoder.encode(
            ChatCompletionChunk(
                id="",
                created=now(),
                model=self._model(body),
                system_fingerprint=FINGERPRINT,
                choices=choices,
                usage=usage,
            )
        )

    async def tokenize(self, request: Request) -> Response:
        """POST `/chat_tokenize`: the prompt that a chat becomes, and its tokens."""
        body = await self.read(request)
        self._service.count_request()
        with self._service.failures_counted():
            given = body.to_chat()
        text = (await self._chat.prepare(given)).prompt.text
        tokens = await self._service.tokenize(text, add_special_tokens=False)
        return json_response({"tokenize_response": await tokens_json(text, tokens), "templated_text": text})
