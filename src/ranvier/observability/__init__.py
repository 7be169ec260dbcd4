"""Metrics, logs and traces."""

from ranvier.observability.logs import set_up_logs
from ranvier.observability.metrics import ServerMetrics
from ranvier.observability.moments import Moments
from ranvier.observability.request_log import request_fields, shown_parameters
from ranvier.observability.tracing import RequestTrace, Tracing, open_tracing

__all__ = [
    "Moments",
    "RequestTrace",
    "ServerMetrics",
    "Tracing",
    "open_tracing",
    "request_fields",
    "set_up_logs",
    "shown_parameters",
]
