"""Requests with LoRA adapters through the engine, on the scripted target: with adapter a each id counts 7 a more.

P = [5, 6, 7] with a vocabulary of 100:
    the model itself    S = 18: 55, 34, 49
    adapter 1           S = 39: 3 * 39 + 1 = 118 -> 18; 18 + 6 + 64 -> 88; 88 + 8 + 159 -> 55
    adapter 2           S = 60: 181 -> 81; 81 + 6 + 155 -> 42; 42 + 8 + 211 -> 61
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_helpers import generate, make_engine, make_limits, run_to_end, submit, tokens_of

from ranvier.core import EngineRequest, FailEvent, StartEvent
from scripted_requests import make_request, scripted_tokens

P = [5, 6, 7]
TOKENS = {None: [55, 34, 49], "one": [18, 88, 55], "two": [81, 42, 61]}
ADAPTERS = ("one", "two")


def adapted(request_id: str, prompt_ids: list[int], adapter: str | None) -> EngineRequest:
    return replace(make_request(request_id, prompt_ids), adapter=adapter)


@pytest.mark.parametrize("adapter", TOKENS)
def test_a_request_gets_its_adapters_tokens(adapter: str | None) -> None:
    events = generate(make_engine(adapters=ADAPTERS), adapted("r", P, adapter))
    assert tokens_of(events, "r") == TOKENS[adapter]
    number = 0 if adapter is None else 1 + ADAPTERS.index(adapter)
    assert scripted_tokens(P, 3, number) == TOKENS[adapter]


def test_one_step_serves_all_adapters_and_none_together() -> None:
    engine = make_engine(limits=make_limits(batch_size=3), adapters=ADAPTERS)
    for adapter in TOKENS:
        assert submit(engine, adapted(str(adapter), P, adapter)) == []
    first = engine.step()
    assert first.stats.num_slots_used == 3
    events = [*first.events, *run_to_end(engine)]
    assert {adapter: tokens_of(events, str(adapter)) for adapter in TOKENS} == TOKENS


def test_a_prompt_is_computed_anew_for_each_adapter_and_reused_by_the_next_request_of_the_same() -> None:
    engine = make_engine(limits=make_limits(batch_size=2), adapters=ADAPTERS)
    prompt_ids = list(range(10))
    order: list[str | None] = ["one", "two", "one", None, "two", None]
    reused = []
    for number, adapter in enumerate(order):
        events = generate(engine, adapted(str(number), prompt_ids, adapter))
        reused += [event.num_reused_tokens for event in events if isinstance(event, StartEvent)]
        index = 0 if adapter is None else 1 + ADAPTERS.index(adapter)
        assert tokens_of(events, str(number)) == scripted_tokens(prompt_ids, 3, index)
    assert reused == [0, 0, 8, 0, 0, 8], "of two slots the one unused for longest is overwritten"


@pytest.mark.parametrize("loaded", [(), ADAPTERS])
def test_an_adapter_that_is_not_loaded_fails_the_request(loaded: tuple[str, ...]) -> None:
    engine = make_engine(adapters=loaded)
    assert engine.submit(adapted("r", P, "three")) == [FailEvent("r", "the adapter 'three' is not loaded")]
    assert not engine.has_work
