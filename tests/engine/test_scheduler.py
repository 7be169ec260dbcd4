"""The scheduler's plans, worked out by hand.

Unless a test says otherwise there are 3 slots, a budget of 8 prompt tokens for each step, and cuts at multiples of 4.
A plan is written as a list of (request, start, number of tokens). So ("a", 0, 8) and then ("a", 8, 3) is a prompt of
11 tokens cut in two, and ("a", 11, 1) its first decode.
"""

from __future__ import annotations

import pytest
from scheduler_helpers import Drive

from ranvier.core import SamplingParams, SamplingRow
from ranvier.errors import OptionError

# One request


def test_a_prompt_within_the_budget_is_one_chunk_and_then_decodes() -> None:
    drive = Drive()
    drive.add("a", 5)
    assert [drive.step() for _ in range(3)] == [[("a", 0, 5)], [("a", 5, 1)], [("a", 6, 1)]]


def test_a_long_prompt_is_cut_by_the_budget() -> None:
    drive = Drive()
    drive.add("a", 19)
    assert [drive.step() for _ in range(4)] == [[("a", 0, 8)], [("a", 8, 8)], [("a", 16, 3)], [("a", 19, 1)]]


def test_a_prompt_is_cut_only_at_multiples() -> None:
    drive = Drive(budget=11)
    drive.add("a", 19)
    assert [drive.step() for _ in range(3)] == [[("a", 0, 8)], [("a", 8, 11)], [("a", 19, 1)]]


def test_a_cut_never_leaves_a_lone_last_token() -> None:
    drive = Drive()
    drive.add("a", 17)
    # 8 of the 9 left would leave one: so 4, and 5 remain.
    assert [drive.step() for _ in range(3)] == [[("a", 0, 8)], [("a", 8, 4)], [("a", 12, 5)]]


def test_a_prompt_of_one_token_is_one_chunk() -> None:
    drive = Drive()
    drive.add("a", 1)
    assert drive.step() == [("a", 0, 1)]


def test_only_the_last_chunk_of_a_prompt_wants_logits() -> None:
    drive = Drive()
    drive.add("a", 11)
    drive.step()
    assert [chunk.wants_logits for chunk in drive.plan.chunks] == [False]
    assert drive.plan.rows == ()
    drive.step()
    assert [chunk.wants_logits for chunk in drive.plan.chunks] == [True]


def test_a_chunk_holds_the_tokens_at_its_positions() -> None:
    drive = Drive()
    drive.add("a", list(range(11)))
    seen = [(drive.step(), drive.plan.chunks[0].token_ids)[1] for _ in range(4)]
    assert seen == [list(range(8)), [8, 9, 10], [7], [7]]


def test_a_sampling_row_counts_generated_tokens_and_holds_the_history() -> None:
    drive = Drive()
    drive.add("a", [1, 2])
    seen = []
    for _ in range(3):
        plan, _ = drive.scheduler.plan()
        seen.append([(row.params, row.token_index, list(row.history)) for row in plan.rows])
        drive.scheduler.advance(drive.open["a"], len(plan.chunks[0].token_ids))
        drive.open["a"].token_ids.append(7)
    greedy = SamplingParams()
    assert seen == [[(greedy, 0, [1, 2])], [(greedy, 1, [1, 2, 7])], [(greedy, 2, [1, 2, 7, 7])]]


# Several requests


def test_prompts_share_the_budget_in_the_order_they_came() -> None:
    drive = Drive()
    for name, length in (("a", 5), ("b", 3), ("c", 1)):
        drive.add(name, length)
    assert drive.step() == [("a", 0, 5), ("b", 0, 3)]
    assert drive.step() == [("c", 0, 1), ("a", 5, 1), ("b", 3, 1)]


def test_a_prompt_that_does_not_fit_is_not_overtaken_by_one_that_would() -> None:
    drive = Drive()
    for name, length in (("a", 6), ("b", 3), ("c", 1)):
        drive.add(name, length)
    assert drive.step() == [("a", 0, 6)]
    assert drive.placed == ["a"]
    assert drive.step() == [("b", 0, 3), ("c", 0, 1), ("a", 6, 1)]
    assert drive.placed == ["b", "c"]


def test_a_cut_ends_the_steps_prefill_even_when_budget_is_left() -> None:
    drive = Drive(budget=11)
    drive.add("a", 20)
    drive.add("b", 2)
    # 3 tokens of budget are left, but `b` would have its first token before `a` has one.
    assert drive.step() == [("a", 0, 8)]
    assert drive.step() == [("a", 8, 8)]
    assert drive.step() == [("a", 16, 4), ("b", 0, 2)]


def test_a_cut_that_spares_a_lone_token_ends_the_steps_prefill_too() -> None:
    drive = Drive()
    drive.add("a", 9)
    drive.add("b", 2)
    assert drive.step() == [("a", 0, 4)]
    assert drive.step() == [("a", 4, 5), ("b", 0, 2)]


def test_the_rest_of_the_budget_takes_the_first_part_of_the_next_prompt() -> None:
    drive = Drive(budget=10)
    drive.add("a", 6)
    drive.add("b", 10)
    assert drive.step() == [("a", 0, 6), ("b", 0, 4)]
    assert drive.step() == [("b", 4, 6), ("a", 6, 1)]


def test_sampling_rows_are_in_the_order_of_the_chunks_that_want_logits() -> None:
    drive = Drive()
    drive.add("a", [1, 2])
    drive.step()
    drive.add("b", [3, 4])
    drive.add("c", list(range(20, 32)))
    assert drive.step() == [("b", 0, 2), ("c", 0, 4), ("a", 2, 1)]
    assert [list(row.history)[:2] for row in drive.plan.rows] == [[3, 4], [1, 2]]
    assert all(isinstance(row, SamplingRow) for row in drive.plan.rows)


def test_requests_without_a_slot_wait() -> None:
    drive = Drive(batch_size=1)
    drive.add("a", 2)
    drive.add("b", 2)
    assert drive.scheduler.num_waiting == 2
    assert drive.step() == [("a", 0, 2)]
    assert drive.scheduler.num_waiting == 1
    assert drive.step() == [("a", 2, 1)]


# Slots come free


def test_a_finished_requests_slot_is_used_in_the_very_next_plan() -> None:
    drive = Drive(batch_size=1)
    drive.add("a", 2)
    drive.add("b", 3)
    drive.step()
    drive.remove("a")
    assert drive.step() == [("b", 0, 3)]


def test_a_request_cancelled_in_its_prefill_frees_slot_and_budget_for_the_next_plan() -> None:
    drive = Drive(batch_size=1)
    drive.add("a", 20)
    drive.add("b", 8)
    drive.step()
    drive.remove("a")
    assert drive.step() == [("b", 0, 8)]


def test_a_request_cancelled_while_it_waits_is_never_placed() -> None:
    drive = Drive(batch_size=1)
    for name in "abc":
        drive.add(name, 2)
    drive.step()
    drive.remove("b")
    drive.remove("a")
    assert drive.step() == [("c", 0, 2)]


def test_there_is_work_until_the_last_request_is_gone() -> None:
    drive = Drive()
    assert not drive.scheduler.has_work
    drive.add("a", 2)
    assert drive.scheduler.has_work
    drive.step()
    assert drive.scheduler.has_work
    drive.remove("a")
    assert not drive.scheduler.has_work


# Targets that cannot mix, or cannot cut


def test_without_mixed_steps_a_prefill_goes_before_the_decodes() -> None:
    drive = Drive(mixed=False)
    drive.add("a", 2)
    drive.step()
    drive.add("b", 11)
    assert [drive.step() for _ in range(3)] == [[("b", 0, 8)], [("b", 8, 3)], [("a", 2, 1), ("b", 11, 1)]]


def test_without_mixed_steps_a_waiting_prompt_without_a_slot_does_not_stop_decodes() -> None:
    drive = Drive(mixed=False, batch_size=1)
    drive.add("a", 2)
    drive.add("b", 2)
    drive.step()
    assert drive.step() == [("a", 2, 1)]


def test_a_target_that_cannot_cut_gets_whole_prompts() -> None:
    drive = Drive(multiple=0, budget=40)
    drive.add("a", 31)
    drive.add("b", 10)
    assert drive.step() == [("a", 0, 31)]
    assert drive.step() == [("b", 0, 10), ("a", 31, 1)]


# Prefix sharing


def test_a_known_prefix_is_shared_and_not_computed_again() -> None:
    drive = Drive(sharing=True)
    drive.add("a", list(range(8)))
    drive.step()
    drive.add("b", list(range(10)))
    assert drive.step() == [("b", 8, 2), ("a", 8, 1)]
    assert drive.shares == [("a", "b", 8)]


def test_a_prompt_in_prefill_lends_to_one_placed_in_the_same_plan_only_what_is_computed_already() -> None:
    drive = Drive(sharing=True, budget=12)
    drive.add("a", list(range(14)))
    assert drive.step() == [("a", 0, 12)]
    drive.add("b", list(range(14)))
    assert drive.step() == [("a", 12, 2), ("b", 12, 2)]
    assert drive.shares == [("a", "b", 12)]


def test_a_known_prefix_does_not_change_who_goes_first() -> None:
    drive = Drive(sharing=True)
    drive.add("a", list(range(10)))
    drive.step()
    drive.step()
    drive.add("b", 5)
    drive.add("c", list(range(10)))
    # Two tokens of `c` would fit beside `b`, but without the prefix it would have had to wait.
    assert drive.step() == [("b", 0, 5), ("a", 10, 1)]
    assert drive.step() == [("c", 8, 2), ("a", 11, 1), ("b", 5, 1)]


def test_a_prompt_may_get_its_slot_and_prefix_a_step_before_its_first_chunk() -> None:
    drive = Drive(sharing=True)
    drive.add("a", list(range(9)))
    drive.step()
    drive.step()
    drive.add("b", 4)
    drive.add("c", list(range(9)))
    # Of `c` 9 tokens may be cut at 4, but the 5 that are left behind the prefix cannot be without a lone last one.
    assert drive.step() == [("b", 0, 4), ("a", 9, 1)]
    assert (drive.placed, drive.shares) == (["b", "c"], [("a", "c", 4)])
    assert drive.step() == [("c", 4, 5), ("a", 10, 1), ("b", 4, 1)]
    assert (drive.placed, drive.shares) == ([], [])


def test_a_target_that_cannot_share_gets_no_shares() -> None:
    drive = Drive(sharing=False)
    drive.add("a", list(range(8)))
    drive.step()
    drive.add("b", list(range(8)))
    assert drive.step() == [("b", 0, 8), ("a", 8, 1)]
    assert drive.plan.shares == ()


# The budget


@pytest.mark.parametrize(
    ("multiple", "max_input_tokens", "needed"),
    [(4, 40, 8), (0, 40, 40), (256, 100, 100), (4, 1, 1)],
    ids=["two multiples", "a whole prompt", "a whole prompt shorter than two multiples", "a prompt of one token"],
)
def test_a_budget_too_small_for_progress_is_refused(multiple: int, max_input_tokens: int, needed: int) -> None:
    message = f"`max_batch_prefill_tokens` must be >= {needed}. Given: {needed - 1}"
    with pytest.raises(OptionError, match=f"^{message}$"):
        Drive(multiple=multiple, max_input_tokens=max_input_tokens, budget=needed - 1)
    assert Drive(multiple=multiple, max_input_tokens=max_input_tokens, budget=needed).step() == []


# The invariant


def test_check_finds_a_waiting_request_with_a_slot() -> None:
    drive = Drive()
    drive.add("a", 2)
    drive.open["a"].slot = 1
    with pytest.raises(AssertionError, match="a waiting request has a slot"):
        drive.scheduler.check()


def test_check_finds_a_prefill_that_nobody_remembers() -> None:
    drive = Drive()
    drive.add("a", 20)
    drive.step()
    drive.open["a"].num_computed = 20
    with pytest.raises(AssertionError, match="the prefill list is off"):
        drive.scheduler.check()
