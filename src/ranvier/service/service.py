"""The use case: a text and parameters in, generated text out.

1. Rules that need no permit, then a permit: without a free one the request ends at once.
2. Rules about values, prompt and capabilities; tokenizing, long texts on a worker thread.
3. Each sequence (`best_of` makes several) is submitted to the engine; its events become text in a `Generation`.
4. When the reader is done, or leaves, the permits are given back and metrics and the log line are written.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ranvier.core import EngineClient, EngineRequest
from ranvier.errors import (
    IncompleteGenerationError,
    OverloadedError,
    RequestError,
    ShuttingDownError,
    ValidationError,
)
from ranvier.observability import ServerMetrics
from ranvier.service.generation import Admitted, Finished, Generation, StreamItem
from ranvier.service.model_text import ModelText
from ranvier.service.parameters import (
    MAX_CHUNK_TOKENS,
    GenerateParameters,
    ServiceLimits,
    check_best_of,
    check_capabilities,
    check_prompt,
    check_streamable,
    check_values,
    settle_max_new_tokens,
    to_sampling,
)

_log = logging.getLogger(__name__)

_LONG_TEXT = 8192
"""Characters above which tokenizing would hold up the event loop for more than a millisecond or so."""


@dataclass(frozen=True, slots=True)
class Completion:
    """The best sequence, and the `best_of - 1` others."""

    best: Finished
    others: tuple[Finished, ...]


class GenerationService:
    """Generates text with one engine. All methods run on the event loop."""

    def __init__(self, text: ModelText, engine: EngineClient, limits: ServiceLimits, metrics: ServerMetrics) -> None:
        self.text = text
        self.engine = engine
        self.limits = limits
        self.metrics = metrics
        self._num_permits = limits.max_concurrent_requests
        self._workers = ThreadPoolExecutor(limits.validation_workers, thread_name_prefix="tokenizer")
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

    async def generate(self, inputs: str, parameters: GenerateParameters) -> Completion:
        """The whole text. Raises a `RequestError`; when the caller is cancelled the engine's slots are freed."""
        arrived_s = self._arrive()
        # Not counted as a failure, as in TGI.
        check_best_of(parameters, self.limits)
        with self._permits(parameters.num_sequences), self._failures_counted():
            prompt_ids, max_new_tokens = await self._validate(inputs, parameters)
            generations: list[Generation] = []
            with _abandoned_at_exit(generations):
                for _ in range(parameters.num_sequences):
                    generations.append(self._submit(prompt_ids, parameters, max_new_tokens, arrived_s))
                finished = [await generation.finished() for generation in generations]
            best = max(finished, key=lambda each: each.mean_logprob)
            self._record(best)
            return Completion(best, tuple(each for each in finished if each is not best))

    async def stream(self, inputs: str, parameters: GenerateParameters) -> AsyncGenerator[StreamItem, None]:
        """Token by token. Raises as `generate`; closing the iterator frees the slot."""
        arrived_s = self._arrive()
        with self._failures_counted():
            check_streamable(parameters)
        with self._permits(1):
            with self._failures_counted():
                prompt_ids, max_new_tokens = await self._validate(inputs, parameters)
                generation = self._submit(prompt_ids, parameters, max_new_tokens, arrived_s)
                with _abandoned_at_exit([generation]):
                    async for item in generation.items():
                        if item.finished is None:
                            yield item
                        else:
                            self._record(item.finished)
            # Outside: a client that leaves while it is sent the end was served, not dropped.
            yield item

    def _arrive(self) -> float:
        self.metrics.request_count.add()
        if self._is_draining:
            raise ShuttingDownError
        return time.monotonic()

    @contextlib.contextmanager
    def _permits(self, count: int) -> Iterator[None]:
        if self._num_permits < count:
            self.metrics.request_failure.add(err="overloaded")
            raise OverloadedError
        self._num_permits -= count
        try:
            yield
        finally:
            self._num_permits += count

    @contextlib.contextmanager
    def _failures_counted(self) -> Iterator[None]:
        try:
            yield
        except ValidationError:
            self.metrics.request_failure.add(err="validation")
            raise
        except IncompleteGenerationError:
            self.metrics.request_failure.add(err="incomplete")
            raise
        except RequestError as error:
            self.metrics.request_failure.add(err="generation")
            _log.error("request failed: %s", error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self.metrics.request_failure.add(err="dropped")
            raise

    async def _validate(self, inputs: str, parameters: GenerateParameters) -> tuple[tuple[int, ...], int]:
        """Prompt ids and the tokens that may be generated. Raises `ValidationError`."""
        info = self.engine.info
        check_values(parameters, self.limits)
        check_prompt(inputs, parameters, info.limits)
        prompt_ids = await self._tokenize(inputs)
        if parameters.truncate is not None:
            prompt_ids = prompt_ids[-parameters.truncate :]
        if not prompt_ids:
            raise ValidationError("`inputs` cannot be empty: it has no tokens")
        max_new_tokens = settle_max_new_tokens(len(prompt_ids), parameters, info.limits)
        self.metrics.input_length.observe(len(prompt_ids))
        check_capabilities(parameters, info.capabilities, info.target)
        self.metrics.max_new_tokens.observe(min(max_new_tokens, MAX_CHUNK_TOKENS))
        return tuple(prompt_ids), max_new_tokens

    async def _tokenize(self, inputs: str) -> list[int]:
        if len(inputs) <= _LONG_TEXT:
            return self.text.tokenizer.encode(inputs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, self.text.tokenizer.encode, inputs)

    def _submit(
        self, prompt_ids: tuple[int, ...], parameters: GenerateParameters, max_new_tokens: int, arrived_s: float
    ) -> Generation:
        request = EngineRequest(
            request_id=f"{self._id_prefix}-{next(self._ids)}",
            prompt_ids=prompt_ids,
            max_new_tokens=max_new_tokens,
            eos_token_ids=self.text.eos_token_ids,
            sampling=to_sampling(parameters),
        )
        admitted = Admitted(request=request, stop=parameters.stop, arrived_s=arrived_s)
        generation = Generation(admitted, self.text.tokenizer, self.engine.cancel)
        self.engine.submit(request, generation.sink)
        self.metrics.queue_size.add(1)
        return generation

    def _record(self, finished: Finished) -> None:
        metrics, timings = self.metrics, finished.timings
        num_tokens = len(finished.tokens)
        per_token_s = timings.inference_s / num_tokens
        metrics.request_success.add()
        metrics.request_duration.observe(timings.total_s)
        metrics.validation_duration.observe(timings.validation_s)
        metrics.queue_duration.observe(timings.queue_s)
        metrics.inference_duration.observe(timings.inference_s)
        metrics.mean_time_per_token.observe(per_token_s)
        metrics.generated_tokens.observe(num_tokens)
        metrics.time_to_first_token.observe(timings.first_token_s - timings.arrived_s)
        metrics.prompt_tokens.add(finished.num_input)
        metrics.reused_tokens.add(finished.num_reused)
        _log.info(
            "request done",
            extra={
                "input_tokens": finished.num_input,
                "output_tokens": num_tokens,
                "reused_tokens": finished.num_reused,
                "finish_reason": finished.reason,
                "seed": finished.seed,
                "total_ms": round(timings.total_s * 1e3, 1),
                "validation_ms": round(timings.validation_s * 1e3, 1),
                "queue_ms": round(timings.queue_s * 1e3, 1),
                "inference_ms": round(timings.inference_s * 1e3, 1),
                "per_token_ms": round(per_token_s * 1e3, 2),
            },
        )

    def close(self) -> None:
        """Stop the tokenizer's threads."""
        self._workers.shutdown(wait=False)


@contextlib.contextmanager
def _abandoned_at_exit(generations: list[Generation]) -> Iterator[None]:
    """Free the slots of all generations that have not ended, however the block is left."""
    try:
        yield
    finally:
        for generation in generations:
            generation.abandon()
