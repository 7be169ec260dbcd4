"""Frames between router and engine: what goes in comes out."""

from __future__ import annotations

from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ipc_helpers import make_info

from ranvier.core import (
    Capabilities,
    EngineInfo,
    EngineRequest,
    Event,
    FailEvent,
    FinishEvent,
    Limits,
    PromptEvent,
    SamplingParams,
    StartEvent,
    StepStats,
    TokenEvent,
    TokenLogprob,
)
from ranvier.core.capabilities import ALL_PARAMETERS
from ranvier.ipc.messages import (
    LENGTH_BYTES,
    MAX_FRAME_BYTES,
    Cancel,
    FrameError,
    FromEngine,
    Hello,
    Lost,
    StepFrame,
    Submit,
    ToEngine,
    body_length,
    frame,
    from_engine,
    hello_frame,
    step_frame,
    submit_frame,
    to_engine,
)
from scripted_requests import make_request

T = TypeVar("T")

counts = st.integers(0, 2**31 - 1)
token_ids = st.integers(0, 2**31 - 1)
reals = st.floats(allow_nan=False)
logprobs = st.floats(max_value=0.0, allow_nan=False)
request_ids = st.text(max_size=40)

limits = st.builds(
    Limits,
    batch_size=counts,
    sequence_length=counts,
    max_input_tokens=counts,
    max_batch_prefill_tokens=counts,
)
capabilities = st.builds(
    Capabilities,
    mixed_steps=st.booleans(),
    chunk_multiple=counts,
    prefix_sharing=st.booleans(),
    parameters=st.frozensets(st.sampled_from(sorted(ALL_PARAMETERS))),
)
infos = st.builds(
    EngineInfo,
    target=st.text(),
    limits=limits,
    capabilities=capabilities,
    details=st.dictionaries(st.text(), st.text(), max_size=5),
)
samplings = st.builds(
    SamplingParams,
    do_sample=st.booleans(),
    temperature=reals,
    top_k=counts,
    top_p=reals,
    typical_p=reals,
    repetition_penalty=reals,
    frequency_penalty=reals,
    presence_penalty=reals,
    seed=st.integers(0, 2**64 - 1),
    top_n_tokens=counts,
)
engine_requests = st.builds(
    EngineRequest,
    request_id=request_ids,
    prompt_ids=st.lists(token_ids, max_size=20).map(tuple),
    max_new_tokens=counts,
    eos_token_ids=st.frozensets(token_ids, max_size=4),
    sampling=samplings,
    grammar=st.none() | st.text(),
    wants_prompt_logprobs=st.booleans(),
    adapter=st.none() | st.text(),
)
step_stats = st.builds(
    StepStats,
    duration_s=reals,
    num_prefill_tokens=counts,
    num_decode_tokens=counts,
    num_slots_used=counts,
    num_waiting=counts,
    num_started=counts,
)
tops = st.lists(st.builds(TokenLogprob, token_ids, logprobs), max_size=3).map(tuple)


@st.composite
def events_of_one_step(draw: st.DrawFn) -> list[Event]:
    """For each request some of: start, prompt, token, end; in this order, requests in any."""
    groups: list[list[Event]] = []
    for request_id in draw(st.lists(request_ids, unique=True, max_size=6)):
        possible: list[st.SearchStrategy[Event]] = [
            st.builds(StartEvent, st.just(request_id), reals, counts),
            st.builds(PromptEvent, st.just(request_id), st.lists(logprobs, max_size=4).map(tuple)),
            st.builds(TokenEvent, st.just(request_id), token_ids, logprobs, tops),
            st.one_of(
                st.builds(FinishEvent, st.just(request_id), st.sampled_from(["length", "eos_token", "cancelled"])),
                st.builds(FailEvent, st.just(request_id), st.text()),
            ),
        ]
        groups.append([draw(event) for event in possible if draw(st.booleans())])
    merged: list[Event] = []
    while groups := [group for group in groups if group]:
        merged.append(draw(st.sampled_from(groups)).pop(0))
    return merged


def body(message: FromEngine | ToEngine) -> bytes:
    data = frame(message)
    assert body_length(data[:LENGTH_BYTES]) == len(data) - LENGTH_BYTES
    return data[LENGTH_BYTES:]


def as_type(message: object, kind: type[T]) -> T:
    assert isinstance(message, kind)
    return message


def test_a_frame_is_its_bodys_length_in_four_little_endian_bytes_and_the_body() -> None:
    data = frame(Cancel("r"))
    # An array of two short strings: the tag and the id.
    assert data == b"\x0a\x00\x00\x00" + b"\x92" + b"\xa6cancel" + b"\xa1r"


@given(infos)
def test_a_hello_comes_out_as_it_went_in(info: EngineInfo) -> None:
    message = from_engine(body(hello_frame(info)))
    assert message == hello_frame(info)
    assert as_type(message, Hello).to_info() == info


@given(engine_requests)
def test_a_submit_comes_out_as_it_went_in(request: EngineRequest) -> None:
    message = to_engine(body(submit_frame(request)))
    assert message == submit_frame(request)
    assert as_type(message, Submit).to_request() == request


@given(request_ids)
def test_a_cancel_comes_out_as_it_went_in(request_id: str) -> None:
    assert to_engine(body(Cancel(request_id))) == Cancel(request_id)


@given(st.text())
def test_a_loss_comes_out_as_it_went_in(reason: str) -> None:
    assert from_engine(body(Lost(reason))) == Lost(reason)


@given(events_of_one_step(), st.none() | step_stats)
def test_a_step_comes_out_with_every_requests_events_in_order(events: list[Event], stats: StepStats | None) -> None:
    message = as_type(from_engine(body(step_frame(events, stats))), StepFrame)
    assert message == step_frame(events, stats)
    assert message.stats == stats
    decoded = list(message.events())
    assert len(decoded) == len(events)
    for request_id in {event.request_id for event in events}:
        assert [e for e in decoded if e.request_id == request_id] == [e for e in events if e.request_id == request_id]


@given(events_of_one_step())
def test_the_order_of_starts_is_kept(events: list[Event]) -> None:
    decoded = list(as_type(from_engine(body(step_frame(events, None))), StepFrame).events())
    assert [e for e in decoded if isinstance(e, StartEvent)] == [e for e in events if isinstance(e, StartEvent)]


def test_a_body_may_have_the_most_bytes_and_not_one_more() -> None:
    assert body_length(MAX_FRAME_BYTES.to_bytes(LENGTH_BYTES, "little")) == MAX_FRAME_BYTES
    message = "^a frame of 268435457 bytes is over the limit of 268435456$"
    with pytest.raises(FrameError, match=message):
        body_length((MAX_FRAME_BYTES + 1).to_bytes(LENGTH_BYTES, "little"))


@example(b"\x91\xa1\x80")
@example(b"\x93\xa6cancel\xa1r" + b"\x91" * 5000)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_give_one_kind_of_error(data: bytes) -> None:
    for decode in (from_engine, to_engine):
        try:
            message = decode(data)
        except FrameError as error:
            assert str(error).startswith(f"a frame of {len(data)} bytes is no message: ")
        else:
            assert isinstance(message, (Hello, StepFrame, Lost, Submit, Cancel))


def test_messages_of_the_other_direction_are_refused() -> None:
    request, info = make_request("r", [1]), make_info()
    for message in (submit_frame(request), Cancel("r")):
        with pytest.raises(FrameError, match="is no message: Invalid value"):
            from_engine(body(message))
    for answer in (hello_frame(info), step_frame([], None), Lost("why")):
        with pytest.raises(FrameError, match="is no message: Invalid value"):
            to_engine(body(answer))


def test_one_frame_costs_little_for_each_token() -> None:
    """A step of 64 requests stays small: ids and numbers, no field names."""
    events = [TokenEvent("x" * 32, 50_000, -1.5, ()) for _ in range(64)]
    assert len(frame(step_frame(events, None))) < 64 * 56
