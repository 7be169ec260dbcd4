"""The use case: a prompt and parameters in, generated text out.

1. Rules that need no permit, then a permit: without a free one the request ends at once.
2. Rules about values, prompt, capabilities and grammar (`Admission`); tokenizing, long texts on a worker thread.
3. Each sequence (`best_of` and `n` make several) is submitted to the engine; its events become text in a `Generation`.
4. When the reader is done, or leaves, the permits are given back and metrics and the log line are written.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from ranvier.core import EngineClient, EngineRequest
from ranvier.errors import OverloadedError, ShuttingDownError, ValidationError
from ranvier.observability import ServerMetrics, Tracing
from ranvier.service.admission import Accepted, Admission
from ranvier.service.generation import Admitted, Finished, Generation, StreamItem
from ranvier.service.grammars import GrammarChecker
from ranvier.service.model_text import ModelText
from ranvier.service.parameters import (
    GenerateParameters,
    ServiceLimits,
    check_best_of,
    check_ranking,
    check_streamable,
    to_sampling,
)
from ranvier.service.prompt import NO_ORIGIN, Origin, Prompt
from ranvier.service.recording import Record, Recorder, failures_counted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Completion:
    """The best sequence, and the `best_of - 1` others."""

    best: Finished
    others: tuple[Finished, ...]


class GenerationService:
    """Generates text with one engine. All methods run on the event loop."""

    def __init__(
        self,
        text: ModelText,
        engine: EngineClient,
        limits: ServiceLimits,
        metrics: ServerMetrics,
        grammars: GrammarChecker | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.text = text
        self.engine = engine
        self.limits = limits
        self.metrics = metrics
        self._recorder = recorder or Recorder(metrics=metrics, tracing=Tracing())
        self._num_permits = limits.max_concurrent_requests
        self._admission = Admission(text, engine, limits, metrics, grammars or GrammarChecker(None))
        self._ids = itertools.count()
        self._id_prefix = uuid.uuid4().hex[:8]
        self._is_draining = False

    @property
    def num_in_flight(self) -> int:
        """Permits that are taken."""
        return self.limits.max_concurrent_requests - self._num_permits

    @property
    def is_healthy(self) -> bool:
        """Whether new requests would be served."""
        return self.engine.is_healthy and not self._is_draining

    def drain(self) -> None:
        """Refuse new requests from now on; those in flight go on."""
        self._is_draining = True

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that are loaded."""
        return self.engine.info.capabilities.adapters

    def with_model(self, parameters: GenerateParameters, model: str | None) -> GenerateParameters:
        """The parameters of a request for `model`: an adapter of that name, else the model itself."""
        return replace(parameters, adapter_id=model) if model in self.adapters else parameters

    def model_name(self, model: str | None) -> str:
        """What answers a request for `model`: the adapter of that name, else the model's id."""
        return model if model is not None and model in self.adapters else self.text.model_id

    async def generate(
        self, prompt: str | Prompt, parameters: GenerateParameters, origin: Origin = NO_ORIGIN
    ) -> Completion:
        """The best of `best_of` texts.

        Raises a `RequestError`; when the caller is cancelled the engine's slots are freed.
        """
        arrived_s = self._arrive()
        # Not counted as a failure, as in TGI.
        check_best_of(parameters, self.limits)
        record = self._recorder.begin(_prompt(prompt), parameters, origin)
        finished = await self._sequences(prompt, parameters, parameters.num_sequences, arrived_s, record)
        best = max(finished, key=lambda each: each.mean_logprob)
        record.done(best)
        return Completion(best, tuple(each for each in finished if each is not best))

    async def choices(
        self, prompt: str | Prompt, parameters: GenerateParameters, count: int, origin: Origin = NO_ORIGIN
    ) -> list[Finished]:
        """The `count` best of `best_of` texts, the best first where there is a choice. Raises as `generate`."""
        arrived_s = self._arrive()
        check_best_of(parameters, self.limits)
        self.check_count(count)
        num_sequences = max(count, parameters.num_sequences)
        if num_sequences > count:
            check_ranking(self.engine.info.capabilities, self.engine.info.target)
        single = replace(parameters, best_of=None)
        record = self._recorder.begin(_prompt(prompt), parameters, origin)
        finished = await self._sequences(prompt, single, num_sequences, arrived_s, record)
        if num_sequences > count:
            finished = sorted(finished, key=lambda each: each.mean_logprob, reverse=True)[:count]
        for each in finished:
            record.done(each)
        return finished

    async def _sequences(
        self, prompt: str | Prompt, parameters: GenerateParameters, count: int, arrived_s: float, record: Record
    ) -> list[Finished]:
        with record.watching(), self._permits(count):
            accepted = await self._admission.accept(_prompt(prompt), parameters)
            generations: list[Generation] = []
            with _abandoned_at_exit(generations):
                for index in range(count):
                    generations.append(self._submit(accepted, arrived_s, index))
                return [await generation.finished() for generation in generations]

    async def stream(
        self, prompt: str | Prompt, parameters: GenerateParameters, index: int = 0, origin: Origin = NO_ORIGIN
    ) -> AsyncGenerator[StreamItem, None]:
        """Token by token. Raises as `generate`; closing the iterator frees the slot. `index` sets seeds apart."""
        arrived_s = self._arrive()
        record = self._recorder.begin(_prompt(prompt), parameters, origin)
        with contextlib.ExitStack() as held:
            with record.watching():
                check_streamable(parameters)
                held.enter_context(self._permits(1))
                accepted = await self._admission.accept(_prompt(prompt), parameters)
                generation = self._submit(accepted, arrived_s, index)
                with _abandoned_at_exit([generation]):
                    async for item in generation.items():
                        if item.finished is None:
                            yield item
                        else:
                            record.done(item.finished)
            # Outside: a client that leaves while it is sent the end was served, not dropped.
            yield item

    async def tokenize(self, inputs: str, *, add_special_tokens: bool = True) -> list[tuple[int, int, int]]:
        """`(token_id, start, stop)` for each token; start and stop are byte positions in the UTF-8 of `inputs`.

        Takes no permit and keeps to no limit. Raises `ValidationError` if the text cannot be encoded.
        """
        encode = partial(self.text.tokenizer.encode_with_offsets, inputs, add_special_tokens=add_special_tokens)
        return await self._admission.off_loop(len(inputs), encode)

    async def off_loop(self, num_characters: int, work: Callable[[], T]) -> T:
        """Do work that grows with a text: here if it is short, else on a thread. Raises what `work` raises."""
        return await self._admission.off_loop(num_characters, work)

    def failures_counted(self) -> AbstractContextManager[None]:
        """Count how a request fails before it is generated, if it does."""
        return failures_counted(self.metrics)

    def count_request(self) -> None:
        """TGI counts a chat or completions request once more than its generations."""
        self.metrics.request_count.add()

    def _arrive(self) -> float:
        self.metrics.request_count.add()
        if self._is_draining:
            raise ShuttingDownError
        return time.monotonic()

    def check_count(self, count: int) -> None:
        """How many answers to one prompt may be asked for. Raises `ValidationError`."""
        limit = self.limits.max_concurrent_requests
        if count > limit:
            with failures_counted(self.metrics):
                raise ValidationError(f"`n` must be <= {limit}, the `max_concurrent_requests`. Given: {count}")

    @contextlib.contextmanager
    def _permits(self, count: int) -> Iterator[None]:
        if self._num_permits < count:
            raise OverloadedError
        self._num_permits -= count
        try:
            yield
        finally:
            self._num_permits += count

    def _submit(self, accepted: Accepted, arrived_s: float, index: int = 0) -> Generation:
        parameters = accepted.parameters
        request = EngineRequest(
            request_id=f"{self._id_prefix}-{next(self._ids)}",
            prompt_ids=accepted.prompt_ids,
            max_new_tokens=accepted.max_new_tokens,
            eos_token_ids=self.text.eos_token_ids,
            sampling=to_sampling(parameters, index),
            grammar=accepted.grammar,
            wants_prompt_logprobs=parameters.decoder_input_details,
            adapter=parameters.adapter_id,
        )
        admitted = Admitted(request=request, stop=parameters.stop, arrived_s=arrived_s)
        generation = Generation(admitted, self.text.tokenizer, self.engine.cancel, self.metrics)
        self.engine.submit(request, generation.sink)
        self.metrics.queue_size.add(1)
        return generation

    def close(self) -> None:
        """Stop the threads."""
        self._admission.close()


def _prompt(prompt: str | Prompt) -> Prompt:
    return Prompt(text=prompt) if isinstance(prompt, str) else prompt


@contextlib.contextmanager
def _abandoned_at_exit(generations: list[Generation]) -> Iterator[None]:
    """Free the slots of all generations that have not ended, however the block is left."""
    try:
        yield
    finally:
        for generation in generations:
            generation.abandon()
