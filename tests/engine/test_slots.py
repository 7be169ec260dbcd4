"""Slots: who sits where, and which rows are taken over.

Blocks are of 4 tokens unless a test says otherwise. At least two tokens are left to compute, so a prompt of n tokens
reuses at most (n - 2) // 4 * 4: 10 tokens reuse 8, 9 only 4, 5 none.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlySequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.core import PrefixShare
from ranvier.engine.sequence import Sequence
from ranvier.engine.slots import Placement, Slots
from scripted_requests import make_request

TEN = tuple(range(10, 20))


def make_sequence(prompt_ids: ReadOnlySequence[int], adapter: int = 0) -> Sequence:
    return Sequence(make_request("r", prompt_ids), adapter)


def place(slots: Slots, prompt_ids: ReadOnlySequence[int], adapter: int = 0) -> tuple[Sequence, Placement]:
    sequence = make_sequence(prompt_ids, adapter)
    placement = slots.place(sequence)
    slots.check()
    return sequence, placement


def compute(slots: Slots, sequence: Sequence, num_tokens: int) -> None:
    sequence.num_computed += num_tokens
    slots.remember(sequence)


def serve(slots: Slots, prompt_ids: ReadOnlySequence[int], adapter: int = 0) -> Placement:
    """Place a prompt, compute it whole and let it go."""
    sequence, placement = place(slots, prompt_ids, adapter)
    compute(slots, sequence, sequence.num_prefill_left)
    slots.release(sequence)
    slots.check()
    return placement


# Placement


def test_slots_that_were_never_used_are_taken_in_order() -> None:
    slots = Slots(3, 4)
    assert [place(slots, [n])[1].slot for n in range(3)] == [0, 1, 2]
    assert (slots.num_free, slots.num_used) == (0, 3)


def test_the_slot_that_was_free_for_longest_is_taken_first() -> None:
    slots = Slots(3, 0)
    first, second = place(slots, [1])[0], place(slots, [2])[0]
    slots.release(second)
    slots.release(first)
    assert [place(slots, [n])[1].slot for n in range(3)] == [2, 1, 0]


def test_a_placed_sequence_knows_its_slot_and_what_is_computed() -> None:
    slots = Slots(2, 4)
    serve(slots, TEN)
    sequence, _ = place(slots, TEN)
    assert (sequence.slot, sequence.num_computed, sequence.num_prefill_left) == (0, 8, 2)


def test_occupants_are_listed_in_slot_order() -> None:
    slots = Slots(3, 0)
    sequences = [place(slots, [n])[0] for n in range(3)]
    slots.release(sequences[0])
    last, _ = place(slots, [9])
    assert slots.occupants() == [last, sequences[1], sequences[2]]


# Reuse


def test_an_unknown_prompt_reuses_nothing() -> None:
    slots = Slots(2, 4)
    serve(slots, TEN)
    _, placement = place(slots, range(50, 60))
    assert (placement.slot, placement.num_reused, placement.share) == (1, 0, None)


def test_a_prompt_that_came_before_is_reused_in_place_without_a_copy() -> None:
    slots = Slots(2, 4)
    serve(slots, TEN)
    _, placement = place(slots, TEN)
    assert placement == Placement(slot=0, source=0, num_reused=8)
    assert placement.share is None


def test_a_prefix_in_a_taken_slot_is_copied() -> None:
    slots = Slots(2, 4)
    sequence, _ = place(slots, TEN)
    compute(slots, sequence, 10)
    _, placement = place(slots, TEN)
    assert placement.share == PrefixShare(source=0, target=1, num_tokens=8)


@pytest.mark.parametrize("is_held", [False, True])
def test_a_prefix_is_reused_only_by_requests_of_the_same_adapter(is_held: bool) -> None:
    slots = Slots(4, 4)
    if is_held:
        compute(slots, place(slots, TEN, adapter=1)[0], 10)
    else:
        serve(slots, TEN, adapter=1)
    assert place(slots, TEN, adapter=0)[1].num_reused == 0
    assert place(slots, TEN, adapter=2)[1].num_reused == 0
    assert place(slots, TEN, adapter=1)[1].num_reused == 8


def test_a_slot_that_another_adapter_has_used_lends_what_that_one_computed() -> None:
    slots = Slots(1, 4)
    assert [serve(slots, TEN, adapter).num_reused for adapter in (1, 2, 2, 1, 1)] == [0, 0, 8, 0, 8]


@pytest.mark.parametrize(
    ("num_prompt", "num_reused"), [(1, 0), (2, 0), (4, 0), (5, 0), (6, 4), (8, 4), (9, 4), (10, 8), (13, 8), (14, 12)]
)
def test_at_least_two_tokens_are_left_to_compute(num_prompt: int, num_reused: int) -> None:
    slots = Slots(1, 4)
    serve(slots, range(20))
    assert place(slots, range(num_prompt))[1].num_reused == num_reused


@pytest.mark.parametrize(("num_common", "num_reused"), [(0, 0), (3, 0), (4, 4), (7, 4), (8, 8), (11, 8), (12, 12)])
def test_only_whole_blocks_that_agree_are_reused(num_common: int, num_reused: int) -> None:
    slots = Slots(1, 4)
    serve(slots, range(12))
    prompt_ids = [*range(num_common), *range(50, 70)]
    assert place(slots, prompt_ids)[1].num_reused == num_reused


def test_a_prompt_in_the_middle_of_its_prefill_lends_what_is_computed() -> None:
    slots = Slots(2, 4)
    sequence, _ = place(slots, range(20))
    compute(slots, sequence, 8)
    assert place(slots, range(20))[1].share == PrefixShare(source=0, target=1, num_tokens=8)


def test_a_partly_computed_block_is_not_lent() -> None:
    slots = Slots(2, 4)
    sequence, _ = place(slots, range(7))
    compute(slots, sequence, 7)
    assert place(slots, range(20))[1].num_reused == 4


def test_rows_that_a_decode_wrote_are_never_reused() -> None:
    slots = Slots(1, 4)
    sequence, _ = place(slots, [1, 2, 3, 4])
    compute(slots, sequence, 4)
    for token in (5, 6, 7, 8):
        sequence.token_ids.append(token)
        compute(slots, sequence, 1)
    slots.release(sequence)
    assert place(slots, range(1, 11))[1].num_reused == 4


def test_the_slot_that_holds_most_of_the_prompt_is_the_source() -> None:
    slots = Slots(3, 4)
    short, _ = place(slots, [*range(4), 90, 91])
    compute(slots, short, 6)
    longer, _ = place(slots, [*range(8), 90, 91])
    compute(slots, longer, longer.num_prefill_left)
    assert place(slots, range(12))[1] == Placement(slot=2, source=1, num_reused=8)


def test_a_free_slot_that_holds_as_much_is_preferred_to_a_copy() -> None:
    slots = Slots(3, 4)
    first, _ = place(slots, TEN)
    compute(slots, first, 10)
    serve(slots, TEN)
    assert place(slots, TEN)[1] == Placement(slot=1, source=1, num_reused=8)


def test_rows_about_to_be_copied_can_be_lent_on_in_the_same_plan() -> None:
    slots = Slots(3, 4)
    sequence, _ = place(slots, [*range(4), 90, 91])
    compute(slots, sequence, 6)
    place(slots, range(10))
    slots.release(sequence, keep_prefix=False)
    assert place(slots, range(10))[1] == Placement(slot=2, source=1, num_reused=4)


def test_blocks_of_zero_turn_reuse_off() -> None:
    slots = Slots(1, 0)
    serve(slots, TEN)
    assert place(slots, TEN)[1] == Placement(slot=0, source=0, num_reused=0)


# Forgetting


def test_a_slots_old_prefix_is_forgotten_as_soon_as_another_prompt_sits_there() -> None:
    slots = Slots(1, 4)
    serve(slots, TEN)
    sequence, _ = place(slots, range(50, 60))
    slots.release(sequence)
    assert place(slots, TEN)[1].num_reused == 0


def test_reuse_in_place_forgets_the_rows_behind_what_is_reused() -> None:
    slots = Slots(1, 4)
    serve(slots, range(20))
    sequence, _ = place(slots, [*range(8), 90, 91])
    slots.release(sequence)
    assert place(slots, range(20))[1].num_reused == 8


def test_a_release_keeps_the_prompts_rows() -> None:
    slots = Slots(1, 4)
    serve(slots, TEN)
    assert place(slots, TEN)[1].num_reused == 8


def test_a_release_after_a_failure_forgets_them() -> None:
    slots = Slots(1, 4)
    sequence, _ = place(slots, TEN)
    compute(slots, sequence, 10)
    slots.release(sequence, keep_prefix=False)
    assert place(slots, TEN)[1].num_reused == 0


# The invariant


def test_check_finds_a_slot_released_twice() -> None:
    slots = Slots(2, 4)
    sequence, _ = place(slots, TEN)
    slots.release(sequence)
    slots.release(sequence)
    with pytest.raises(AssertionError, match="a slot is free twice"):
        slots.check()


def test_check_finds_a_sequence_that_names_another_slot() -> None:
    slots = Slots(2, 4)
    sequence, _ = place(slots, TEN)
    sequence.slot = 1
    with pytest.raises(AssertionError, match="slot 0 holds a sequence of slot 1"):
        slots.check()


def test_check_finds_a_slot_both_free_and_taken() -> None:
    slots = Slots(1, 4)
    sequence, _ = place(slots, TEN)
    slots.release(sequence)
    slots.release(sequence)
    slots.place(make_sequence(TEN))
    with pytest.raises(AssertionError, match="slot 0 is both free and taken, or neither"):
        slots.check()


@given(
    num_slots=st.integers(1, 4),
    block=st.sampled_from([0, 1, 2, 4]),
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), min_size=1, max_size=20),
    data=st.data(),
)
def test_what_is_reused_is_always_a_prefilled_prefix_in_whole_blocks(
    num_slots: int, block: int, prompts: list[list[int]], data: st.DataObject
) -> None:
    """The rows are followed in a table of their own, in which a decode leaves a mark that fits no prompt."""
    slots = Slots(num_slots, block)
    rows: list[list[int]] = [[] for _ in range(num_slots)]
    for prompt_ids in prompts:
        while not slots.num_free or (slots.num_used and data.draw(st.booleans())):
            sequence = data.draw(st.sampled_from(slots.occupants()))
            slots.release(sequence, keep_prefix=data.draw(st.booleans()))
        sequence, placement = place(slots, prompt_ids)
        reused = placement.num_reused
        assert reused % block == 0 if block else reused == 0
        assert reused == 0 or len(prompt_ids) - reused >= 2
        assert rows[placement.source][:reused] == prompt_ids[:reused]
        num_computed = data.draw(st.integers(reused, len(prompt_ids)))
        num_decoded = data.draw(st.integers(0, 3)) if num_computed == len(prompt_ids) else 0
        rows[placement.slot] = rows[placement.source][:reused] + prompt_ids[reused:num_computed] + [-1] * num_decoded
        compute(slots, sequence, num_computed - reused)
        for _ in range(num_decoded):
            sequence.token_ids.append(0)
            compute(slots, sequence, 1)
