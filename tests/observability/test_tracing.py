"""The span of a request: its parent, its phases, what it tells; and what happens when no collector answers."""

from __future__ import annotations

import asyncio
import builtins
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, use_span
from otlp_collector import collector
from some_moments import some_moments

from ranvier.errors import OptionError, SetupError, ValidationError
from ranvier.observability import RequestTrace, Tracing, open_tracing
from ranvier.observability.tracing import traces_url

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


@pytest.fixture(autouse=True)
def _without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Traced:
    """Tracing into memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracing = Tracing(self.exporter, "tests")

    def begin(
        self, traceparent: str | None = None, tracestate: str | None = None, **attributes: object
    ) -> RequestTrace:
        trace = self.tracing.begin(traceparent, tracestate, "generate", attributes)
        assert trace is not None
        return trace

    def spans(self) -> dict[str, ReadableSpan]:
        """Ends tracing, since the last batch is exported then."""
        self.tracing.close()
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def traced() -> Iterator[Traced]:
    here = Traced()
    yield here
    here.tracing.close()


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None and span.end_time is not None
    return span.start_time, span.end_time


def test_without_an_endpoint_tracing_is_off() -> None:
    tracing = open_tracing(None, "tests")
    assert not tracing.is_on
    assert tracing.begin(TRACEPARENT, None, "generate", {"parameters": "x"}) is None
    tracing.close()


def test_without_an_endpoint_nothing_of_the_library_is_imported() -> None:
    code = (
        "import sys; from ranvier.observability import open_tracing; open_tracing(None, 'x').begin(None, None, 'g');"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_asking_for_traces_without_the_packages_names_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: object, **named: object) -> ModuleType:
        if name.startswith("opentelemetry"):
            raise ImportError(f"No module named {name!r}")
        return original(name, *arguments, **named)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match=r"`otlp_endpoint` needs .*pip install 'ranvier\[otel\]'") as raised:
        open_tracing("http://localhost:4318", "tests")
    assert not isinstance(raised.value, OptionError)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://host:4318", "http://host:4318/v1/traces"),
        ("http://host:4318/", "http://host:4318/v1/traces"),
        ("https://host/v1/traces", "https://host/v1/traces"),
        ("https://host/tenant/a", "https://host/tenant/a"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_an_endpoint_without_a_path_gets_that_of_traces(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


@pytest.mark.parametrize(
    "endpoint", ["host:4318", "grpc://host:4317", "http://", "http://host:port", "http://[::1", ""]
)
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(OptionError, match="`otlp_endpoint` must be an address such as http://localhost:4318. Given: "):
        traces_url(endpoint)


def test_the_port_of_grpc_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert traces_url("http://host:4317") == "http://host:4317/v1/traces"
    assert [each.levelname for each in caplog.records] == ["WARNING"]


def test_the_callers_span_is_the_parent(traced: Traced) -> None:
    trace = traced.begin(TRACEPARENT, "vendor=1")
    assert trace.trace_id == TRACE_ID
    trace.finish(some_moments(), num_generated=4, seed=None)
    span = traced.spans()["generate"]
    assert span.context is not None and span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert span.parent.is_remote
    assert span.context.trace_state["vendor"] == "1"
    assert span.kind is SpanKind.SERVER


@pytest.mark.parametrize(
    "header", [None, "", "nonsense", f"00-{'0' * 32}-{PARENT_ID}-01", f"ff-{TRACE_ID}-{PARENT_ID}-01"]
)
def test_without_a_readable_parent_a_trace_begins_here(traced: Traced, header: str | None) -> None:
    trace = traced.begin(header)
    trace.finish(some_moments(), num_generated=1, seed=None)
    assert trace.trace_id not in (TRACE_ID, "0" * 32)
    assert traced.spans()["generate"].parent is None


def test_two_requests_without_a_parent_are_two_traces(traced: Traced) -> None:
    assert traced.begin().trace_id != traced.begin().trace_id


def test_a_span_that_happens_to_be_current_is_no_parent(traced: Traced) -> None:
    with use_span(NonRecordingSpan(SpanContext(int(TRACE_ID, 16), int(PARENT_ID, 16), False, TraceFlags(1)))):
        trace = traced.begin()
    trace.finish(some_moments(), num_generated=1, seed=None)
    assert trace.trace_id != TRACE_ID
    assert traced.spans()["generate"].parent is None


def test_a_trace_that_its_caller_does_not_sample_is_not_recorded(traced: Traced) -> None:
    trace = traced.begin(f"00-{TRACE_ID}-{PARENT_ID}-00")
    assert trace.trace_id == TRACE_ID
    trace.finish(some_moments(), num_generated=4, seed=None)
    assert traced.spans() == {}


def test_the_phases_follow_each_other_within_the_request(traced: Traced) -> None:
    trace = traced.begin()
    trace.finish(some_moments(time.monotonic()), num_generated=4, seed=None)
    spans = traced.spans()
    assert list(spans) == ["validate", "queue", "prefill", "decode", "generate"]
    request = spans.pop("generate")
    ends = [times(request)[0], *(times(span)[1] for span in spans.values())]
    assert [times(span)[0] for span in spans.values()][1:] == ends[1:-1]
    assert times(request)[1] == ends[-1]
    assert [(times(span)[1] - times(span)[0]) / 1e6 for span in spans.values()] == pytest.approx([1, 2, 4, 8], abs=0.01)
    for span in spans.values():
        assert span.parent is not None and span.parent == request.context
        assert times(span)[0] >= times(request)[0]


def test_moments_are_told_as_wall_clock_time(traced: Traced) -> None:
    before = time.time_ns()
    trace = traced.begin()
    trace.finish(some_moments(time.monotonic()), num_generated=4, seed=None)
    spans = traced.spans()
    assert before <= times(spans["generate"])[0] <= times(spans["validate"])[0] <= time.time_ns()


def test_moments_out_of_order_give_no_span_that_ends_before_it_begins(traced: Traced) -> None:
    """A played engine says that a request started long ago; real ones may be microseconds off."""
    now = time.monotonic()
    trace = traced.begin()
    trace.finish(some_moments(now, started_s=-now), num_generated=4, seed=None)
    for span in traced.spans().values():
        assert times(span)[0] <= times(span)[1]


def test_a_span_has_parameters_the_five_times_and_the_seed(traced: Traced) -> None:
    trace = traced.begin(parameters={"top_k": 5, "stop": ["<3 characters>"]}, route="/generate", nothing=None)
    trace.finish(
        some_moments(0.0), num_generated=4, seed=2**64 - 1, attributes={"output_tokens": 4, "finish_reason": "length"}
    )
    assert dict(traced.spans()["generate"].attributes or {}) == {
        "parameters": '{"top_k": 5, "stop": ["<3 characters>"]}',
        "route": "/generate",
        "total_time": "15ms",
        "validation_time": "1ms",
        "queue_time": "2ms",
        "inference_time": "12ms",
        "time_per_token": "3ms",
        "seed": "18446744073709551615",
        "output_tokens": 4,
        "finish_reason": "length",
    }


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [(ValidationError("`top_k` must be strictly positive"), "ValidationError", "`top_k` must be strictly positive"),
     (asyncio.CancelledError(), "CancelledError", ""),
     (ValidationError("x" * 1000), "ValidationError", "x" * 256)],
)  # fmt: skip
def test_a_failure_is_an_error_with_its_reason(traced: Traced, error: BaseException, kind: str, words: str) -> None:
    traced.begin().fail(error)
    (span,) = traced.spans().values()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.status.description or "", (span.attributes or {})["error.type"]) == (words, kind)


def test_a_request_ends_once(traced: Traced) -> None:
    trace = traced.begin()
    trace.fail(ValidationError("first"))
    trace.finish(some_moments(), num_generated=4, seed=None)
    trace.fail(ValidationError("second"))
    (span,) = traced.spans().values()
    assert span.status.description == "first"


def test_ending_a_request_after_tracing_was_closed_does_no_harm(traced: Traced) -> None:
    trace = traced.begin()
    assert traced.spans() == {}
    trace.finish(some_moments(), num_generated=4, seed=None)
    assert traced.tracing.begin(None, None, "generate") is None


def test_a_collector_gets_the_spans_of_this_service() -> None:
    with collector() as here:
        tracing = open_tracing(here.url, "some-service")
        trace = tracing.begin(TRACEPARENT, None, "generate", {"parameters": {"top_k": 5}})
        assert trace is not None
        trace.finish(some_moments(), num_generated=4, seed=7)
        tracing.close()
    assert here.paths == ["/v1/traces"]
    spans = here.spans()
    assert spans.keys() == {"generate", "validate", "queue", "prefill", "decode"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE_ID}
    assert spans["generate"].parent_span_id.hex() == PARENT_ID
    assert spans["queue"].parent_span_id == spans["generate"].span_id
    assert here.resource()["service.name"] == "some-service"


def test_text_that_is_not_unicode_does_not_cost_the_batch() -> None:
    with collector() as here:
        tracing = open_tracing(here.url, "tests")
        for attributes in ({"text": "a\ud800"}, {"parameters": {"stop": "\udfff"}}):
            trace = tracing.begin(None, None, "generate", attributes)
            assert trace is not None
            trace.fail(ValidationError("\ud800"))
        tracing.close()
    assert here.spans()["generate"].status.message == "?"


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All lines; the library must have none of its own."""
    return [f"{each.name} {each.levelname} {each.getMessage()}" for each in caplog.records]


def wait_for_the_end() -> None:
    """Of the thread that goes on after a bounded wait."""
    for thread in threading.enumerate():
        if thread.name == "traces":
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_collector_that_refuses_costs_one_line(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ranvier")
    with collector(status) as here:
        tracing = open_tracing(here.url, "tests")
        for _ in range(1500):
            trace = tracing.begin(None, None, "generate")
            assert trace is not None
            trace.fail(ValidationError("x"))
        tracing.close()
    assert len(here.requests) > 1
    (line,) = complaints(caplog)
    assert line.startswith("ranvier.observability.tracing WARNING traces are not exported: ")
    assert str(status) in line


def test_a_collector_that_is_not_there_costs_one_line_and_a_bounded_wait(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        tracing = open_tracing(f"http://127.0.0.1:{taken.getsockname()[1]}", "tests")
        trace = tracing.begin(None, None, "generate")
        assert trace is not None
        trace.fail(ValidationError("x"))
        began = time.monotonic()
        tracing.close(0.2)
        assert time.monotonic() - began < 2
        wait_for_the_end()
    told = complaints(caplog)
    assert [line.split(":")[0] for line in told] == [
        "ranvier.observability.tracing WARNING traces are not exported",
        "ranvier.observability.tracing WARNING traces were not exported within 0.2 s; the last ones are lost",
    ]


def test_a_collector_that_hangs_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with collector() as here:
        here.release.clear()
        tracing = open_tracing(here.url, "tests")
        trace = tracing.begin(None, None, "generate")
        assert trace is not None
        trace.fail(ValidationError("x"))
        began = time.monotonic()
        tracing.close(0.2)
        assert time.monotonic() - began < 2
        told = complaints(caplog)
        here.release.set()
        wait_for_the_end()
    assert told == [
        "ranvier.observability.tracing WARNING traces were not exported within 0.2 s; the last ones are lost"
    ]


def test_closing_twice_does_no_harm_and_gives_the_librarys_logger_back() -> None:
    logger = logging.getLogger("opentelemetry")
    handlers = list(logger.handlers)
    tracing = Tracing(InMemorySpanExporter(), "tests")
    assert not logger.propagate
    tracing.close()
    tracing.close()
    assert (logger.handlers, logger.propagate) == (handlers, True)
