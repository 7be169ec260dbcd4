"""What is counted, logged and traced about requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from ranvier.errors import IncompleteGenerationError, OverloadedError, RequestError, TemplateError, ValidationError
from ranvier.observability import RequestTrace, ServerMetrics, Tracing, request_fields, shown_parameters
from ranvier.service.generation import Finished
from ranvier.service.parameters import GenerateParameters
from ranvier.service.prompt import Origin, Prompt

_log = logging.getLogger(__name__)

_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (ValidationError, "validation"),
    (TemplateError, "template"),
    (OverloadedError, "overloaded"),
    (IncompleteGenerationError, "incomplete"),
    (RequestError, "generation"),
    ((asyncio.CancelledError, GeneratorExit), "dropped"),
)
"""`err` of the failure counter; the first that fits counts."""


@contextlib.contextmanager
def failures_counted(metrics: ServerMetrics) -> Iterator[None]:
    """Count how a request fails, if it does."""
    try:
        yield
    except BaseException as error:
        kind = next((kind for errors, kind in _KINDS if isinstance(error, errors)), None)
        if kind is not None:
            metrics.request_failure.add(err=kind)
        if kind == "generation":
            _log.error("request failed: %s", error)
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """Where records go. `log_prompts`: log lines show prompts and other texts of clients."""

    metrics: ServerMetrics
    tracing: Tracing
    log_prompts: bool = False

    def begin(self, prompt: Prompt, parameters: GenerateParameters, origin: Origin) -> Record:
        """A request has arrived."""
        trace = None
        if self.tracing.is_on:
            shown = {"parameters": str(shown_parameters(parameters, with_texts=False))}
            trace = self.tracing.begin(origin.traceparent, origin.tracestate, "generate", shown)
        return Record(self, prompt, parameters, origin, trace)


class Record:
    """One request, which makes one or several sequences."""

    def __init__(
        self,
        recorder: Recorder,
        prompt: Prompt,
        parameters: GenerateParameters,
        origin: Origin,
        trace: RequestTrace | None,
    ) -> None:
        self._recorder = recorder
        self._prompt = prompt
        self._parameters = parameters
        self._origin = origin
        self._trace = trace

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count and trace how the request fails, if it does."""
        try:
            with failures_counted(self._recorder.metrics):
                yield
        except BaseException as error:
            if self._trace is not None:
                self._trace.fail(error)
            raise

    def done(self, finished: Finished) -> None:
        """Count, log and trace a sequence that ended well."""
        num_generated = len(finished.tokens)
        self._recorder.metrics.request_done(
            finished.timings,
            num_input=finished.num_input,
            num_reused=finished.num_reused,
            num_generated=num_generated,
        )
        _log.info("request done", extra=self._fields(finished))
        if self._trace is not None:
            self._trace.finish(finished.timings, num_generated=num_generated, seed=finished.seed)

    def _fields(self, finished: Finished) -> dict[str, object]:
        return request_fields(
            request_id=self._origin.request_id or finished.request_id,
            parameters=self._parameters,
            moments=finished.timings,
            num_input=finished.num_input,
            num_generated=len(finished.tokens),
            num_reused=finished.num_reused,
            finish_reason=finished.reason,
            seed=finished.seed,
            trace_id=None if self._trace is None else self._trace.trace_id,
            inputs=self._prompt.text if self._recorder.log_prompts else None,
        )
