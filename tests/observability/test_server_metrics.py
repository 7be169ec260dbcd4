"""What `/metrics` says after what has happened: names, types, buckets, labels, counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_text import Family, parse
from some_moments import some_moments

from http_driver import AsgiCall, client_of
from ranvier.compose.router import make_metrics
from ranvier.compose.step_recorder import StepRecorder
from ranvier.core import Event, FailEvent, FinishEvent, Limits, StepStats
from ranvier.service import ServiceLimits
from serving import END, LIMITS, HandEngine, PlayingEngine, make_service, scripted_service, until

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
OF_REQUESTS = {
    "tgi_request_count": COUNTER,
    "tgi_request_success": COUNTER,
    "tgi_request_duration": HISTOGRAM,
    "tgi_request_validation_duration": HISTOGRAM,
    "tgi_request_queue_duration": HISTOGRAM,
    "tgi_request_inference_duration": HISTOGRAM,
    "tgi_request_mean_time_per_token_duration": HISTOGRAM,
    "tgi_request_generated_tokens": HISTOGRAM,
    "tgi_request_input_length": HISTOGRAM,
    "tgi_request_max_new_tokens": HISTOGRAM,
    "tgi_queue_size": GAUGE,
}
OURS_OF_STEPS = {
    "ranvier_slots": GAUGE,
    "ranvier_slots_used": GAUGE,
    "ranvier_computed_tokens": COUNTER,
    "ranvier_padded_tokens": COUNTER,
}
OURS_OF_REQUESTS = {
    "ranvier_time_to_first_token_duration": HISTOGRAM,
    "ranvier_inter_token_duration": HISTOGRAM,
    "ranvier_queue_duration": HISTOGRAM,
    "ranvier_tokenizer_queue_size": GAUGE,
    "ranvier_tokenize_duration": HISTOGRAM,
    "ranvier_prompt_tokens": COUNTER,
    "ranvier_prefix_hits": COUNTER,
    "ranvier_prefix_reused_tokens": COUNTER,
}
OURS_OF_THE_PROCESS = {"ranvier_engine_restarts": COUNTER, "ranvier_info": GAUGE}

Requests = Callable[[httpx.AsyncClient], Awaitable[Any]]


async def scrape(client: httpx.AsyncClient) -> dict[str, Family]:
    return parse((await client.get("/metrics")).text)


def after(requests: Requests, engine: HandEngine | None = None) -> dict[str, Family]:
    """The metrics after some requests to a played engine."""

    async def main() -> dict[str, Family]:
        service = make_service(engine or PlayingEngine([97, END]))
        async with client_of(service) as client:
            await requests(client)
            return await scrape(client)

    return asyncio.run(main())


def after_scripted(*bodies: dict[str, Any], limits: Limits = LIMITS) -> dict[str, Family]:
    """The metrics after one request behind the other to the scripted target."""

    async def main() -> dict[str, Family]:
        async with scripted_service(limits=limits) as service, client_of(service) as client:
            for body in bodies:
                assert (await client.post("/generate", json=body)).status_code == 200
            return await scrape(client)

    return asyncio.run(main())


def failures(families: dict[str, Family]) -> dict[str, float]:
    family = families.get("tgi_request_failure")
    return {dict(labels)["err"]: value for (_, labels), value in family.samples.items()} if family else {}


def test_a_server_that_has_done_nothing_shows_nothing() -> None:
    async def nothing(client: httpx.AsyncClient) -> None:
        for path in ("/health", "/info", "/metrics", "/unknown"):
            await client.get(path)

    assert after(nothing) == {}


def some_success() -> dict[str, Family]:
    return after_scripted({"inputs": "signal", "parameters": {}})


def test_a_success_shows_our_metrics_beside_tgis() -> None:
    ours = {name: family.kind for name, family in some_success().items() if name.startswith("ranvier_")}
    assert ours.items() <= {**OURS_OF_STEPS, **OURS_OF_REQUESTS}.items()
    assert OURS_OF_STEPS.keys() | {"ranvier_time_to_first_token_duration"} <= ours.keys()


def all_metrics() -> dict[str, Family]:
    """The metrics after one update of everything that is a method."""
    metrics = make_metrics(LIMITS)
    metrics.set_info(version="1.2", model="some/model", target="cpu")
    metrics.follow_engine_connections(lambda: 3)
    with metrics.tokenizing():
        assert "ranvier_tokenizer_queue_size 1\n" in metrics.render()
    metrics.request_started(1.0, 1.5)
    metrics.observe_token_gap(0.25)
    metrics.request_done(some_moments(0.0), num_input=7, num_reused=4, num_generated=4)
    return parse(metrics.render())


def test_our_metrics_have_their_types() -> None:
    ours = {name: family.kind for name, family in all_metrics().items() if name.startswith("ranvier_")}
    assert ours == {**OURS_OF_REQUESTS, **OURS_OF_THE_PROCESS}


def test_durations_of_ours_have_tgis_buckets() -> None:
    for name, family in all_metrics().items():
        labels = {"cause": "step"} if name == "ranvier_queue_duration" else {}
        if name.endswith("_duration"):
            assert family.bounds(**labels)[:-1] == pytest.approx([0.0001 * 1.5**k for k in range(1, 36)])


def test_the_end_of_a_request_is_told_in_one_call() -> None:
    families = all_metrics()
    sums = {
        "tgi_request_duration": 0.015,
        "tgi_request_validation_duration": 0.001,
        "tgi_request_queue_duration": 0.002,
        "tgi_request_inference_duration": 0.012,
        "tgi_request_mean_time_per_token_duration": 0.003,
        "tgi_request_generated_tokens": 4,
        "ranvier_time_to_first_token_duration": 0.007,
    }
    assert {name: families[name].value("_sum") for name in sums} == pytest.approx(sums)
    counts = {
        "tgi_request_success": 1,
        "ranvier_prompt_tokens": 7,
        "ranvier_prefix_hits": 1,
        "ranvier_prefix_reused_tokens": 4,
    }
    assert {name: families[name].value() for name in counts} == counts


def test_a_request_that_reused_nothing_is_no_hit() -> None:
    metrics = make_metrics(LIMITS)
    metrics.request_done(some_moments(0.0), num_input=7, num_reused=0, num_generated=4)
    assert parse(metrics.render())["ranvier_prefix_hits"].value() == 0


def test_gaps_between_tokens_are_counted_one_by_one() -> None:
    family = all_metrics()["ranvier_inter_token_duration"]
    assert (family.value("_sum"), family.value("_count")) == (0.25, 1)


def test_what_runs_is_told_by_labels() -> None:
    family = all_metrics()["ranvier_info"]
    assert family.value(version="1.2", model="some/model", target="cpu") == 1


@pytest.mark.parametrize(("connections", "restarts"), [(0, 0), (1, 0), (3, 2)])
def test_each_connection_after_the_first_is_a_restart_of_the_engine(connections: int, restarts: int) -> None:
    metrics = make_metrics(LIMITS)
    metrics.follow_engine_connections(lambda: connections)
    assert parse(metrics.render())["ranvier_engine_restarts"].value() == restarts


def test_texts_at_the_tokenizer_are_counted_while_they_are_there_even_if_it_fails() -> None:
    metrics = make_metrics(LIMITS)
    with pytest.raises(ValueError, match="no text"), metrics.tokenizing():
        raise ValueError("no text")
    families = parse(metrics.render())
    assert families["ranvier_tokenizer_queue_size"].value() == 0
    assert families["ranvier_tokenize_duration"].value("_count") == 1


def test_sums_of_token_counts() -> None:
    """`signal` is 6 tokens and gives 2; `nerve` is 5 and gives the 4 asked for. 58 are left beside `signal`."""
    nerve = {"inputs": "nerve", "parameters": {"max_new_tokens": 4}}
    families = after_scripted({"inputs": "signal", "parameters": {}}, nerve)
    assert families["tgi_request_input_length"].value("_sum") == 11
    assert families["tgi_request_generated_tokens"].value("_sum") == 6
    assert families["tgi_request_max_new_tokens"].value("_sum") == 62
    assert families["ranvier_prompt_tokens"].value() == 11
    assert families["tgi_request_success"].value() == 2
    assert families["tgi_request_duration"].value("_count") == 2


def test_max_new_tokens_are_counted_as_the_chunk_of_at_most_1024() -> None:
    """A regression: the whole number was counted."""
    limits = replace(LIMITS, sequence_length=4000)
    families = after_scripted({"inputs": "signal", "parameters": {"max_new_tokens": 3000}}, limits=limits)
    assert families["tgi_request_max_new_tokens"].value("_sum") == 1024


def test_steps_are_counted_by_method() -> None:
    """`signal` is one prefill, which gives the first token, and one decode, which gives the end."""
    families = after_scripted({"inputs": "signal", "parameters": {}})
    for name in ("tgi_batch_inference_count", "tgi_batch_inference_success"):
        assert (families[name].value(method="prefill"), families[name].value(method="decode")) == (1, 1)
    assert families["tgi_batch_inference_duration"].value("_count", method="decode") == 1
    assert families["tgi_batch_next_size"].value("_sum") == 1
    assert families["ranvier_prefix_reused_tokens"].value() == 0


def test_reused_prompt_tokens_are_counted() -> None:
    """16 tokens in blocks of 4, of which 2 at least are computed again: 12 are reused."""
    body = {"inputs": "nerve and signal", "parameters": {"max_new_tokens": 1}}
    assert after_scripted(body, body)["ranvier_prefix_reused_tokens"].value() == 12


def test_gauges_follow_the_steps() -> None:
    metrics = make_metrics(LIMITS)
    record = StepRecorder(metrics, LIMITS)
    stats = StepStats(
        duration_s=0.01, num_prefill_tokens=5, num_decode_tokens=0, num_slots_used=3, num_waiting=2, num_started=3
    )

    def gauges() -> list[float]:
        families = parse(metrics.render())
        names = ("tgi_queue_size", "tgi_batch_current_size", "tgi_batch_current_max_tokens")
        return [families[name].value() for name in names]

    record(stats)
    assert gauges() == [2, 3, 3 * 64]
    record(replace(stats, num_prefill_tokens=0, num_decode_tokens=1, num_slots_used=1, num_waiting=0, num_started=0))
    assert gauges() == [0, 1, 64]
    assert parse(metrics.render())["tgi_batch_next_size"].value("_count") == 1


def test_after_the_last_request_has_ended_the_gauges_are_zero() -> None:
    families = after_scripted({"inputs": "signal", "parameters": {}})
    for name in ("tgi_queue_size", "tgi_batch_current_size", "tgi_batch_current_max_tokens"):
        assert families[name].value() == 0


def test_the_queue_grows_as_soon_as_requests_arrive() -> None:
    """Before any step; the step then sets what is really left."""

    async def main() -> float:
        engine = HandEngine()
        service = make_service(engine)
        async with client_of(service) as client:
            body = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}
            calls = [asyncio.ensure_future(client.post("/generate", json=body)) for _ in range(2)]
            await until(lambda: len(engine.requests) == 4, "submitted")
            families = await scrape(client)
            for index in range(4):
                engine.end(index)
            await asyncio.gather(*calls)
        return families["tgi_queue_size"].value()

    assert asyncio.run(main()) == 4


@pytest.mark.parametrize(
    ("path", "extra"), [("/generate", {}), ("/", {}), ("/generate_stream", {}), ("/", {"stream": True})]
)
def test_each_route_counts_a_request_once(path: str, extra: dict[str, Any]) -> None:
    async def three(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            assert (await client.post(path, json={"inputs": "a", **extra})).status_code == 200

    families = after(three)
    assert {name for name in families if name.startswith("tgi_")} == OF_REQUESTS.keys()
    assert families["tgi_request_count"].value() == families["tgi_request_success"].value() == 3
    assert families["tgi_request_generated_tokens"].value("_sum") == 6
    assert families["tgi_request_input_length"].value("_sum") == 3


def test_best_of_is_one_request_with_one_success() -> None:
    """A regression: each sequence counted."""

    async def best_of(client: httpx.AsyncClient) -> None:
        body = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}
        assert (await client.post("/generate", json=body)).status_code == 200

    families = after(best_of)
    assert families["tgi_request_count"].value() == families["tgi_request_success"].value() == 1
    for name in ("tgi_request_duration", "tgi_request_generated_tokens", "ranvier_time_to_first_token_duration"):
        assert families[name].value("_count") == 1


BAD = {"temperature": 0}


@pytest.mark.parametrize(
    ("path", "body", "counted"),
    [
        ("/generate", {"inputs": ""}, {"validation": 1}),
        ("/generate_stream", {"inputs": ""}, {"validation": 1}),
        ("/", {"inputs": "a", "parameters": BAD}, {"validation": 1}),
        ("/generate", {"inputs": "x" * 33}, {"validation": 1}),
        ("/generate", {"inputs": "a", "parameters": {"watermark": True}}, {"validation": 1}),
        ("/generate_stream", {"inputs": "a", "parameters": {"best_of": 2}}, {"validation": 1}),
        ("/generate_stream", {"inputs": "a", "parameters": {"decoder_input_details": True}}, {"validation": 1}),
        ("/generate", {"inputs": "a", "parameters": {"best_of": 3}}, {}),
    ],
)
def test_validation_failures_are_counted_but_for_the_limit_of_best_of(
    path: str, body: dict[str, Any], counted: dict[str, float]
) -> None:
    """Streams with `best_of` are a regression: they were not counted."""

    async def request(client: httpx.AsyncClient) -> None:
        await client.post(path, json=body)

    families = after(request)
    assert failures(families) == counted
    assert families["tgi_request_count"].value() == 1
    assert "tgi_request_success" not in families
    assert "tgi_request_max_new_tokens" not in families


def test_a_prompt_that_is_too_long_is_no_input_length_and_one_with_a_bad_parameter_is() -> None:
    """The length is counted when the rules about lengths have passed; capabilities are looked at after them."""

    async def request(client: httpx.AsyncClient) -> None:
        await client.post("/generate", json={"inputs": "x" * 33})
        await client.post("/generate", json={"inputs": "abc", "parameters": {"watermark": True}})

    assert after(request)["tgi_request_input_length"].value("_sum") == 3


@pytest.mark.parametrize(
    ("ending", "err"), [(FailEvent("", "x"), "generation"), (FinishEvent("", "cancelled"), "incomplete")]
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_failures_of_the_engine_are_counted(path: str, ending: FailEvent | FinishEvent, err: str) -> None:
    def end(request_id: str) -> Event:
        return replace(ending, request_id=request_id)

    async def request(client: httpx.AsyncClient) -> None:
        await client.post(path, json={"inputs": "a"})

    families = after(request, PlayingEngine([97], ending=end))
    assert failures(families) == {err: 1}
    assert "tgi_request_success" not in families


def test_overload_is_counted() -> None:
    async def main() -> dict[str, Family]:
        engine = HandEngine()
        async with client_of(make_service(engine, limits=ServiceLimits(max_concurrent_requests=1))) as client:
            first = asyncio.ensure_future(client.post("/generate", json={"inputs": "a"}))
            await until(lambda: len(engine.requests) == 1, "submitted")
            assert (await client.post("/generate", json={"inputs": "a"})).status_code == 429
            engine.end(0)
            await first
            return await scrape(client)

    families = asyncio.run(main())
    assert failures(families) == {"overloaded": 1}
    assert families["tgi_request_count"].value() == 2


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_clients_who_leave_are_counted_as_dropped(path: str) -> None:
    async def main() -> dict[str, Family]:
        engine = HandEngine()
        service = make_service(engine)
        call = AsgiCall(service, path, {"inputs": "a"})
        await until(lambda: len(engine.requests) == 1, "submitted")
        call.leave()
        await call.done()
        return parse(service.metrics.render())

    families = asyncio.run(main())
    assert failures(families) == {"dropped": 1}
    assert families["tgi_request_count"].value() == 1
    assert "tgi_request_success" not in families


def test_every_request_ends_in_exactly_one_count() -> None:
    """Two successes, one of each failure that a played engine can be made to give."""

    async def mixed(client: httpx.AsyncClient) -> None:
        for body in ({"inputs": "a"}, {"inputs": ""}, {"inputs": "b"}, {"inputs": "c"}):
            await client.post("/generate", json=body)

    families = after(mixed, PlayingEngine([END], [END], [97], ending=lambda request_id: FailEvent(request_id, "x")))
    assert families["tgi_request_count"].value() == 4
    assert families["tgi_request_success"].value() == 2
    assert failures(families) == {"validation": 1, "generation": 1}
