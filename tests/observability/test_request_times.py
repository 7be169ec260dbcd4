"""The times of a request in TGI's names and notation."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from some_moments import some_moments

from ranvier.observability.moments import duration_text, timing_fields


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ns"),
        (1e-9, "1ns"),
        (999e-9, "999ns"),
        (1e-6, "1µs"),
        (4.25e-6, "4.25µs"),
        (0.0015, "1.5ms"),
        (0.001000001, "1.000001ms"),
        (0.999999999, "999.999999ms"),
        (0.9999999999, "1s"),
        (1, "1s"),
        (61.05, "61.05s"),
    ],
)
def test_durations_are_written_as_rust_writes_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.integers(0, 10**15))
def test_a_duration_reads_back_to_the_nanosecond(nanoseconds: int) -> None:
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?(s|ms|µs|ns)", duration_text(nanoseconds / 1e9))
    assert match
    digits = {"s": 9, "ms": 6, "µs": 3, "ns": 0}[match[3]]
    assert int(match[1] + (match[2] or "").ljust(digits, "0")) == round(nanoseconds / 1e9 * 1e9)
    assert not (match[2] or "1").endswith("0")


def test_a_request_has_tgis_five_times() -> None:
    assert timing_fields(some_moments(0.0), 4) == {
        "total_time": "15ms",
        "validation_time": "1ms",
        "queue_time": "2ms",
        "inference_time": "12ms",
        "time_per_token": "3ms",
    }
