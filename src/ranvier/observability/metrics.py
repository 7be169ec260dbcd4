"""Metrics in Prometheus' text format, under TGI's names.

The format is "Prometheus text exposition 0.0.4". The usual client library is not used: it adds `_total` to every
counter, and TGI's counters have no suffix. A series appears with its first update, as in TGI.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

Labels = tuple[tuple[str, str], ...]

DURATION_BUCKETS = tuple(0.0001 * 1.5**k for k in range(1, 36))
"""Seconds; the bounds of every TGI metric whose name ends in `duration`."""


def even_buckets(highest: int) -> tuple[float, ...]:
    """100 equal steps up to `highest`, as TGI has for token counts."""
    return tuple(highest * k / 100 for k in range(1, 101))


class Metric:
    """A named family of series. Not thread-safe: the event loop owns it."""

    kind = ""

    def __init__(self, name: str, help_text: str) -> None:
        self.name = name
        self._help = help_text

    def lines(self) -> list[str]:
        """The family in text format; empty before the first update."""
        series = self._series()
        return [f"# HELP {self.name} {self._help}", f"# TYPE {self.name} {self.kind}", *series] if series else []

    def _series(self) -> list[str]:
        raise AssertionError("subclasses say how")


class Counter(Metric):
    """A value that only grows."""

    kind = "counter"

    def __init__(self, name: str, help_text: str) -> None:
        super().__init__(name, help_text)
        self._values: dict[Labels, float] = {}

    def add(self, amount: float = 1, **labels: str) -> None:
        """Grow by `amount` >= 0."""
        key = tuple(labels.items())
        self._values[key] = self._values.get(key, 0) + amount

    def value(self, **labels: str) -> float:
        """The present value, 0 before the first update."""
        return self._values.get(tuple(labels.items()), 0)

    def _series(self) -> list[str]:
        return [f"{self.name}{_braces(labels)} {_number(value)}" for labels, value in self._values.items()]


class Gauge(Metric):
    """A value that goes up and down."""

    kind = "gauge"

    def __init__(self, name: str, help_text: str) -> None:
        super().__init__(name, help_text)
        self._value: float | None = None

    def set(self, value: float) -> None:
        """Replace the value."""
        self._value = value

    def add(self, amount: float) -> None:
        """Change the value by `amount`; it counts from 0."""
        self._value = (self._value or 0) + amount

    def _series(self) -> list[str]:
        return [] if self._value is None else [f"{self.name} {_number(self._value)}"]


class Histogram(Metric):
    """Counts of observations at or below each bound."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        super().__init__(name, help_text)
        self._bounds = tuple(bounds)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, **labels: str) -> None:
        """Add one observation."""
        key = tuple(labels.items())
        counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + value

    def _series(self) -> list[str]:
        lines = []
        for labels, counts in self._counts.items():
            bounds = [*(_number(bound) for bound in self._bounds), "+Inf"]
            for bound, total in zip(bounds, accumulate(counts), strict=True):
                lines.append(f"{self.name}_bucket{_braces((*labels, ('le', bound)))} {total}")
            lines.append(f"{self.name}_sum{_braces(labels)} {_number(self._sums[labels])}")
            lines.append(f"{self.name}_count{_braces(labels)} {sum(counts)}")
        return lines


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


class ServerMetrics:
    """Every metric of the server, declared once."""

    def __init__(self, *, max_input_tokens: int, max_total_tokens: int) -> None:
        duration, total = DURATION_BUCKETS, even_buckets(max_total_tokens)
        self.request_count = Counter("tgi_request_count", "Generation requests that arrived.")
        self.request_success = Counter("tgi_request_success", "Generation requests that finished.")
        self.request_failure = Counter("tgi_request_failure", "Generation requests that failed, by `err`.")
        self.request_duration = Histogram("tgi_request_duration", "Seconds from arrival to end.", duration)
        self.validation_duration = Histogram(
            "tgi_request_validation_duration", "Seconds from arrival to the queue.", duration
        )
        self.queue_duration = Histogram("tgi_request_queue_duration", "Seconds in the queue.", duration)
        self.inference_duration = Histogram(
            "tgi_request_inference_duration", "Seconds from leaving the queue to the end.", duration
        )
        self.mean_time_per_token = Histogram(
            "tgi_request_mean_time_per_token_duration", "Inference seconds divided by generated tokens.", duration
        )
        self.generated_tokens = Histogram("tgi_request_generated_tokens", "Generated tokens of a request.", total)
        self.input_length = Histogram(
            "tgi_request_input_length", "Prompt tokens of a request.", even_buckets(max_input_tokens)
        )
        self.max_new_tokens = Histogram("tgi_request_max_new_tokens", "Tokens a request may generate.", total)
        self.queue_size = Gauge("tgi_queue_size", "Requests that wait for a slot.")
        self.batch_current_size = Gauge("tgi_batch_current_size", "Slots in use.")
        self.batch_current_max_tokens = Gauge("tgi_batch_current_max_tokens", "Tokens reserved by slots in use.")
        self.batch_next_size = Histogram(
            "tgi_batch_next_size", "Requests that left the queue together.", range(1, 1025)
        )
        self.batch_inference_count = Counter("tgi_batch_inference_count", "Steps, by `method`.")
        self.batch_inference_success = Counter("tgi_batch_inference_success", "Steps that ended, by `method`.")
        self.batch_inference_duration = Histogram(
            "tgi_batch_inference_duration", "Seconds of a step, by `method`.", duration
        )
        self.time_to_first_token = Histogram(
            "ranvier_time_to_first_token_duration", "Seconds from arrival to the first token.", duration
        )
        self.prompt_tokens = Counter("ranvier_prompt_tokens", "Prompt tokens of finished requests.")
        self.reused_tokens = Counter("ranvier_prefix_reused_tokens", "Prompt tokens found in the KV cache.")

    def render(self) -> str:
        """All families in text format."""
        families = [metric for metric in vars(self).values() if isinstance(metric, Metric)]
        return "".join(f"{line}\n" for family in families for line in family.lines())
