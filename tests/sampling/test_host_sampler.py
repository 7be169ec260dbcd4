import array
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ranvier.core import SamplingParams, SamplingRow, TokenChoice, TokenLogprob
from ranvier.sampling import HostSampler, uniform
from ranvier.sampling.candidates import Candidates
from ranvier.sampling.penalties import penalized
from ranvier.sampling.truncation import keep_top_k, keep_top_p, keep_typical_p

Row = npt.NDArray[np.float32]


def choose_one(logits: list[float], history: Any = (), token_index: int = 0, **params: Any) -> TokenChoice:
    row = SamplingRow(SamplingParams(**params), token_index, history)
    (choice,) = HostSampler().choose(np.array([logits], dtype=np.float32), None, [row])
    assert choice is not None
    return choice


def candidates(logits: list[float]) -> Candidates:
    return Candidates(logits_K=np.array(logits, dtype=np.float32), peak=max(logits))


def kept_ids(kept: Candidates) -> list[int]:
    return [kept.token_id(index) for index in range(len(kept.logits_K))]


# Greedy


def test_greedy_takes_the_smallest_id_of_the_largest_logits() -> None:
    assert choose_one([1.0, 3.0, 2.0, 3.0]).token_id == 1


def test_greedy_reports_logit_minus_the_devices_log_sum_exp_exactly() -> None:
    logits = np.array([[0.0, math.log(3.0)]], dtype=np.float32)
    lse = np.array([1.25], dtype=np.float32)
    row = SamplingRow(SamplingParams(top_n_tokens=2), 0, [])
    choices = HostSampler().choose(logits, lse, [row])
    top = (TokenLogprob(1, float(logits[0, 1]) - 1.25), TokenLogprob(0, -1.25))
    assert choices == (TokenChoice(1, float(logits[0, 1]) - 1.25, top),)


def test_greedy_computes_the_log_sum_exp_itself_when_none_is_given() -> None:
    assert choose_one([0.0, math.log(3.0)]).logprob == pytest.approx(math.log(0.75), abs=1e-6)


def test_greedy_does_not_use_the_raw_log_sum_exp_of_a_penalized_row() -> None:
    logits = np.array([[8.0, 2.0, 2.0]], dtype=np.float32)
    row = SamplingRow(SamplingParams(repetition_penalty=4.0), 0, [0])
    (choice,) = HostSampler().choose(logits, np.array([8.0], dtype=np.float32), [row])
    assert choice is not None
    assert choice.logprob == pytest.approx(math.log(1 / 3))


def test_greedy_leaves_temperature_and_truncation_aside() -> None:
    plain = choose_one([1.0, 2.0, 2.5], top_n_tokens=3)
    assert choose_one([1.0, 2.0, 2.5], top_n_tokens=3, temperature=0.1, top_k=1, top_p=0.1, typical_p=0.1) == plain


# Penalties


def test_the_repetition_penalty_counts_each_token_once_and_lowers_logits_of_both_signs() -> None:
    logits = np.array([2.0, -2.0, 0.0, 5.0], dtype=np.float32)
    result = penalized(logits, [0, 0, 1, 2], repetition_penalty=2.0, frequency_penalty=0.0)
    assert result.tolist() == [1.0, -4.0, 0.0, 5.0]


def test_the_frequency_penalty_is_in_proportion_to_the_share_of_the_history() -> None:
    logits = np.array([2.0, -2.0, 0.0, 5.0], dtype=np.float32)
    result = penalized(logits, [0, 0, 0, 1], repetition_penalty=1.0, frequency_penalty=2.0)
    assert result.tolist() == [0.5, -2.5, 0.0, 5.0]


def test_the_frequency_penalty_comes_after_the_repetition_penalty() -> None:
    result = penalized(np.array([4.0], dtype=np.float32), [0], repetition_penalty=2.0, frequency_penalty=1.0)
    assert result.tolist() == [1.0]


def test_penalties_of_an_empty_history_change_nothing() -> None:
    assert choose_one([1.0, 2.0], repetition_penalty=9.0, frequency_penalty=2.0) == choose_one([1.0, 2.0])


def test_masked_tokens_stay_masked_under_penalties() -> None:
    result = penalized(np.array([-np.inf, 1.0], dtype="f4"), [0], repetition_penalty=0.5, frequency_penalty=-2.0)
    assert result.tolist() == [-np.inf, 1.0]


@pytest.mark.parametrize("length", [5, 20_000])
def test_a_history_may_be_a_list_a_tuple_an_array_or_a_numpy_array_of_any_length(length: int) -> None:
    logits = np.linspace(-3, 3, 100, dtype=np.float32)
    history = [(7 * i * i) % 90 for i in range(length)]
    expected = logits.astype(np.float64)
    for token_id in set(history):
        logit = expected[token_id] * (2.0 if expected[token_id] < 0 else 0.5)
        expected[token_id] = logit - 1.5 * history.count(token_id) / length
    for form in (history, tuple(history), array.array("q", history), array.array("i", history), np.array(history)):
        result = penalized(logits, form, repetition_penalty=2.0, frequency_penalty=1.5)
        assert np.array_equal(result, expected.astype(np.float32))


# Truncation


@pytest.mark.parametrize(
    ("top_k", "ids"), [(1, [1]), (2, [0, 1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_top_k_keeps_all_that_equal_the_last_one(top_k: int, ids: list[int]) -> None:
    assert kept_ids(keep_top_k(candidates([2.0, 3.0, 1.0, 2.0]), top_k)) == ids


@pytest.mark.parametrize(
    ("top_p", "ids"), [(1e-9, [0]), (0.25, [0]), (0.26, [0, 1]), (0.5, [0, 1]), (0.51, [0, 1, 2]), (0.9, [0, 1, 2, 3])]
)
def test_top_p_keeps_no_more_of_equal_tokens_than_it_needs_and_smaller_ids_first(top_p: float, ids: list[int]) -> None:
    assert kept_ids(keep_top_p(candidates([1.0] * 4), top_p)) == ids


def test_top_p_takes_the_mass_of_what_top_k_has_left() -> None:
    # Of all tokens the first has 4/10, of the first two 4/7.
    logits = [math.log(4), math.log(3), math.log(2), math.log(1)]
    assert kept_ids(keep_top_p(candidates(logits), 0.5)) == [0, 1]
    assert kept_ids(keep_top_p(keep_top_k(candidates(logits), 2), 0.5)) == [0]


def test_typical_p_may_drop_the_most_likely_token() -> None:
    # Probabilities 0.5 and five of 0.1: the entropy, 1.5, is nearer to -log 0.5 = 0.7 than to -log 0.1 = 2.3 ...
    assert kept_ids(keep_typical_p(candidates([math.log(5)] + [0.0] * 5), 0.5)) == [0]
    # ... with 0.3 and seven of 0.1 it is 1.97, nearer to 2.3 than to 1.2.
    assert kept_ids(keep_typical_p(candidates([math.log(3)] + [0.0] * 7), 0.5)) == [1, 2, 3, 4, 5, 6, 7]


def test_typical_p_keeps_all_tokens_that_are_equally_typical() -> None:
    assert kept_ids(keep_typical_p(candidates([1.0] * 5), 0.1)) == [0, 1, 2, 3, 4]


def test_a_token_that_stands_alone_has_log_probability_0() -> None:
    assert choose_one([1.0, 2.0, 1.5], do_sample=True, top_k=1) == TokenChoice(1, 0.0)


# Drawing


def test_a_draw_follows_from_seed_and_token_index_alone() -> None:
    logits = [0.0] * 1000
    for index in range(20):
        choice = choose_one(logits, token_index=index, do_sample=True, seed=2**64 - 1)
        assert choice.token_id == int(uniform(2**64 - 1, index) * 1000)
        assert choice.logprob == pytest.approx(-math.log(1000))


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-3])
def test_a_vanishing_temperature_takes_the_largest_logit(temperature: float) -> None:
    for seed in range(5):
        choice = choose_one([0.0, 5.0, 4.99, -np.inf], do_sample=True, temperature=temperature, seed=seed)
        assert choice.token_id == 1
        assert choice.logprob == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("size", [4, 4000])
def test_an_endless_temperature_makes_all_tokens_equal_but_masked_ones(size: int) -> None:
    logits = [-np.inf, 5.0, -5.0, 9.0] + [-np.inf] * (size - 4)
    choices = [choose_one(logits, do_sample=True, temperature=1e300, top_p=0.99, seed=seed) for seed in range(30)]
    assert {choice.token_id for choice in choices} == {1, 2, 3}
    assert [choice.logprob for choice in choices] == pytest.approx([math.log(1 / 3)] * 30)


@pytest.mark.parametrize("size", [4, 4000])
def test_a_mask_of_the_most_negative_number_works_like_minus_infinity(size: int) -> None:
    logits = [float(np.finfo(np.float32).min)] * size
    logits[2] = 3.0
    choice = choose_one(logits, do_sample=True, temperature=0.5, top_p=0.9, typical_p=0.9)
    assert choice == TokenChoice(2, 0.0)


# Top tokens


def test_top_tokens_are_sorted_by_probability_and_then_by_id_and_are_exactly_as_many_as_asked_for() -> None:
    choice = choose_one([1.0, 2.0, 2.0, 0.0, 2.0], top_n_tokens=2)
    assert [entry.token_id for entry in choice.top] == [1, 2]
    assert choice.top[0].logprob == choice.top[1].logprob == choice.logprob


def test_top_tokens_leave_out_what_has_no_probability() -> None:
    assert len(choose_one([1.0, -np.inf, 0.0], top_n_tokens=3).top) == 2
    assert len(choose_one([1.0, 3.0, 0.0], do_sample=True, top_k=1, top_n_tokens=3).top) == 1


def test_top_tokens_are_of_the_distribution_after_truncation() -> None:
    choice = choose_one([0.0, 0.0, -1.0], do_sample=True, top_k=2, top_n_tokens=3)
    assert [entry.token_id for entry in choice.top] == [0, 1]
    assert [entry.logprob for entry in choice.top] == pytest.approx([math.log(0.5)] * 2)


# Rows


MIXED_PARAMS = [
    SamplingParams(top_n_tokens=3),
    SamplingParams(repetition_penalty=1.2, frequency_penalty=0.3),
    SamplingParams(do_sample=True, seed=5, temperature=0.7, top_n_tokens=5),
    SamplingParams(do_sample=True, seed=6, top_p=0.95),
    SamplingParams(do_sample=True, seed=7, top_k=50, top_p=0.9),
    SamplingParams(do_sample=True, seed=8, typical_p=0.9, temperature=1.2),
]


def mixed_rows(size: int) -> tuple[Row, list[SamplingRow]]:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (len(MIXED_PARAMS), size)).astype(np.float32)
    return logits, [SamplingRow(params, 4, list(range(50))) for params in MIXED_PARAMS]


@pytest.mark.parametrize("size", [997, 20_011])
def test_a_row_is_chosen_the_same_to_the_bit_whichever_rows_stand_beside_it(size: int) -> None:
    # An odd size puts the rows at all alignments in memory.
    logits, rows = mixed_rows(size)
    together = HostSampler().choose(logits, None, rows)
    alone = [HostSampler().choose(logits[i : i + 1].copy(), None, rows[i : i + 1])[0] for i in range(len(rows))]
    assert list(together) == alone
    assert list(HostSampler().choose(logits[::-1], None, rows[::-1])) == alone[::-1]


def test_rows_need_not_be_contiguous() -> None:
    logits, rows = mixed_rows(5003)
    assert HostSampler().choose(np.asfortranarray(logits), None, rows) == HostSampler().choose(logits, None, rows)


def test_read_only_logits_are_accepted_and_stay_as_they_are() -> None:
    logits, rows = mixed_rows(5003)
    before = logits.copy()
    logits.flags.writeable = False
    assert None not in HostSampler().choose(logits, None, rows)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [1.0, np.inf], [-np.inf, -np.inf], [-np.inf, np.nan]], ids=str)
def test_a_row_that_is_not_finite_has_no_choice_and_harms_no_other(bad: list[float]) -> None:
    for params in MIXED_PARAMS:
        row = SamplingRow(params, 0, [0, 1])
        logits = np.array([[1.0, 2.0], bad, [2.0, 1.0]], dtype=np.float32)
        first, failed, last = HostSampler().choose(logits, None, [row] * 3)
        assert failed is None
        assert (first, last) == HostSampler().choose(logits[[0, 2]], None, [row] * 2)
        assert first is not None


def test_a_penalty_that_drives_a_logit_out_of_range_fails_its_row_only() -> None:
    rows = [SamplingRow(SamplingParams(repetition_penalty=1e-40), 0, [0]), SamplingRow(SamplingParams(), 0, [0])]
    logits = np.array([[1.0, 2.0], [1.0, 2.0]], dtype=np.float32)
    failed, choice = HostSampler().choose(logits, None, rows)
    assert failed is None
    assert choice is not None


def test_no_rows_give_no_choices() -> None:
    assert HostSampler().choose(np.zeros((0, 8), dtype=np.float32), None, []) == ()
