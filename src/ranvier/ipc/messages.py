"""Frames between router and engine: 4 bytes little-endian length, then MessagePack of one of these structs.

One `StepFrame` carries everything a step has to say, so that a step costs one write and one read whatever the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from ranvier.core import (
    Capabilities,
    EngineInfo,
    EngineRequest,
    Event,
    FailEvent,
    FinishEvent,
    FinishReason,
    Limits,
    PromptEvent,
    SamplingParams,
    StartEvent,
    StepStats,
    TokenEvent,
    TokenLogprob,
)

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 256 * 2**20

_Message = TypeVar("_Message")
Top = tuple[tuple[int, float], ...]


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """First frame of an engine: what it is."""

    target: str
    limits: Limits
    capabilities: Capabilities
    details: dict[str, str]
    is_emulated: bool

    def to_info(self) -> EngineInfo:
        """The value the port speaks of."""
        return EngineInfo(
            target=self.target,
            limits=self.limits,
            capabilities=self.capabilities,
            details=self.details,
            is_emulated=self.is_emulated,
        )


class StepFrame(msgspec.Struct, frozen=True, array_like=True, tag="step"):
    """Events of one step, grouped by kind; within a request they happen in this order of groups."""

    started: list[tuple[str, float, int]]
    prompts: list[tuple[str, tuple[float, ...]]]
    tokens: list[tuple[str, int, float, Top]]
    finished: list[tuple[str, FinishReason]]
    failed: list[tuple[str, str]]
    stats: StepStats | None

    def events(self) -> Iterator[Event]:
        """The events again."""
        for started in self.started:
            yield StartEvent(*started)
        for prompt in self.prompts:
            yield PromptEvent(*prompt)
        for request_id, token_id, logprob, top in self.tokens:
            yield TokenEvent(request_id, token_id, logprob, tuple(TokenLogprob(*pair) for pair in top))
        for finished in self.finished:
            yield FinishEvent(*finished)
        for failed in self.failed:
            yield FailEvent(*failed)


class Lost(msgspec.Struct, frozen=True, array_like=True, tag="lost"):
    """Last frame of an engine whose device is lost: why."""

    reason: str


class Submit(msgspec.Struct, frozen=True, array_like=True, tag="submit"):
    """Queue a request."""

    request_id: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    eos_token_ids: frozenset[int]
    sampling: SamplingParams
    grammar: str | None
    wants_prompt_logprobs: bool
    adapter: str | None

    def to_request(self) -> EngineRequest:
        """The value the engine works with."""
        return EngineRequest(
            request_id=self.request_id,
            prompt_ids=self.prompt_ids,
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=self.eos_token_ids,
            sampling=self.sampling,
            grammar=self.grammar,
            wants_prompt_logprobs=self.wants_prompt_logprobs,
            adapter=self.adapter,
        )


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """End a request."""

    request_id: str


FromEngine = Hello | StepFrame | Lost
ToEngine = Submit | Cancel

_encoder = msgspec.msgpack.Encoder()
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)


class FrameError(Exception):
    """What came over the socket is too long for a frame, or no message of its direction."""


def frame(message: FromEngine | ToEngine) -> bytes:
    """A message as it goes over the socket."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def body_length(head: bytes) -> int:
    """Bytes that follow the first `LENGTH_BYTES` of a frame. Raises `FrameError` over `MAX_FRAME_BYTES`."""
    length = int.from_bytes(head, "little")
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
    return length


def from_engine(body: bytes) -> FromEngine:
    """The message in a frame's body. Raises `FrameError`."""
    return _decoded(_from_engine, body)


def to_engine(body: bytes) -> ToEngine:
    """The message in a frame's body. Raises `FrameError`."""
    return _decoded(_to_engine, body)


def _decoded(decoder: msgspec.msgpack.Decoder[_Message], body: bytes) -> _Message:
    try:
        return decoder.decode(body)
    # Text that is not UTF-8 and nesting without end raise errors that are not msgspec's.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"a frame of {len(body)} bytes is no message: {error}") from error


def step_frame(events: Iterable[Event], stats: StepStats | None) -> StepFrame:
    """Group events by kind."""
    started, prompts, tokens, finished, failed = [], [], [], [], []
    for event in events:
        if isinstance(event, TokenEvent):
            top = tuple((item.token_id, item.logprob) for item in event.top)
            tokens.append((event.request_id, event.token_id, event.logprob, top))
        elif isinstance(event, FinishEvent):
            finished.append((event.request_id, event.reason))
        elif isinstance(event, StartEvent):
            started.append((event.request_id, event.at_s, event.num_reused_tokens))
        elif isinstance(event, PromptEvent):
            prompts.append((event.request_id, event.logprobs))
        else:
            failed.append((event.request_id, event.message))
    return StepFrame(started, prompts, tokens, finished, failed, stats)


def submit_frame(request: EngineRequest) -> Submit:
    """A request as a message."""
    return Submit(
        request.request_id,
        request.prompt_ids,
        request.max_new_tokens,
        request.eos_token_ids,
        request.sampling,
        request.grammar,
        request.wants_prompt_logprobs,
        request.adapter,
    )


def hello_frame(info: EngineInfo) -> Hello:
    """An engine's description as a message."""
    return Hello(info.target, info.limits, info.capabilities, info.details, info.is_emulated)
