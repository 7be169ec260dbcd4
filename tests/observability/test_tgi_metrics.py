"""TGI's metrics, one by one: each is there after a scripted run, with TGI's type, labels and buckets."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass

import pytest
from prometheus_text import Family, parse

from http_driver import client_of
from ranvier.compose.step_recorder import StepRecorder
from ranvier.core import EngineRequest, SamplingParams
from ranvier.engine import Engine
from ranvier.observability import ServerMetrics
from ranvier.targets.scripted import ScriptedPrograms
from serving import LIMITS, VOCAB_SIZE, scripted_service

DURATION = tuple(0.0001 * 1.5**k for k in range(1, 36))
INPUT = tuple(LIMITS.max_input_tokens * k / 100 for k in range(1, 101))
TOTAL = tuple(LIMITS.sequence_length * k / 100 for k in range(1, 101))
SIZES = tuple(float(size) for size in range(1, 1025))
QUANTILES = ("0", "0.5", "0.9", "0.95", "0.99", "0.999", "1")

COUNTER, GAUGE, HISTOGRAM, SUMMARY = "counter", "gauge", "histogram", "summary"
METHODS = ("method", {"prefill", "decode"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """What TGI 3.3.6 says about a metric: its type, its one label with the values of this run, its bounds."""

    kind: str
    label: tuple[str, set[str]] | None = None
    bounds: tuple[float, ...] = ()


TABLE = {
    "tgi_request_count": Row(kind=COUNTER),
    "tgi_request_success": Row(kind=COUNTER),
    "tgi_request_failure": Row(kind=COUNTER, label=("err", {"validation", "generation"})),
    "tgi_request_duration": Row(kind=HISTOGRAM, bounds=DURATION),
    "tgi_request_validation_duration": Row(kind=HISTOGRAM, bounds=DURATION),
    "tgi_request_queue_duration": Row(kind=HISTOGRAM, bounds=DURATION),
    "tgi_request_inference_duration": Row(kind=HISTOGRAM, bounds=DURATION),
    "tgi_request_mean_time_per_token_duration": Row(kind=HISTOGRAM, bounds=DURATION),
    "tgi_request_generated_tokens": Row(kind=HISTOGRAM, bounds=TOTAL),
    "tgi_request_input_length": Row(kind=HISTOGRAM, bounds=INPUT),
    "tgi_request_max_new_tokens": Row(kind=HISTOGRAM, bounds=TOTAL),
    "tgi_request_skipped_tokens": Row(kind=SUMMARY),
    "tgi_queue_size": Row(kind=GAUGE),
    "tgi_batch_next_size": Row(kind=HISTOGRAM, bounds=SIZES),
    "tgi_batch_current_size": Row(kind=GAUGE),
    "tgi_batch_current_max_tokens": Row(kind=GAUGE),
    "tgi_batch_inference_count": Row(kind=COUNTER, label=METHODS),
    "tgi_batch_inference_success": Row(kind=COUNTER, label=METHODS),
    "tgi_batch_inference_failure": Row(kind=COUNTER, label=("method", {"prefill"})),
    "tgi_batch_inference_duration": Row(kind=HISTOGRAM, label=METHODS, bounds=DURATION),
    "tgi_batch_forward_duration": Row(kind=HISTOGRAM, label=METHODS, bounds=DURATION),
    "tgi_batch_decode_duration": Row(kind=HISTOGRAM, label=METHODS, bounds=DURATION),
    "tgi_batch_filter_duration": Row(kind=HISTOGRAM, label=METHODS, bounds=DURATION),
    "tgi_batch_concat_duration": Row(kind=HISTOGRAM, label=("method", {"decode"}), bounds=DURATION),
    "tgi_batch_concat": Row(kind=COUNTER, label=("reason", {"chunking"})),
}

each_row = pytest.mark.parametrize(("name", "row"), TABLE.items(), ids=TABLE)


def join_a_running_request(metrics: ServerMetrics) -> None:
    """Step by step, since on its own thread an engine may be done with the first before the second comes."""
    programs = ScriptedPrograms(num_slots=4, sequence_length=64, vocab_size=VOCAB_SIZE)
    engine, record = Engine(programs, LIMITS), StepRecorder(metrics, LIMITS)
    for request_id in ("first", "second"):
        request = EngineRequest(
            request_id=request_id,
            prompt_ids=(1, 2, 3),
            max_new_tokens=4,
            eos_token_ids=frozenset(),
            sampling=SamplingParams(),
        )
        engine.submit(request)
        record(engine.step().stats)
    while engine.has_work:
        record(engine.step().stats)


@functools.cache
def scripted_run() -> dict[str, Family]:
    """Two successes, a refusal, a failure on the device, and a request that joins another."""

    async def main() -> dict[str, Family]:
        async with scripted_service(fault_token=ord("#")) as service, client_of(service) as client:
            for inputs, parameters, status in (
                ("signal", {}, 200),
                ("nerve", {"max_new_tokens": 4}, 200),
                ("", {}, 422),
                ("#", {}, 424),
            ):
                reply = await client.post("/generate", json={"inputs": inputs, "parameters": parameters})
                assert reply.status_code == status
            join_a_running_request(service.metrics)
            return parse((await client.get("/metrics")).text)

    return asyncio.run(main())


@each_row
def test_the_metric_has_tgis_type(name: str, row: Row) -> None:
    assert scripted_run()[name].kind == row.kind


@each_row
def test_the_metric_has_tgis_labels(name: str, row: Row) -> None:
    family = scripted_run()[name]
    own = {label for _, labels in family.samples for label, _ in labels} - {"le", "quantile"}
    assert own == ({row.label[0]} if row.label else set())
    if row.label:
        assert family.label_values(row.label[0]) == row.label[1]


@each_row
def test_the_metric_has_tgis_buckets(name: str, row: Row) -> None:
    family = scripted_run()[name]
    values = sorted(row.label[1]) if row.label else [""]
    for value in values:
        labels = {row.label[0]: value} if row.label else {}
        assert family.bounds(**labels)[:-1] == pytest.approx(list(row.bounds))
    if row.kind == SUMMARY:
        assert tuple(family.quantiles()) == QUANTILES


def test_there_is_no_other_metric_under_tgis_name() -> None:
    assert {name for name in scripted_run() if name.startswith("tgi_")} == TABLE.keys()


def test_each_metric_says_what_it_counts() -> None:
    for family in scripted_run().values():
        assert family.help_text.endswith(".")
