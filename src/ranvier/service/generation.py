"""One sequence being generated: engine events in, text out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from ranvier.core import EngineRequest, Event, FailEvent, FinishEvent, PromptEvent, StartEvent, TokenEvent
from ranvier.errors import GenerationError, IncompleteGenerationError, RequestError
from ranvier.observability import ServerMetrics
from ranvier.text import Detokenizer, StopMatcher, Tokenizer

FinishReason = Literal["length", "eos_token", "stop_sequence"]


class TokenPiece(msgspec.Struct, frozen=True, gc=False):
    """A token with its text: `text` keeps special tokens, `visible` does not."""

    token_id: int
    text: str
    logprob: float
    is_special: bool
    visible: str
    top: tuple[TokenPiece, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """A prompt token with its text and log-probability, None for the first."""

    token_id: int
    text: str
    logprob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Moments of `time.monotonic()`: arrived, queued, left the queue, first token, done."""

    arrived_s: float
    queued_s: float
    started_s: float
    first_token_s: float
    done_s: float

    @property
    def validation_s(self) -> float:
        """Seconds from arrival to the queue."""
        return self.queued_s - self.arrived_s

    @property
    def queue_s(self) -> float:
        """Seconds in the queue."""
        return max(0.0, self.started_s - self.queued_s)

    @property
    def inference_s(self) -> float:
        """Seconds from leaving the queue to the end."""
        return self.done_s - self.started_s

    @property
    def total_s(self) -> float:
        """Seconds from arrival to the end."""
        return self.done_s - self.arrived_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a sequence ended. `seed` is None when it was greedy."""

    text: str
    reason: FinishReason
    tokens: tuple[TokenPiece, ...]
    num_input: int
    num_reused: int
    seed: int | None
    timings: Timings
    request_id: str
    prompt: tuple[PromptPiece, ...] = ()

    @property
    def mean_logprob(self) -> float:
        """What `best_of` compares."""
        return sum(token.logprob for token in self.tokens) / len(self.tokens)


class StreamItem(msgspec.Struct, frozen=True, gc=False):
    """One token; `finished` is set on the last."""

    piece: TokenPiece
    finished: Finished | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What is settled about a sequence before its first event."""

    request: EngineRequest
    stop: tuple[str, ...]
    arrived_s: float

    @property
    def seed(self) -> int | None:
        """The seed in use; None for a greedy request."""
        sampling = self.request.sampling
        return sampling.seed if sampling.do_sample else None


class Generation:
    """Turns the events of one request into `StreamItem`s. Lives on the event loop.

    `cancel` is called when the engine should stop early: a stop string was found, or nobody reads any more.
    """

    def __init__(
        self, admitted: Admitted, tokenizer: Tokenizer, cancel: Callable[[str], None], metrics: ServerMetrics
    ) -> None:
        self._admitted = admitted
        self._tokenizer = tokenizer
        self._cancel = cancel
        self._metrics = metrics
        self._detokenizer: Detokenizer = tokenizer.detokenizer(admitted.request.prompt_ids)
        self._stop = StopMatcher(admitted.stop)
        self._queued_s = time.monotonic()
        self._started_s = self._queued_s
        self._first_token_s = self._last_token_s = self._queued_s
        self._num_reused = 0
        self._prompt: tuple[PromptPiece, ...] = ()
        self._pieces: list[TokenPiece] = []
        self._items: deque[StreamItem | RequestError] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._is_over = False

    def sink(self, event: Event) -> None:
        """Take one event. A token and the finish that follows it arrive before any reader runs."""
        if self._is_over:
            return
        if isinstance(event, TokenEvent):
            self._take_token(event)
        elif isinstance(event, FinishEvent):
            self._take_finish(event)
        elif isinstance(event, StartEvent):
            self._started_s, self._num_reused = event.at_s, event.num_reused_tokens
            self._metrics.request_started(self._queued_s, self._started_s)
        elif isinstance(event, PromptEvent):
            self._prompt = self._prompt_pieces(event.logprobs)
        else:
            self._take_failure(event)

    def _take_token(self, event: TokenEvent) -> None:
        now_s = time.monotonic()
        if self._pieces:
            self._metrics.observe_token_gap(now_s - self._last_token_s)
        else:
            self._first_token_s = now_s
        self._last_token_s = now_s
        text, visible = self._detokenizer.push(event.token_id)
        top = tuple(self._alternative(item.token_id, item.logprob) for item in event.top)
        piece = TokenPiece(
            event.token_id, text, event.logprob, self._tokenizer.is_special(event.token_id), visible, top
        )
        self._pieces.append(piece)
        self._put(StreamItem(piece, None))
        if self._stop.push(visible) and not self._is_engines_last(event.token_id):
            self._finish("stop_sequence")
            self._cancel(self._admitted.request.request_id)

    def _is_engines_last(self, token_id: int) -> bool:
        """Whether the engine ends with this token by itself: its reason goes before a stop string, as in TGI."""
        request = self._admitted.request
        return len(self._pieces) >= request.max_new_tokens or token_id in request.eos_token_ids

    def _alternative(self, token_id: int, logprob: float) -> TokenPiece:
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return TokenPiece(token_id, text, logprob, self._tokenizer.is_special(token_id), text)

    def _prompt_pieces(self, logprobs: tuple[float, ...]) -> tuple[PromptPiece, ...]:
        decode = self._tokenizer.decode
        ids = self._admitted.request.prompt_ids
        return tuple(
            PromptPiece(token_id, decode([token_id], skip_special_tokens=False), logprob)
            for token_id, logprob in zip(ids, (None, *logprobs), strict=True)
        )

    def _take_finish(self, event: FinishEvent) -> None:
        if event.reason == "cancelled" or not self._pieces:
            self._fail(IncompleteGenerationError())
        else:
            self._finish(event.reason)

    def _take_failure(self, event: FailEvent) -> None:
        self._fail(GenerationError(event.message))

    def _finish(self, reason: FinishReason) -> None:
        """Mark the last token, which no reader has seen yet, as the end."""
        self._is_over = True
        last = self._items.pop()
        assert isinstance(last, StreamItem), "a finish follows its token"
        piece = self._with_rest(last.piece)
        self._pieces[-1] = piece
        self._put(StreamItem(piece, self._summary(reason)))

    def _with_rest(self, piece: TokenPiece) -> TokenPiece:
        """The last token with what the detokenizer still held: an incomplete character, shown as U+FFFD."""
        rest = self._detokenizer.flush()
        if not rest:
            return piece
        text = rest + piece.text if piece.is_special else piece.text + rest
        return TokenPiece(piece.token_id, text, piece.logprob, piece.is_special, piece.visible + rest, piece.top)

    def _summary(self, reason: FinishReason) -> Finished:
        return Finished(
            text=self._detokenizer.generated_text,
            reason=reason,
            tokens=tuple(self._pieces),
            num_input=len(self._admitted.request.prompt_ids),
            num_reused=self._num_reused,
            seed=self._admitted.seed,
            timings=Timings(
                arrived_s=self._admitted.arrived_s,
                queued_s=self._queued_s,
                started_s=self._started_s,
                first_token_s=self._first_token_s,
                done_s=time.monotonic(),
            ),
            request_id=self._admitted.request.request_id,
            prompt=self._prompt,
        )

    def _fail(self, error: RequestError) -> None:
        self._is_over = True
        self._put(error)

    def _put(self, item: StreamItem | RequestError) -> None:
        self._items.append(item)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def abandon(self) -> None:
        """Nobody reads any more: the engine is told, later events are ignored. Harmless after the end."""
        if not self._is_over:
            self._is_over = True
            self._cancel(self._admitted.request.request_id)

    async def items(self) -> AsyncIterator[StreamItem]:
        """Each token as it comes; ends after the one that is `finished`. Raises the request's error."""
        while True:
            while not self._items:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
            item = self._items.popleft()
            if isinstance(item, RequestError):
                raise item
            yield item
            if item.finished is not None:
                return

    async def finished(self) -> Finished:
        """The end, without looking at single tokens. Raises the request's error."""
        finished = None
        async for item in self.items():
            finished = item.finished
        assert finished is not None, "items end with one that is finished, or raise"
        return finished
