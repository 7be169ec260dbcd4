"""A request's tokens are the same alone as in any company, and every request ends exactly once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from engine_helpers import Faulty, events_of, generate, make_engine, make_limits, step, submit
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.core import (
    EngineRequest,
    Event,
    FailEvent,
    FinishEvent,
    Limits,
    PromptEvent,
    SamplingParams,
    StartEvent,
    TokenEvent,
    is_terminal,
)
from ranvier.engine import Engine
from ranvier.targets import Programs
from scripted_requests import make_request

SEQUENCE_LENGTH = 32
MAX_INPUT_TOKENS = 24
ADAPTERS = ("one", "two")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One engine: its limits and what its target can do."""

    limits: Limits
    chunk_multiple: int
    mixed_steps: bool
    prefix_sharing: bool
    bad_steps: frozenset[int]

    def engine(self) -> Engine:
        return make_engine(
            limits=self.limits,
            wrap=self._wrap if self.bad_steps else None,
            chunk_multiple=self.chunk_multiple,
            mixed_steps=self.mixed_steps,
            prefix_sharing=self.prefix_sharing,
            adapters=ADAPTERS,
        )

    def _wrap(self, programs: Programs) -> Programs:
        return Faulty(programs, self.bad_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What happens before one step: arrivals, and cancels by the number of the request."""

    arrivals: list[EngineRequest] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)


@st.composite
def settings_of_an_engine(draw: st.DrawFn, *, with_faults: bool = False) -> Setting:
    multiple = draw(st.sampled_from([0, 2, 4, 8]))
    least = 2 * multiple or MAX_INPUT_TOKENS
    # Two bad steps in a row at most: a third would mean that the device is lost.
    bad_steps = {4 * n + draw(st.integers(0, 1)) for n in draw(st.sets(st.integers(0, 5)))} if with_faults else set()
    return Setting(
        limits=make_limits(
            batch_size=draw(st.integers(1, 4)),
            sequence_length=SEQUENCE_LENGTH,
            max_input_tokens=MAX_INPUT_TOKENS,
            budget=draw(st.integers(least, least + 24)),
        ),
        chunk_multiple=multiple,
        mixed_steps=draw(st.booleans()),
        prefix_sharing=draw(st.booleans()),
        bad_steps=frozenset(bad_steps),
    )


samplings = st.one_of(
    st.just(SamplingParams()),
    st.builds(
        SamplingParams,
        do_sample=st.booleans(),
        temperature=st.sampled_from([0.5, 1.0, 4.0]),
        top_k=st.sampled_from([0, 5]),
        top_p=st.sampled_from([0.9, 1.0]),
        repetition_penalty=st.sampled_from([1.0, 1.5]),
        frequency_penalty=st.sampled_from([0.0, 0.5]),
        presence_penalty=st.sampled_from([0.0, 1.5]),
        seed=st.integers(0, 2**64 - 1),
        top_n_tokens=st.sampled_from([0, 2]),
    ),
)


@st.composite
def requests(draw: st.DrawFn) -> EngineRequest:
    """Prompts begin with a piece of one common prefix, so that many can be shared."""
    common = [1, 2, 3, 4, 5, 6, 7, 8] * 2
    own = draw(st.lists(st.integers(0, 99), min_size=1, max_size=8))
    prompt_ids = common[: draw(st.sampled_from([0, 0, 4, 8, 12, 16]))] + own
    eos = draw(st.sets(st.integers(0, 99), max_size=10))
    return replace(
        make_request("", prompt_ids, draw(st.integers(1, 8)), eos),
        sampling=draw(samplings),
        grammar=draw(st.sampled_from([None, None, "one", "two"])),
        wants_prompt_logprobs=draw(st.booleans()),
        adapter=draw(st.sampled_from([None, None, *ADAPTERS])),
    )


turns = st.builds(Turn, arrivals=st.lists(requests(), max_size=2), cancels=st.lists(st.integers(0, 11), max_size=1))


class Run:
    """An engine taken through turns, then to its end."""

    def __init__(self, setting: Setting, turns: list[Turn]) -> None:
        self.engine = setting.engine()
        self.requests: list[EngineRequest] = []
        self.events: list[Event] = []
        for turn in turns:
            self._take(turn)
        while self.engine.has_work:
            self.events += step(self.engine)

    def _take(self, turn: Turn) -> None:
        for request in turn.arrivals:
            self.requests.append(replace(request, request_id=str(len(self.requests))))
            self.events += submit(self.engine, self.requests[-1])
        for number in turn.cancels:
            self.events += self.engine.cancel(str(number))
        self.engine.check()
        if self.engine.has_work:
            self.events += step(self.engine)

    def of(self, request: EngineRequest) -> list[Event]:
        return events_of(self.events, request.request_id)


def tokens(events: list[Event]) -> list[PromptEvent | TokenEvent]:
    """What was computed: scores of the prompt, and tokens with their log-probabilities."""
    return [event for event in events if isinstance(event, (PromptEvent, TokenEvent))]


def alone(request: EngineRequest) -> list[Event]:
    """The request's events in an engine of its own that neither cuts nor shares."""
    limits = make_limits(batch_size=1, sequence_length=SEQUENCE_LENGTH)
    return generate(make_engine(limits=limits, chunk_multiple=0, prefix_sharing=False, adapters=ADAPTERS), request)


def assert_well_formed(events: list[Event]) -> None:
    """Start, tokens, one terminal event; a request that never started has nothing but its end.

    The scores of the prompt, where they are wanted, come before the first token.
    """
    assert [is_terminal(event) for event in events] == [False] * (len(events) - 1) + [True]
    middle = events[:-1]
    if len(middle) > 1 and isinstance(middle[1], PromptEvent):
        del middle[1]
    assert [type(event) for event in middle] == [StartEvent, *[TokenEvent] * (len(middle) - 1)][: len(middle)]


@settings(deadline=None)
@given(setting=settings_of_an_engine(), turns=st.lists(turns, max_size=12))
def test_a_requests_tokens_are_the_same_alone_as_in_any_company(setting: Setting, turns: list[Turn]) -> None:
    run = Run(setting, turns)
    for request in run.requests:
        events, expected = run.of(request), alone(request)
        assert_well_formed(events)
        if events[-1] == FinishEvent(request.request_id, "cancelled"):
            assert tokens(events) == tokens(expected)[: len(tokens(events))]
        else:
            assert tokens(events) == tokens(expected)
            assert events[-1] == expected[-1]


@settings(deadline=None)
@given(setting=settings_of_an_engine(), turns=st.lists(turns, max_size=12))
def test_requests_start_in_the_order_they_arrived(setting: Setting, turns: list[Turn]) -> None:
    run = Run(setting, turns)
    started = [int(event.request_id) for event in run.events if isinstance(event, StartEvent)]
    assert started == sorted(started)
    never_cancelled = {int(request.request_id) for request in run.requests} - {n for t in turns for n in t.cancels}
    assert never_cancelled <= set(started)


@settings(deadline=None)
@given(setting=settings_of_an_engine(with_faults=True), turns=st.lists(turns, max_size=12))
def test_failed_steps_change_nothing_for_the_requests_that_live_on(setting: Setting, turns: list[Turn]) -> None:
    run = Run(setting, turns)
    for request in run.requests:
        events, expected = run.of(request), alone(request)
        assert_well_formed(events)
        got = tokens(events)
        assert got == tokens(expected)[: len(got)]
        if events[-1] not in (
            FinishEvent(request.request_id, "cancelled"),
            FailEvent(request.request_id, "the step that held this request failed on the device"),
        ):
            assert got == tokens(expected)
            assert events[-1] == expected[-1]


def test_the_company_does_share_prefixes_and_cut_prompts() -> None:
    """The properties above would say little if their requests never met in a slot."""
    setting = Setting(
        limits=make_limits(batch_size=2, sequence_length=SEQUENCE_LENGTH, max_input_tokens=24, budget=8),
        chunk_multiple=4,
        mixed_steps=True,
        prefix_sharing=True,
        bad_steps=frozenset(),
    )
    prompt_ids = [1, 2, 3, 4, 5, 6, 7, 8] * 2 + [9]
    arrivals = [make_request("", prompt_ids, 4) for _ in range(3)]
    run = Run(setting, [Turn(arrivals=arrivals)])
    reused = [event.num_reused_tokens for event in run.events if isinstance(event, StartEvent)]
    assert reused == [0, 12, 12]
    make = partial(make_request, prompt_ids=prompt_ids, max_new_tokens=4)
    assert all(tokens(run.of(r)) == tokens(alone(make(r.request_id))) for r in run.requests)
