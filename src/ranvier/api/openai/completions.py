"""POST `/v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ranvier.api import headers
from ranvier.api.body import read_body
from ranvier.api.context import ApiContext, origin_of
from ranvier.api.errors import json_response
from ranvier.api.leaving import while_connected
from ranvier.api.openai.completions_wire import CompletionRequest
from ranvier.api.openai.replies import (
    FINGERPRINT,
    Chunk,
    CompletionComplete,
    CompletionFinal,
    CompletionLogprobs,
    Usage,
    chat_reason,
    completion_logprobs,
    now,
    stream_error,
    stream_logprobs,
    total_usage,
    usage_of,
)
from ranvier.api.sse import DONE, EventStream, event
from ranvier.api.wire import encoder
from ranvier.errors import RequestError, ValidationError
from ranvier.service import Finished, GenerateParameters, Origin, Prompt, StreamItem, all_of, merged


class CompletionRoutes:
    """Handlers over one service."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._service = context.service
        self._decoder = msgspec.json.Decoder(CompletionRequest)

    async def completions(self, request: Request) -> Response:
        """POST `/v1/completions`: texts that continue prompts, whole or as a stream."""
        return await self.complete(
            request, await read_body(request, self._decoder, self._context.options.payload_limit)
        )

    async def complete(self, request: Request, body: CompletionRequest) -> Response:
        """The reply to a body, whole or as a stream."""
        self._service.count_request()
        prompts = [self._with_text(prompt) for prompt in body.to_prompts(self._service.limits.max_client_batch_size)]
        with self._service.failures_counted():
            parameters, count = body.to_parameters(), body.num_choices
        parameters = self._service.with_model(parameters, body.model)
        self._service.check_count(count)
        origin = origin_of(request)
        compute_type, num_characters = self._context.options.compute_type, sum(len(each.text) for each in prompts)
        if body.stream:
            frames = self._frames(body, prompts, parameters, count, origin)
            first = headers.stream(compute_type, num_characters)
            return EventStream(frames, first, self._context.options.keep_alive_s)
        work = [self._service.choices(prompt, parameters, count, origin) for prompt in prompts]
        answers = await while_connected(request, all_of(work))
        reply = CompletionFinal(
            id="",
            created=now(),
            model=self._service.model_name(body.model),
            system_fingerprint=FINGERPRINT,
            choices=self._choices(body, prompts, answers),
            usage=total_usage([usage_of(each) for each in answers]),
        )
        sums = headers.generation(compute_type, num_characters, answers)
        del sums["x-compute-time"]
        return json_response(reply, headers=sums)

    def _with_text(self, prompt: Prompt) -> Prompt:
        """Token ids with the text they stand for: `echo` gives it back, and headers count it."""
        if prompt.token_ids is None:
            return prompt
        limit = self._service.engine.info.limits.max_input_tokens
        if len(prompt.token_ids) > limit:
            # Before they are decoded: a million of them would hold up everybody else.
            raise ValidationError(f"`inputs` must have less than {limit} tokens. Given: {len(prompt.token_ids)}")
        text = self._service.text.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
        return Prompt(text=text, token_ids=prompt.token_ids)

    def _choices(
        self, body: CompletionRequest, prompts: list[Prompt], answers: list[list[Finished]]
    ) -> list[CompletionComplete]:
        echoed = [prompt.text if body.echo else "" for prompt in prompts]
        texts = [(echo, finished) for echo, each in zip(echoed, answers, strict=True) for finished in each]
        return [
            CompletionComplete(index, echo + finished.text, _logprobs(body, finished), chat_reason(finished))
            for index, (echo, finished) in enumerate(texts)
        ]

    async def _frames(
        self,
        body: CompletionRequest,
        prompts: list[Prompt],
        parameters: GenerateParameters,
        count: int,
        origin: Origin,
    ) -> AsyncIterator[bytes]:
        """Errors are events here: the status line has been sent."""
        streams = [
            self._service.stream(prompt, parameters, index, origin) for prompt in prompts for index in range(count)
        ]
        texts = [_Text(echo=prompt.text if body.echo else "") for prompt in prompts for _ in range(count)]
        finished: list[list[Finished]] = [[] for _ in prompts]
        both = merged(streams)
        try:
            async for index, item in both:
                if isinstance(item, RequestError):
                    yield event(encoder.encode(stream_error(item)))
                    continue
                if item.finished is not None:
                    finished[index // count].append(item.finished)
                yield event(self._chunk(body, index, texts[index], item))
            if body.with_usage and any(finished):
                yield event(self._final(body, [], total_usage([usage_of(each) for each in finished])))
            yield DONE
        finally:
            await both.aclose()

    def _chunk(self, body: CompletionRequest, index: int, text: _Text, item: StreamItem) -> bytes:
        added, start = text.take(item.piece.text)
        logprobs = None if body.logprobs is None else stream_logprobs(item.piece, num_top=body.logprobs, start=start)
        # TGI's stream has its own names for the reasons: those of `/generate_stream`.
        reason = "" if item.finished is None else item.finished.reason
        choices = [CompletionComplete(index, added, logprobs, reason)]
        if item.finished is not None:
            return self._final(body, choices, usage_of([item.finished]))
        return encoder.encode(Chunk("", now(), choices, self._service.model_name(body.model), FINGERPRINT))

    def _final(self, body: CompletionRequest, choices: list[CompletionComplete], usage: Usage) -> bytes:
        model = self._service.model_name(body.model)
        return encoder.encode(CompletionFinal("", now(), model, FINGERPRINT, choices, usage))


@dataclass(slots=True)
class _Text:
    """One text of a stream while it grows: `echo` is what goes before its first token, `length` its characters."""

    echo: str
    length: int = 0

    def take(self, piece: str) -> tuple[str, int]:
        """What an event adds for a token's text, and where in the whole that token starts."""
        added, self.echo = self.echo + piece, ""
        self.length += len(added)
        return added, self.length - len(piece)


def _logprobs(body: CompletionRequest, finished: Finished) -> CompletionLogprobs | None:
    if body.logprobs is None:
        return None
    return completion_logprobs(finished, with_prompt=bool(body.echo), num_top=body.logprobs)
