"""Metrics and logs."""

from ranvier.observability.logs import set_up_logs
from ranvier.observability.metrics import ServerMetrics

__all__ = ["ServerMetrics", "set_up_logs"]
