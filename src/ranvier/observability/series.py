"""Counters, gauges, histograms and summaries in Prometheus' text format.

The format is "Prometheus text exposition 0.0.4". The usual client library is not used: it adds `_total` to every
counter, and TGI's counters have no suffix. A series appears with its first update, as in TGI.

What happens for every token or step holds on to a series, `metric.child(method="decode")`: an update is then an
addition or a bisection, without a look at labels. All text but the numbers is made once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

Labels = tuple[tuple[str, str], ...]

DURATION_BUCKETS = tuple(0.0001 * 1.5**k for k in range(1, 36))
"""Seconds; the bounds of every TGI metric whose name ends in `duration`."""

QUANTILES = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
"""Those of TGI's summaries; 0 and 1 are the least and the greatest value."""


def even_buckets(highest: int) -> tuple[float, ...]:
    """100 equal steps up to `highest`, as TGI has for token counts."""
    return tuple(highest * k / 100 for k in range(1, 101))


class Series(Protocol):
    """One metric with one set of labels."""

    def lines(self) -> list[str]:
        """The samples in text format; empty before the first update."""
        ...


_S_co = TypeVar("_S_co", bound=Series, covariant=True)


class Metric(Generic[_S_co]):
    """A named family of series. Not thread-safe: the event loop owns it."""

    kind = ""

    def __init__(self, name: str, help_text: str) -> None:
        self.name = name
        self._head = [f"# HELP {name} {help_text}", f"# TYPE {name} {self.kind}"]
        self._children: dict[Labels, _S_co] = {}

    def child(self, **labels: str) -> _S_co:
        """The series with these labels, made when it is asked for first. Keep it where updates are frequent."""
        key = tuple(labels.items())
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = self._make(key)
        return found

    def _make(self, labels: Labels) -> _S_co:
        raise AssertionError("subclasses say how")

    def lines(self) -> list[str]:
        """The family in text format; empty before the first update."""
        samples = [line for series in self._children.values() for line in series.lines()]
        return [*self._head, *samples] if samples else []


class CounterSeries:
    """A value that only grows."""

    __slots__ = ("_head", "_value")

    def __init__(self, head: str) -> None:
        self._head = head
        self._value: float | None = None

    def add(self, amount: float = 1) -> None:
        """Grow by `amount` >= 0."""
        self._value = (self._value or 0) + amount

    @property
    def value(self) -> float:
        """The present value, 0 before the first update."""
        return self._value or 0

    def lines(self) -> list[str]:
        """See `Series`."""
        return [] if self._value is None else [self._head + _number(self._value)]


class Counter(Metric[CounterSeries]):
    """Values that only grow."""

    kind = "counter"

    def _make(self, labels: Labels) -> CounterSeries:
        return CounterSeries(f"{self.name}{_braces(labels)} ")

    def add(self, amount: float = 1, **labels: str) -> None:
        """Grow by `amount` >= 0."""
        (self._children.get(tuple(labels.items())) or self.child(**labels)).add(amount)

    def value(self, **labels: str) -> float:
        """The present value, 0 before the first update."""
        series = self._children.get(tuple(labels.items()))
        return 0 if series is None else series.value


class FollowedCounter(Metric[CounterSeries]):
    """A counter that somebody else keeps; it is read when the text is made. Not shown before `follow`."""

    kind = "counter"

    def __init__(self, name: str, help_text: str) -> None:
        super().__init__(name, help_text)
        self._read: Callable[[], float] | None = None

    def follow(self, read: Callable[[], float]) -> None:
        """Show what `read` returns."""
        self._read = read

    def lines(self) -> list[str]:
        """See `Metric`."""
        return [] if self._read is None else [*self._head, f"{self.name} {_number(self._read())}"]


class GaugeSeries:
    """A value that goes up and down."""

    __slots__ = ("_head", "_value")

    def __init__(self, head: str) -> None:
        self._head = head
        self._value: float | None = None

    def set(self, value: float) -> None:
        """Replace the value."""
        self._value = value

    def add(self, amount: float) -> None:
        """Change the value by `amount`; it counts from 0."""
        self._value = (self._value or 0) + amount

    def lines(self) -> list[str]:
        """See `Series`."""
        return [] if self._value is None else [self._head + _number(self._value)]


class Gauge(Metric[GaugeSeries]):
    """Values that go up and down."""

    kind = "gauge"

    def _make(self, labels: Labels) -> GaugeSeries:
        return GaugeSeries(f"{self.name}{_braces(labels)} ")

    def set(self, value: float) -> None:
        """Replace the value of the series without labels."""
        self.child().set(value)

    def add(self, amount: float) -> None:
        """Change it by `amount`; it counts from 0."""
        self.child().add(amount)


class HistogramSeries:
    """Counts of observations at or below each bound."""

    __slots__ = ("_bounds", "_counts", "_heads", "_labels", "_name", "_sum")

    def __init__(self, name: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self._name = name
        self._labels = labels
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._heads: list[str] = []

    def observe(self, value: float) -> None:
        """Add one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        """See `Series`."""
        totals = list(accumulate(self._counts))
        if not totals[-1]:
            return []
        self._heads = self._heads or self._make_heads()
        lines = [f"{head}{total}" for head, total in zip(self._heads, totals, strict=True)]
        braces = _braces(self._labels)
        return [*lines, f"{self._name}_sum{braces} {_number(self._sum)}", f"{self._name}_count{braces} {totals[-1]}"]

    def _make_heads(self) -> list[str]:
        bounds = [*(_number(bound) for bound in self._bounds), "+Inf"]
        return [f"{self._name}_bucket{_braces((*self._labels, ('le', bound)))} " for bound in bounds]


class Histogram(Metric[HistogramSeries]):
    """Counts of observations at or below each of `bounds`, which ascend."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        super().__init__(name, help_text)
        self._bounds = tuple(bounds)

    def _make(self, labels: Labels) -> HistogramSeries:
        return HistogramSeries(self.name, labels, self._bounds)

    def observe(self, value: float, **labels: str) -> None:
        """Add one observation."""
        (self._children.get(tuple(labels.items())) or self.child(**labels)).observe(value)


class SummarySeries:
    """How often each whole number was seen: meant for few different ones, such as speculated tokens."""

    __slots__ = ("_counts", "_labels", "_name")

    def __init__(self, name: str, labels: Labels) -> None:
        self._name = name
        self._labels = labels
        self._counts: dict[int, int] = {}

    def observe(self, value: int, times: int = 1) -> None:
        """Add `times` observations of one value; constant time."""
        self._counts[value] = self._counts.get(value, 0) + times

    def quantile(self, share: float) -> int:
        """The least value that at least `share` of all observations do not exceed. Needs an observation."""
        values = sorted(self._counts)
        totals = list(accumulate(self._counts[value] for value in values))
        return values[bisect_left(totals, max(1, share * totals[-1]))]

    def lines(self) -> list[str]:
        """See `Series`."""
        count = sum(self._counts.values())
        if not count:
            return []
        braces, total = _braces(self._labels), sum(value * times for value, times in self._counts.items())
        lines = [
            f"{self._name}{_braces((*self._labels, ('quantile', _number(share))))} {self.quantile(share)}"
            for share in QUANTILES
        ]
        return [*lines, f"{self._name}_sum{braces} {total}", f"{self._name}_count{braces} {count}"]


class Summary(Metric[SummarySeries]):
    """`QUANTILES` of small whole numbers, exact, over all observations since the start."""

    kind = "summary"

    def _make(self, labels: Labels) -> SummarySeries:
        return SummarySeries(self.name, labels)

    def observe(self, value: int, times: int = 1) -> None:
        """Add `times` observations of `value`."""
        self.child().observe(value, times)


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
