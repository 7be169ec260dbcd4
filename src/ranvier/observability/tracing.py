"""Traces of requests, exported with OTLP. The only door to `opentelemetry`, which the extra `otel` installs.

Nothing of it is imported before tracing is asked for. OTLP goes over HTTP with Protocol Buffers (OpenTelemetry
Protocol Specification 1.x; collectors listen for it on port 4318). Headers such as credentials are taken from the
exporter's own variable, `OTEL_EXPORTER_OTLP_HEADERS`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ranvier import __version__
from ranvier.errors import OptionError, SetupError
from ranvier.observability.moments import Moments, timing_fields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

_log = logging.getLogger(__name__)

_GRPC_PORT = 4317
_SILENCE_S = 600.0
_MAX_REASON = 256

Attributes = Mapping[str, object]


def open_tracing(endpoint: str | None, service_name: str) -> Tracing:
    """Tracing to a collector such as `http://host:4318`; off when `endpoint` is None.

    The path `/v1/traces` is added to an endpoint without a path. Raises `OptionError` for what is no HTTP address and
    `SetupError` when the packages are not there. Whether the collector answers is not looked at.
    """
    if endpoint is None:
        return Tracing()
    url = traces_url(endpoint)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return Tracing(OTLPSpanExporter(endpoint=url), service_name)
    except ImportError as error:
        raise SetupError(
            f"`otlp_endpoint` needs packages that are not installed ({error}); run: pip install 'ranvier[otel]'"
        ) from error


def traces_url(endpoint: str) -> str:
    """Where spans are posted to. Raises `OptionError` for what is no HTTP address."""
    try:
        parts = urlsplit(endpoint)
        port, host = parts.port, parts.hostname
    except ValueError:
        port = host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise OptionError(f"`otlp_endpoint` must be an address such as http://localhost:4318. Given: {endpoint!r}")
    if port == _GRPC_PORT:
        _log.warning("traces are sent over HTTP, but port 4317 is by custom for gRPC; HTTP has port 4318")
    return endpoint.rstrip("/") + "/v1/traces" if parts.path in ("", "/") else endpoint


class Tracing:
    """Makes the span of each request. Without an exporter it is off: `begin` returns None and does nothing else.

    Spans are exported in batches by a thread of its own. What goes wrong there is one line in the log and disturbs
    nobody; spans are dropped then. Own attributes only: parameters, times, counts, never a prompt.
    """

    def __init__(self, exporter: SpanExporter | None = None, service_name: str = "") -> None:
        self._tracer: Tracer | None = None
        if exporter is None:
            return
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": service_name, "service.version": __version__})
        # Its end is bounded in `close`; at interpreter exit it would not be.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._exporter = exporter
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = self._provider.get_tracer("ranvier", __version__)
        self._complaints = _Complaints()

    @property
    def is_on(self) -> bool:
        """Whether requests get spans."""
        return self._tracer is not None

    def begin(
        self, traceparent: str | None, tracestate: str | None, name: str, attributes: Attributes | None = None
    ) -> RequestTrace | None:
        """The span of a request that has just arrived, or None when tracing is off.

        `traceparent` and `tracestate` are the request's headers (W3C Trace Context): the caller's span is the parent,
        and one that is not sampled is not recorded here. Headers that cannot be read begin a new trace.
        """
        if self._tracer is None:
            return None
        from opentelemetry.trace import SpanKind

        given = {"traceparent": traceparent, "tracestate": tracestate}
        carrier = {key: value for key, value in given.items() if value is not None}
        parent = self._propagator.extract(carrier)
        start_ns = time.time_ns()
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.SERVER, attributes=_values(attributes or {}), start_time=start_ns
        )
        return RequestTrace(self._tracer, span, start_ns)

    def close(self, timeout_s: float = 5.0) -> None:
        """Export what is left, for at most about `timeout_s` seconds; blocks. More than once is harmless."""
        if self._tracer is None:
            return
        self._tracer = None
        ending = threading.Thread(target=self._end, name="traces", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            _log.warning("traces were not exported within %s s; the last ones are lost", timeout_s)
            # Ends the wait between two attempts.
            self._exporter.shutdown()

    def _end(self) -> None:
        self._provider.shutdown()
        self._complaints.end()


class RequestTrace:
    """The span of one request. It ends with the first call of `finish` or `fail`; later ones do nothing."""

    def __init__(self, tracer: Tracer, span: Span, start_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._start_ns = start_ns
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        self._is_over = False

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, as in `traceparent`."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def finish(
        self, moments: Moments, *, num_generated: int, seed: int | None, attributes: Attributes | None = None
    ) -> None:
        """The request ended well: add TGI's times, the seed and a child span for each phase."""
        if self._is_over:
            return
        self._is_over = True
        times: dict[str, object] = {**timing_fields(moments, num_generated), "seed": str(seed)}
        self._span.set_attributes(_values({**times, **(attributes or {})}))
        self._span.end(self._phases(moments) if self._span.is_recording() else None)

    def _phases(self, moments: Moments) -> int:
        """Make the child spans, each from the end of the one before. Returns when the last ended."""
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        phases = (
            ("validate", moments.queued_s),
            ("queue", moments.started_s),
            ("prefill", moments.first_token_s),
            ("decode", moments.done_s),
        )
        begin_ns = max(self._start_ns, self._wall(moments.arrived_s))
        for name, end_s in phases:
            # An engine's moment may be microseconds before ours; a span must not end before it begins.
            end_ns = max(begin_ns, self._wall(end_s))
            self._tracer.start_span(name, context=context, start_time=begin_ns).end(end_ns)
            begin_ns = end_ns
        return begin_ns

    def _wall(self, moment_s: float) -> int:
        """A moment of `time.monotonic()` as nanoseconds since the epoch."""
        return int(moment_s * 1e9) + self._wall_ns

    def fail(self, error: BaseException) -> None:
        """The request ended with an error, or its client left."""
        if self._is_over:
            return
        self._is_over = True
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", type(error).__name__)
        self._span.set_status(StatusCode.ERROR, _text(str(error))[:_MAX_REASON])
        self._span.end()


def _values(attributes: Attributes) -> dict[str, str | bool | int | float]:
    """As OTLP has them: no None, whole numbers of 64 bits, anything else as JSON."""
    return {name: _otlp_value(value) for name, value in attributes.items() if value is not None}


def _otlp_value(value: object) -> str | bool | int | float:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    return json.dumps(value, default=str)


def _text(value: str) -> str:
    """Without halves of surrogate pairs: one of them would cost the whole batch."""
    return value.encode("utf-8", "replace").decode()


class _Complaints(logging.Handler):
    """What the library has to say, as one line of ours; more of it only after `_SILENCE_S` seconds."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._silent_until_s = 0.0
        self._logger = logging.getLogger("opentelemetry")
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if record.created >= self._silent_until_s:
            self._silent_until_s = record.created + _SILENCE_S
            _log.warning("traces are not exported: %s", record.getMessage())

    def end(self) -> None:
        """Leave the library's logger as it was."""
        self._logger.removeHandler(self)
        self._logger.propagate = True
