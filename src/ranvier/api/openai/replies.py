"""Replies of the OpenAI routes. Names, order and presence are the wire's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from ranvier import __version__
from ranvier.api.errors import error_body
from ranvier.errors import RequestError
from ranvier.service import ChatAnswer, ChatDelta, Finished, TokenPiece

FINGERPRINT = f"{__version__}-native"

_CHAT_REASONS = {"eos_token": "stop"}


class Usage(Struct, frozen=True):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletionTopLogprob(Struct, frozen=True):
    """A token that was likely."""

    token: str
    logprob: float


class ChatCompletionLogprob(Struct, frozen=True):
    """A chosen token with the likely ones."""

    token: str
    logprob: float
    top_logprobs: list[ChatCompletionTopLogprob]


class ChatCompletionLogprobs(Struct, frozen=True):
    """One entry for each generated token."""

    content: list[ChatCompletionLogprob]


class AssistantMessage(Struct, frozen=True):
    """What every answer begins with. Fields of this type hold one of the types below: a union would need tags."""

    role: str


class TextMessage(AssistantMessage, frozen=True):
    """An answer of text; `reasoning_content` is what the model thought before it, where its template marks that."""

    content: str
    tool_call_id: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class CalledFunction(Struct, frozen=True):
    """A call's function; `arguments` is JSON."""

    description: None
    name: str
    arguments: str


class CompleteToolCall(Struct, frozen=True):
    """A whole call."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ToolCallMessage(AssistantMessage, frozen=True):
    """An answer that is a call."""

    tool_calls: list[CompleteToolCall]


class ChatCompletionComplete(Struct, frozen=True):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatCompletionLogprobs | None
    finish_reason: str


class ChatCompletion(Struct, frozen=True, tag_field="object", tag="chat.completion"):
    """Body of a 200 from `/v1/chat/completions`."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionComplete]
    usage: Usage


class Function(Struct, frozen=True):
    """A part of a call: the name first, then pieces of the arguments."""

    name: str | None
    arguments: str


class DeltaToolCall(Struct, frozen=True):
    """A part of a call."""

    index: int
    id: str
    type: Literal["function"]
    function: Function


class ToolCallDelta(AssistantMessage, frozen=True):
    """What an event adds to a call."""

    tool_calls: list[DeltaToolCall]


class ChatCompletionChoice(Struct, frozen=True):
    """What an event adds to one answer."""

    index: int
    delta: AssistantMessage
    logprobs: ChatCompletionLogprobs | None
    finish_reason: str | None


class ChatCompletionChunk(Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    """One event of a chat stream."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionChoice]
    usage: Usage | None


class CompletionLogprobs(Struct, frozen=True):
    """Log-probabilities in the shape of the older API; `text_offset` counts characters of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionComplete(Struct, frozen=True):
    """One text, or what an event adds to it; its reason is empty until the last."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str


class CompletionFinal(Struct, frozen=True, tag_field="object", tag="text_completion"):
    """Body of a 200 from `/v1/completions`, and the last event of each text of a stream."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionComplete]
    usage: Usage


class Chunk(Struct, frozen=True, tag_field="object", tag="text_completion"):
    """An event of a completions stream."""

    id: str
    created: int
    choices: list[CompletionComplete]
    model: str
    system_fingerprint: str


class StreamFailure(Struct, frozen=True):
    """What went wrong; the status is TGI's constant."""

    message: str
    http_status_code: int = 422


class StreamError(Struct, frozen=True):
    """An error as an event of an OpenAI stream."""

    error: StreamFailure


def stream_error(error: RequestError) -> StreamError:
    """An error as an event."""
    return StreamError(StreamFailure(error_body(error, is_stream=True)[1].error))


def now() -> int:
    """`created`: unix seconds."""
    return int(time.time())


def usage_of(finished: Sequence[Finished]) -> Usage:
    """The usage of several answers to one prompt; of none it is zero."""
    num_prompt = finished[0].num_input if finished else 0
    num_completion = sum(len(each.tokens) for each in finished)
    return Usage(num_prompt, num_completion, num_prompt + num_completion)


def total_usage(parts: Sequence[Usage]) -> Usage:
    """The sum."""
    prompt, completion = sum(part.prompt_tokens for part in parts), sum(part.completion_tokens for part in parts)
    return Usage(prompt, completion, prompt + completion)


def chat_reason(finished: Finished) -> str:
    """The finish reason of a chat: the end of text is `stop`."""
    return _CHAT_REASONS.get(finished.reason, finished.reason)


def chat_logprob(piece: TokenPiece) -> ChatCompletionLogprob:
    """One token with its likely alternatives."""
    top = [ChatCompletionTopLogprob(each.text, each.logprob) for each in piece.top]
    return ChatCompletionLogprob(piece.text, piece.logprob, top)


def chat_choice(index: int, answer: ChatAnswer, *, with_logprobs: bool) -> ChatCompletionComplete:
    """A whole answer."""
    finished = answer.finished
    message: AssistantMessage
    reason = chat_reason(finished)
    if answer.tool_call is None:
        reasoning = answer.reasoning or UNSET
        message = TextMessage("assistant", answer.content, reasoning_content=reasoning)
    else:
        function = CalledFunction(None, answer.tool_call.name, answer.tool_call.arguments)
        message = ToolCallMessage("assistant", [CompleteToolCall("0", "function", function)])
    logprobs = [chat_logprob(piece) for piece in finished.tokens]
    return ChatCompletionComplete(index, message, ChatCompletionLogprobs(logprobs) if with_logprobs else None, reason)


def chat_delta(index: int, delta: ChatDelta, call_id: str, *, with_logprobs: bool) -> ChatCompletionChoice | None:
    """What a token adds to an answer; None when that is nothing a client should see."""
    parts: AssistantMessage
    reason = None if delta.finished is None else chat_reason(delta.finished)
    if delta.tool is None or (reason is not None and not delta.tool.arguments):
        parts = TextMessage("assistant", delta.content, reasoning_content=delta.reasoning or UNSET)
    elif delta.tool.name is None and not delta.tool.arguments:
        return None
    else:
        function = Function(delta.tool.name, delta.tool.arguments)
        parts = ToolCallDelta("assistant", [DeltaToolCall(0, call_id, "function", function)])
    logprobs = ChatCompletionLogprobs([chat_logprob(delta.piece)]) if with_logprobs else None
    return ChatCompletionChoice(index, parts, logprobs, reason)


def stream_logprobs(piece: TokenPiece, *, num_top: int, start: int) -> CompletionLogprobs:
    """Of one token, which starts at character `start` of its text."""
    return CompletionLogprobs([piece.text], [piece.logprob], [_top(piece)] if num_top else None, [start])


def completion_logprobs(finished: Finished, *, with_prompt: bool, num_top: int) -> CompletionLogprobs:
    """Of all tokens of a text; with the prompt's before them where it is echoed."""
    prompt: list[Any] = list(finished.prompt) if with_prompt else []
    tops: list[dict[str, float] | None] = [None] * len(prompt)
    tops += [_top(piece) for piece in finished.tokens]
    pieces = prompt + list(finished.tokens)
    offsets, end = [], 0
    for piece in pieces:
        offsets.append(end)
        end += len(piece.text)
    return CompletionLogprobs(
        tokens=[piece.text for piece in pieces],
        token_logprobs=[piece.logprob for piece in pieces],
        top_logprobs=tops if num_top else None,
        text_offset=offsets,
    )


def _top(piece: TokenPiece) -> dict[str, float]:
    return {each.text: each.logprob for each in piece.top}
