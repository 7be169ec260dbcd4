"""The scripted target: tokens by arithmetic, from rows that are really written and read.

Vocabulary of 100, S the sum of the ids in the slot's rows: a prefill that ends the prompt gives (3 * S + 1) mod 100, a
decode of t at position p gives (t + 2 * p + S) mod 100. For [5, 6, 7] that is 55, then (55 + 6 + 73) mod 100 = 34.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ranvier.core import Capabilities, Chunk, PrefixShare, SamplingParams, SamplingRow, StepPlan
from ranvier.core.capabilities import ALL_PARAMETERS
from ranvier.sampling import uniform
from ranvier.targets import Programs
from ranvier.targets.scripted import ScriptedPrograms


def make(**options: Any) -> ScriptedPrograms:
    return ScriptedPrograms(**{"num_slots": 3, "sequence_length": 16, **options})


def run(
    programs: Programs, *chunks: tuple[int, Sequence[int], int], shares: tuple[PrefixShare, ...] = ()
) -> list[int | None]:
    """Greedy tokens of (slot, ids, start), all of which want logits."""
    row = SamplingRow(SamplingParams(), 0, [])
    plan = StepPlan(tuple(Chunk(*chunk, wants_logits=True) for chunk in chunks), shares, (row,) * len(chunks))
    return [None if choice is None else choice.token_id for choice in programs.run(plan).choices]


def test_a_prefill_gives_three_times_the_sum_plus_one() -> None:
    assert run(make(), (0, [5, 6, 7], 0)) == [55]


def test_a_decode_adds_token_twice_the_position_and_the_sum() -> None:
    programs = make()
    run(programs, (0, [5, 6, 7], 0))
    assert run(programs, (0, [55], 3)) == [34]


def test_a_prompt_in_chunks_gives_the_token_of_the_whole() -> None:
    programs = make()
    plan = StepPlan((Chunk(0, [5, 6], 0, wants_logits=False),), (), ())
    assert programs.run(plan).choices == ()
    assert run(programs, (0, [7, 8], 2)) == [(3 * 26 + 1) % 100]


def test_a_prompt_of_one_token_is_a_prefill() -> None:
    assert run(make(), (0, [5], 0)) == [16]


def test_tokens_are_taken_modulo_the_vocabulary() -> None:
    assert run(make(vocab_size=50), (0, [5, 6, 7], 0)) == [5]


def test_each_slot_has_its_own_rows() -> None:
    programs = make()
    assert run(programs, (2, [5, 6, 7], 0), (0, [1, 2], 0)) == [55, 10]
    # [1, 2] and then 10 at position 2: 10 + 4 + 13 = 27.
    assert run(programs, (0, [10], 2), (2, [55], 3)) == [27, 34]


@pytest.mark.parametrize(
    ("chunk", "token"),
    [
        # 55 + 6 + (27 + 55), 55 + 4 + (11 + 55) and 54 + 6 + (18 + 54), instead of 55 + 6 + (18 + 55) = 134.
        ((1, [55], 3), 43),
        ((0, [55], 2), 25),
        ((0, [54], 3), 32),
    ],
    ids=["slot", "position", "token"],
)
def test_a_wrong_slot_position_or_token_shows(chunk: tuple[int, list[int], int], token: int) -> None:
    programs = make()
    run(programs, (0, [5, 6, 7], 0), (1, [9, 9, 9], 0))
    assert run(programs, chunk) == [token]


def test_a_chunk_behind_rows_that_were_never_written_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="a chunk starts behind rows never written"):
        run(make(), (0, [5], 1))


def test_shares_are_made_in_order_before_the_chunks_run() -> None:
    programs = make()
    run(programs, (0, [5, 6, 7, 8], 0))
    shares = (PrefixShare(0, 1, 4), PrefixShare(1, 2, 2))
    # Slot 1 holds 5 6 7 8 9 9, S = 44; slot 2 holds 5 6 9 9, S = 29; slot 0 itself starts anew.
    tokens = run(programs, (0, [1, 1], 0), (1, [9, 9], 4), (2, [9, 9], 2), shares=shares)
    assert tokens == [7, 33, 88]


def test_a_share_with_itself_keeps_the_rows() -> None:
    programs = make()
    run(programs, (0, [5, 6, 7, 8], 0))
    assert run(programs, (0, [9, 9], 2), shares=(PrefixShare(0, 0, 2),)) == [88]


def test_the_rows_of_a_sampling_row_decide_the_choice() -> None:
    params = SamplingParams(do_sample=True, temperature=1e6, seed=3)
    plan = StepPlan((Chunk(0, [5, 6, 7], 0, wants_logits=True),), (), (SamplingRow(params, 4, [5, 6, 7]),))
    (choice,) = make().run(plan).choices
    assert choice is not None
    # At this temperature all 100 tokens are as good as equal: the draw itself picks.
    assert choice.token_id == int(100 * uniform(3, 4))


def test_a_repetition_penalty_reaches_the_logits() -> None:
    params = SamplingParams(repetition_penalty=1e9, top_n_tokens=1)
    plan = StepPlan((Chunk(0, [5], 0, wants_logits=True),), (), (SamplingRow(params, 0, [5, 16]),))
    (choice,) = make().run(plan).choices
    assert choice is not None
    assert choice.logprob == pytest.approx(-4.60517, abs=1e-4)


def test_rows_and_chunks_that_do_not_match_are_a_mistake() -> None:
    plan = StepPlan((Chunk(0, [5], 0, wants_logits=True),), (), ())
    with pytest.raises(ValueError, match="zip"):
        make().run(plan)


def test_the_fault_token_makes_a_step_raise() -> None:
    programs = make(fault_token=13)
    with pytest.raises(RuntimeError, match="^scripted fault at token 13$"):
        run(programs, (0, [5, 6, 7], 0), (1, [1, 13], 0))
    assert run(programs, (0, [5, 6, 7], 0)) == [55]


def test_without_a_fault_token_none_is_a_fault() -> None:
    assert run(make(), (0, list(range(10)), 0)) == [36]


def test_capabilities_are_as_configured() -> None:
    programs = make(chunk_multiple=2, mixed_steps=False, prefix_sharing=False)
    assert programs.capabilities == Capabilities(
        mixed_steps=False, chunk_multiple=2, prefix_sharing=False, parameters=ALL_PARAMETERS
    )


def test_details_name_the_vocabulary() -> None:
    assert make(vocab_size=7).details == {"vocab_size": "7"}


def test_release_has_nothing_to_let_go_of() -> None:
    programs = make()
    programs.release()
    assert run(programs, (0, [5, 6, 7], 0)) == [55]


def test_with_an_adapter_each_id_counts_seven_times_its_number_more() -> None:
    """As in the docstring of the target: S = 18 + 3 * 14, then 81 at position 3."""
    programs = make(adapters=("one", "two"))
    row = SamplingRow(SamplingParams(), 0, [])

    def run_with(adapter: int, ids: list[int], start: int) -> list[int | None]:
        plan = StepPlan((Chunk(0, ids, start, wants_logits=True, adapter=adapter),), (), (row,))
        return [None if choice is None else choice.token_id for choice in programs.run(plan).choices]

    assert run_with(2, [5, 6, 7], 0) == [81]
    assert run_with(2, [81], 3) == [42]
    assert run_with(0, [5, 6, 7], 0) == [55]
    assert programs.capabilities.adapters == ("one", "two")
