"""Counters, gauges and histograms as text. The reader in `prometheus_text` checks the format itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_text import parse

from ranvier.observability.series import (
    DURATION_BUCKETS,
    Counter,
    FollowedCounter,
    Gauge,
    Histogram,
    Metric,
    Series,
    Summary,
    even_buckets,
)


def text_of(metric: Metric[Series]) -> str:
    return "".join(f"{line}\n" for line in metric.lines())


def test_nothing_is_shown_before_the_first_update() -> None:
    assert Counter("c", "Help.").lines() == []
    assert Gauge("g", "Help.").lines() == []
    assert Histogram("h", "Help.", [1.0]).lines() == []
    assert Summary("s", "Help.").lines() == []
    assert FollowedCounter("f", "Help.").lines() == []


def test_holding_on_to_a_series_does_not_show_it() -> None:
    families = (Counter("c", "Help."), Gauge("g", "Help."), Histogram("h", "Help.", [1.0]), Summary("s", "Help."))
    for family in families:
        family.child(method="decode")
        assert family.lines() == []


def test_a_counter_has_no_suffix() -> None:
    counter = Counter("tgi_request_count", "Requests.")
    counter.add()
    counter.add(2)
    assert counter.lines() == [
        "# HELP tgi_request_count Requests.",
        "# TYPE tgi_request_count counter",
        "tgi_request_count 3",
    ]
    assert counter.value() == 3


def test_a_counter_with_labels_has_a_series_for_each_value() -> None:
    counter = Counter("c", "Help.")
    counter.add(err="overloaded")
    counter.add(0.5, err="dropped")
    assert counter.lines()[2:] == ['c{err="overloaded"} 1', 'c{err="dropped"} 0.5']
    assert (counter.value(err="dropped"), counter.value(err="validation")) == (0.5, 0)


def test_a_series_that_is_held_is_the_one_that_labels_name() -> None:
    counter, histogram = Counter("c", "Help."), Histogram("h", "Help.", [1.0])
    held = counter.child(err="dropped")
    held.add()
    counter.add(2, err="dropped")
    assert (held.value, counter.value(err="dropped"), counter.child(err="dropped") is held) == (3, 3, True)
    histogram.child(method="decode").observe(0.5)
    histogram.observe(0.5, method="decode")
    assert histogram.lines()[-1] == 'h_count{method="decode"} 2'


def test_asking_for_a_value_makes_no_series() -> None:
    counter = Counter("c", "Help.")
    assert counter.value(err="dropped") == 0
    assert counter.lines() == []


def test_an_amount_of_zero_shows_a_counter() -> None:
    counter = Counter("c", "Help.")
    counter.add(0)
    assert counter.lines()[-1] == "c 0"


def test_a_followed_counter_is_read_each_time() -> None:
    counter, values = FollowedCounter("f", "Help."), iter([0, 3])
    counter.follow(lambda: next(values))
    assert counter.lines() == ["# HELP f Help.", "# TYPE f counter", "f 0"]
    assert counter.lines()[-1] == "f 3"


def test_a_gauge_with_labels_has_a_series_for_each() -> None:
    gauge = Gauge("g", "Help.")
    gauge.child(version="1", model='a "b"').set(1)
    assert gauge.lines()[2:] == ['g{version="1",model="a \\"b\\""} 1']


def test_a_gauge_is_set_and_moved_and_may_be_zero() -> None:
    gauge = Gauge("g", "Help.")
    gauge.add(2)
    assert gauge.lines() == ["# HELP g Help.", "# TYPE g gauge", "g 2"]
    gauge.set(7)
    gauge.add(-3)
    assert gauge.lines()[2] == "g 4"
    gauge.set(0)
    assert gauge.lines()[2] == "g 0"


def test_a_histogram_counts_at_or_below_each_bound() -> None:
    histogram = Histogram("h", "Help.", [1.0, 2.5])
    for value in (0.5, 1.0, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.lines() == [
        "# HELP h Help.",
        "# TYPE h histogram",
        'h_bucket{le="1"} 2',
        'h_bucket{le="2.5"} 3',
        'h_bucket{le="+Inf"} 4',
        "h_sum 12.5",
        "h_count 4",
    ]


def test_a_histogram_with_labels_is_kept_for_each_value() -> None:
    histogram = Histogram("h", "Help.", [1.0])
    histogram.observe(0.5, method="prefill")
    histogram.observe(3.0, method="decode")
    assert histogram.lines()[2:] == [
        'h_bucket{method="prefill",le="1"} 1',
        'h_bucket{method="prefill",le="+Inf"} 1',
        'h_sum{method="prefill"} 0.5',
        'h_count{method="prefill"} 1',
        'h_bucket{method="decode",le="1"} 0',
        'h_bucket{method="decode",le="+Inf"} 1',
        'h_sum{method="decode"} 3',
        'h_count{method="decode"} 1',
    ]


def test_a_summary_has_tgis_quantiles_sum_and_count() -> None:
    summary = Summary("s", "Help.")
    summary.observe(0, times=98)
    summary.observe(1)
    summary.observe(5)
    assert summary.lines() == [
        "# HELP s Help.",
        "# TYPE s summary",
        's{quantile="0"} 0',
        's{quantile="0.5"} 0',
        's{quantile="0.9"} 0',
        's{quantile="0.95"} 0',
        's{quantile="0.99"} 1',
        's{quantile="0.999"} 5',
        's{quantile="1"} 5',
        "s_sum 6",
        "s_count 100",
    ]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_the_least_and_the_greatest_value_and_the_median_are_exact(values: list[int]) -> None:
    """The median of an even number of values is the lower of the two in the middle."""
    summary = Summary("s", "Help.")
    for value in values:
        summary.observe(value)
    family = parse(text_of(summary))["s"]
    expected = {"0": min(values), "0.5": sorted(values)[(len(values) - 1) // 2], "1": max(values)}
    assert {share: family.quantiles()[share] for share in expected} == expected
    assert (family.value("_sum"), family.value("_count")) == (sum(values), len(values))


@given(st.lists(st.floats(0, 200), min_size=1), st.sampled_from([DURATION_BUCKETS, even_buckets(128), (1.0,)]))
def test_any_observations_make_a_histogram_that_reads_back(values: list[float], bounds: tuple[float, ...]) -> None:
    histogram = Histogram("h", "Help.", bounds)
    for value in values:
        histogram.observe(value)
    family = parse(text_of(histogram))["h"]
    assert family.bounds() == [*bounds, math.inf]
    assert family.counts() == [sum(value <= bound for value in values) for bound in (*bounds, math.inf)]
    assert family.value("_sum") == pytest.approx(sum(values))


@given(st.text(max_size=8))
def test_any_label_value_reads_back(value: str) -> None:
    """A regression: quotes, backslashes and line ends broke the line."""
    counter = Counter("c", "Help.")
    counter.add(err=value)
    lines = counter.lines()
    assert len(lines) == 3
    # The reader splits lines at more characters than the format does.
    if len("".join(lines).splitlines()) == 1:
        assert parse(text_of(counter))["c"].value(err=value) == 1


def test_duration_bounds_are_35_that_grow_by_half() -> None:
    assert len(DURATION_BUCKETS) == 35
    assert DURATION_BUCKETS[0] == pytest.approx(0.00015)
    assert DURATION_BUCKETS[-1] == pytest.approx(145.6, abs=0.1)
    ratios = [high / low for low, high in zip(DURATION_BUCKETS, DURATION_BUCKETS[1:], strict=False)]
    assert ratios == pytest.approx([1.5] * 34)


@pytest.mark.parametrize("highest", [32, 100, 4096])
def test_token_bounds_are_100_equal_steps(highest: int) -> None:
    bounds = even_buckets(highest)
    assert (len(bounds), bounds[-1]) == (100, highest)
    assert bounds[0] == pytest.approx(highest / 100)
