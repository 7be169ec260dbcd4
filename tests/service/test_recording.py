"""What a request leaves behind: log lines with or without its texts, and a span."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ranvier.compose.router import make_metrics
from ranvier.errors import GenerationError, ValidationError
from ranvier.observability import Tracing
from ranvier.service import GenerateParameters, GenerationService, Origin, Recorder, ServiceLimits
from serving import END, LIMITS, HandEngine, PlayingEngine, model_text

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORIGIN = Origin(request_id="from the client", traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01")
PARAMETERS = GenerateParameters(seed=5, do_sample=True, stop=("secret stop",))


class Recorded:
    """A service whose records can be looked at."""

    def __init__(self, engine: HandEngine, *, log_prompts: bool = False) -> None:
        self.spans = InMemorySpanExporter()
        self._tracing = Tracing(self.spans, "tests")
        metrics = make_metrics(LIMITS)
        recorder = Recorder(metrics=metrics, tracing=self._tracing, log_prompts=log_prompts)
        self._make: Callable[[], GenerationService] = lambda: GenerationService(
            model_text(), engine, ServiceLimits(), metrics, None, recorder
        )

    def run(self, work: Callable[[GenerationService], Awaitable[object]]) -> None:
        async def main() -> None:
            service = self._make()
            try:
                await work(service)
            finally:
                service.close()

        asyncio.run(main())
        self._tracing.close()

    def names(self) -> dict[str, str]:
        """Status of each span by name."""
        return {span.name: span.status.status_code.name for span in self.spans.get_finished_spans()}


def generate(service: GenerationService) -> Awaitable[object]:
    return service.generate("secret prompt", PARAMETERS, ORIGIN)


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [vars(record) for record in caplog.records if record.message == "request done"]


def test_a_line_has_the_clients_id_and_the_trace_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ranvier")
    Recorded(PlayingEngine([97, END])).run(generate)
    (line,) = lines(caplog)
    assert (line["request_id"], line["trace_id"]) == ("from the client", TRACE_ID)
    assert line["parameters"] == {"do_sample": True, "seed": 5, "stop": ["<11 characters>"]}
    assert "secret" not in str(line)


def test_prompts_are_logged_where_the_operator_asks_for_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ranvier")
    Recorded(PlayingEngine([97, END]), log_prompts=True).run(generate)
    (line,) = lines(caplog)
    assert line["inputs"] == "secret prompt"


def test_a_span_has_the_phases_of_the_request_and_its_parent() -> None:
    recorded = Recorded(PlayingEngine([97, 98, END]))
    recorded.run(generate)
    assert set(recorded.names()) == {"generate", "validate", "queue", "prefill", "decode"}
    root = next(span for span in recorded.spans.get_finished_spans() if span.name == "generate")
    assert root.parent is not None and f"{root.parent.span_id:016x}" == PARENT_ID
    assert "secret" not in str(dict(root.attributes or {}))


def test_a_stream_is_traced_like_a_whole_reply() -> None:
    async def stream(service: GenerationService) -> None:
        async for _ in service.stream("prompt", PARAMETERS, 0, ORIGIN):
            pass

    recorded = Recorded(PlayingEngine([97, 98, END]))
    recorded.run(stream)
    assert set(recorded.names()) == {"generate", "validate", "queue", "prefill", "decode"}


def test_a_failed_span_says_so() -> None:
    async def fail(service: GenerationService) -> None:
        with pytest.raises(ValidationError):
            await service.generate("prompt", GenerateParameters(top_p=2.0), ORIGIN)

    recorded = Recorded(PlayingEngine([97, END]))
    recorded.run(fail)
    assert recorded.names() == {"generate": "ERROR"}


def test_a_generation_that_fails_ends_its_span() -> None:
    engine = HandEngine()
    engine.on_submit = lambda: asyncio.get_running_loop().call_soon(engine.fail, 0, "the device is gone")  # type: ignore[method-assign]

    async def fail(service: GenerationService) -> None:
        with pytest.raises(GenerationError):
            await service.generate("prompt", PARAMETERS, ORIGIN)

    recorded = Recorded(engine)
    recorded.run(fail)
    assert recorded.names() == {"generate": "ERROR"}
