"""The options for logs and traces."""

from __future__ import annotations

from ranvier.config.option import Option

TELEMETRY = "Logs and traces"

TELEMETRY_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--json-output",),
        help="Write logs as JSON, one object a line.",
        group=TELEMETRY,
        kind="switch",
        default=False,
    ),
    Option(
        flags=("--log-level",),
        help="Least important kind of log line that is written; libraries have their say from warnings on, at trace "
        "from debug on. TGI has the variable only.",
        group=TELEMETRY,
        kind="choice",
        default="info",
        choices=("trace", "debug", "info", "warn", "error"),
        metavar="LEVEL",
    ),
    Option(
        flags=("--log-colorize",),
        help="Whether log lines that are not JSON have colours; auto means on a terminal. TGI has the variable only.",
        group=TELEMETRY,
        kind="choice",
        default="auto",
        choices=("auto", "true", "false", "1", "0"),
        hidden_choices=("1", "0"),
        metavar="WHEN",
    ),
    Option(
        flags=("--log-prompts",),
        help="Put prompts and other texts of requests into their log lines. They may be personal. Not in TGI.",
        group=TELEMETRY,
        kind="switch",
        default=False,
    ),
    Option(
        flags=("--otlp-endpoint",),
        help="Collector that gets a trace of each request, such as http://localhost:4318: OTLP over HTTP, not over "
        "gRPC as in TGI. Needs the extra `otel`.",
        group=TELEMETRY,
        metavar="URL",
        default_text="none, no traces",
    ),
    Option(
        flags=("--otlp-service-name",),
        help="Name of this service in traces.",
        group=TELEMETRY,
        default="text-generation-inference.router",
        metavar="NAME",
    ),
)
"""In the order of help and docs."""
