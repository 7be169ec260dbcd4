"""The stand-in does what optimum-neuron does, harm included: each rule of its wrappers and of its KV cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nxd_helpers import fake, greedy, ints, prefill, shape, step

from ranvier.neuron_host.acquire import acquire, looks_busy
from ranvier.targets.nxd import CoreRegistry, FakeNxdModel
from tiny_families import IDS, VOCAB, reference

LENGTH, WIDTH = 64, 48
A, B = IDS[:10], IDS[20:33]
CLOSE = {"rtol": 0.0, "atol": 1e-4}

Make = Callable[..., FakeNxdModel]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("fake")
    return lambda cores=None, **changes: fake(folder, shape(**changes), cores)


def changed(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> set[tuple[int, int]]:
    """`(slot, position)` of the KV rows that differ in any layer."""
    return {(int(s), int(p)) for s, p in np.argwhere((before != after).any(axis=(0, 2, 4)))}


def slot_rows(slot: int, first: int, last: int) -> set[tuple[int, int]]:
    return {(slot, position) for position in range(first, last + 1)}


def test_prefill_and_full_row_decode_give_the_logits_of_the_reference(make: Make) -> None:
    model, expected = make(), reference("llama").logits
    logits = prefill(model, 2, IDS[:20])
    assert logits.shape == (1, 1, VOCAB) and logits.dtype == np.float32
    np.testing.assert_allclose(logits[0, 0], expected[19], **CLOSE)
    for position in range(20, 24):
        rows = {0: (0, 0), 1: (0, 0), 2: (IDS[position], position), 3: (0, 0)}
        np.testing.assert_allclose(step(model, rows)[2, 0], expected[position], **CLOSE)


def test_a_prefill_writes_the_whole_block_of_its_slot_padding_included(make: Make) -> None:
    model = make()
    before = model.kv_rows()
    prefill(model, 1, A)
    assert changed(before, model.kv_rows()) == slot_rows(1, 0, WIDTH - 1)


def test_prompts_may_be_padded_by_the_caller_with_smaller_positions_behind_them(make: Make) -> None:
    model = make()
    alone = prefill(model, 0, A)
    for fill in (0, 1):
        padded = model.forward(ints(A + [0] * 6), ints([*range(len(A)), *[fill] * 6]), np.array([0]), greedy(1))
        np.testing.assert_allclose(padded, alone, **CLOSE)


def test_several_prompts_go_through_the_graph_of_one_row_one_after_the_other(make: Make) -> None:
    model, alone = make(), make()
    short = B[: len(A)]
    positions = list(range(len(A)))
    both = model.forward(ints(A, short), ints(positions, positions), np.array([3, 1]), greedy(2))
    np.testing.assert_allclose(both, np.concatenate([prefill(alone, 3, A), prefill(alone, 1, short)]), **CLOSE)
    np.testing.assert_array_equal(model.kv_rows(), alone.kv_rows())


def test_a_prompt_longer_than_the_context_graph_is_cut_off_at_the_end_without_a_word(make: Make) -> None:
    model = make()
    np.testing.assert_array_equal(prefill(model, 0, IDS[:60]), prefill(model, 0, IDS[:WIDTH]))


def test_left_padding_gives_wrong_logits(make: Make) -> None:
    model = make()
    right = prefill(model, 0, A)
    left = model.forward(ints([0] * 5 + A), ints([0] * 5 + list(range(len(A)))), np.array([0]), greedy(1))
    assert np.abs(left - right).max() > 0.05


def test_a_prompt_of_one_token_goes_through_the_decode_graph(make: Make) -> None:
    model = make()
    logits = step(model, dict.fromkeys(range(4), (IDS[0], 0)))
    for row in logits:
        np.testing.assert_allclose(row[0], reference("llama").logits[0], **CLOSE)


def test_a_decode_writes_one_row_in_every_slot(make: Make) -> None:
    model = make()
    before = model.kv_rows()
    step(model, {0: (5, 0), 1: (6, 10), 2: (7, 20), 3: (8, LENGTH - 1)})
    assert changed(before, model.kv_rows()) == {(0, 0), (1, 10), (2, 20), (3, LENGTH - 1)}


def test_rows_are_sorted_by_slot_and_results_come_back_in_the_order_of_the_call(make: Make) -> None:
    model = make()
    for slot, ids in enumerate((A, B, A, B)):
        prefill(model, slot, ids)
    rows = {3: (9, len(B)), 0: (7, len(A)), 2: (5, len(A)), 1: (3, len(B))}
    shuffled, ordered = step(model, rows), step(model, dict(sorted(rows.items())))
    for index, slot in enumerate(rows):
        np.testing.assert_array_equal(shuffled[index], ordered[slot])


def test_the_trap_a_decode_of_some_slots_writes_the_first_rows_token_into_all_others(make: Make) -> None:
    model = make()
    prefill(model, 0, A)
    prefill(model, 1, B)
    before = model.kv_rows()
    step(model, {0: (9, len(A))})
    assert changed(before, model.kv_rows()) == {(slot, len(A)) for slot in range(4)}


def test_the_trap_changes_what_another_slot_says(make: Make) -> None:
    spoiled, safe = make(), make()
    for model in (spoiled, safe):
        prefill(model, 0, A)
        prefill(model, 1, B)
    # Slot 1 holds 13 rows; the lone decode of slot 0 at position 10 falls into them.
    step(spoiled, {0: (9, len(A))})
    step(safe, {0: (9, len(A)), 1: (0, len(B)), 2: (0, 0), 3: (0, 0)})
    rows = {0: (4, len(A) + 1), 1: (7, len(B)), 2: (0, 0), 3: (0, 0)}
    wrong, right = step(spoiled, rows), step(safe, rows)
    expected = make()
    np.testing.assert_allclose(right[1], prefill(expected, 1, [*B, 7])[0], **CLOSE)
    assert np.abs(wrong[1] - right[1]).max() > 0.01
    np.testing.assert_allclose(wrong[0], right[0], **CLOSE)


def test_a_row_parked_at_position_0_destroys_the_prompt_there(make: Make) -> None:
    model = make()
    prefill(model, 1, B)
    step(model, {0: (0, 0), 1: (0, 0), 2: (0, 0), 3: (0, 0)})
    parked = step(model, {0: (0, 0), 1: (7, len(B)), 2: (0, 0), 3: (0, 0)})
    assert np.abs(parked[1] - prefill(make(), 1, [*B, 7])[0]).max() > 0.01


@pytest.mark.parametrize("position", [LENGTH, LENGTH + 5, -1])
def test_a_position_outside_the_cache_is_an_error_of_the_runtime(make: Make, position: int) -> None:
    with pytest.raises(RuntimeError, match="NRT_EXEC_OOB"):
        step(make(), dict.fromkeys(range(4), (0, position)))


def test_shapes_that_no_graph_has_are_refused(make: Make) -> None:
    model = make()
    with pytest.raises(ValueError, match="exceeds the maximum batch size 4"):
        model.forward(ints(*[[1]] * 5), ints(*[[1]] * 5), np.arange(5), greedy(5))
    with pytest.raises(ValueError, match=r"no graph for input shape \(1, 2\)"):
        model.forward(ints([1, 2]), ints([5, 6]), np.array([0]), greedy(1))
    with pytest.raises(ValueError, match="no graph for input shapes"):
        model.forward(ints([1, 2]), ints([0, 1]), np.array([0]), np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="seq_ids must lie within 0 … 3"):
        prefill(model, 4, A)
    with pytest.raises(ValueError, match="not compiled for chunked prefill"):
        model.prefill_chunk(ints(A), ints(list(range(10))), np.array([0]), greedy(1))


def test_chunks_of_a_prompt_give_the_logits_of_the_whole(make: Make) -> None:
    model = make(prefill_chunk_size=16)
    for begin in range(0, 48, 16):
        positions = list(range(begin, begin + 16))
        logits = model.prefill_chunk(ints(IDS[begin : begin + 16]), ints(positions), np.array([2]), greedy(1))
        assert logits.shape == (1, 1, VOCAB)
        np.testing.assert_allclose(logits[0, 0], reference("llama").logits[begin + 15], **CLOSE)


def test_a_short_chunk_is_filled_with_its_last_token_and_writes_nothing_more(make: Make) -> None:
    model = make(prefill_chunk_size=16)
    before = model.kv_rows()
    short = model.prefill_chunk(ints(IDS[:5]), ints(list(range(5))), np.array([0]), greedy(1))
    assert changed(before, model.kv_rows()) == slot_rows(0, 0, 4)
    np.testing.assert_allclose(short[0, 0], reference("llama").logits[4], **CLOSE)
    filled = [min(index, 4) for index in range(16)]
    again = model.prefill_chunk(ints([IDS[index] for index in filled]), ints(filled), np.array([0]), greedy(1))
    np.testing.assert_array_equal(again, short)


def test_a_chunk_may_end_with_the_cache_and_not_behind_it(make: Make) -> None:
    model = make(prefill_chunk_size=16)
    before = model.kv_rows()
    model.prefill_chunk(ints(IDS[:5]), ints(list(range(LENGTH - 5, LENGTH))), np.array([3]), greedy(1))
    assert changed(before, model.kv_rows()) == slot_rows(3, LENGTH - 5, LENGTH - 1)
    with pytest.raises(RuntimeError, match="NRT_EXEC_OOB"):
        model.prefill_chunk(ints(IDS[:5]), ints(list(range(LENGTH - 4, LENGTH + 1))), np.array([3]), greedy(1))


def test_a_model_with_chunks_has_no_context_graph(make: Make) -> None:
    model = make(prefill_chunk_size=16)
    with pytest.raises(ValueError, match="call prefill_chunk instead"):
        prefill(model, 0, A)
    with pytest.raises(ValueError, match=r"only \[1, 16\]"):
        model.prefill_chunk(ints(IDS[:17]), ints(list(range(17))), np.array([0]), greedy(1))
    with pytest.raises(ValueError, match="must count up"):
        model.prefill_chunk(ints([1, 2, 3]), ints([0, 2, 4]), np.array([0]), greedy(1))


def test_a_decode_between_two_chunks_that_leaves_the_slot_out_changes_the_last_logits(make: Make) -> None:
    def last_logits(rows: dict[int, tuple[int, int]]) -> Any:
        model = make(prefill_chunk_size=16)
        model.prefill_chunk(ints(IDS[:16]), ints(list(range(16))), np.array([1]), greedy(1))
        step(model, rows)
        return model.prefill_chunk(ints(IDS[16:32]), ints(list(range(16, 32))), np.array([1]), greedy(1))[0, 0]

    parked = last_logits({0: (9, 7), 1: (0, 16), 2: (0, 0), 3: (0, 0)})
    np.testing.assert_allclose(parked, reference("llama").logits[31], **CLOSE)
    assert np.abs(last_logits({0: (9, 7)}) - parked).max() > 0.01


def test_with_sampling_on_the_device_tokens_come_back(make: Make) -> None:
    model = make(on_device_sampling=True)
    tokens = prefill(model, 0, IDS[:20])
    assert tokens.shape == (1,) and np.issubdtype(tokens.dtype, np.integer)
    assert tokens[0] == reference("llama").greedy[0]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ((0, 1, 1), "top-k"),
        ((257, 1, 1), "top-k"),
        ((2.5, 1, 1), "top-k"),
        ((1, 0, 1), "top-p"),
        ((1, 1.1, 1), "top-p"),
        ((1, 1, 0), "temperature"),
    ],
)
def test_sampling_parameters_are_checked_where_the_device_samples_and_only_there(
    make: Make, row: tuple[float, float, float], text: str
) -> None:
    call = (ints(A), ints(list(range(10))), np.array([0]), np.array([row], np.float32))
    with pytest.raises(ValueError, match=f"Invalid {text} values"):
        make(on_device_sampling=True).forward(*call)
    assert make().forward(*call).shape == (1, 1, VOCAB)


def test_the_device_draws_from_its_top_k_and_top_p_alone(make: Make) -> None:
    logits_V = prefill(make(), 0, A)[0, 0].astype(np.float64)
    order = np.argsort(-logits_V)
    model = make(on_device_sampling=True, max_topk=8)

    def drawn(*row: float) -> set[int]:
        call = (ints(A), ints(list(range(10))), np.array([0]), np.array([row], np.float32))
        return {int(model.forward(*call)[0]) for _ in range(60)}

    assert drawn(3, 1.0, 50.0) == set(order[:3].tolist())
    assert drawn(-1, 1.0, 1000.0) == set(order[:8].tolist())
    assert drawn(8, 0.01, 1.0) == {int(order[0])}
    # Eight candidates that are nearly alike: 0.3 of their mass is three of them.
    assert drawn(8, 0.3, 1000.0) == set(order[:3].tolist())


def test_cores_belong_to_one_model_until_it_is_released(make: Make) -> None:
    cores = CoreRegistry(4)
    first = make(cores, tp_degree=2)
    with pytest.raises(RuntimeError, match="already in use") as caught:
        make(cores, tp_degree=2)
    assert looks_busy(caught.value)
    first.release()
    make(cores, tp_degree=4)


def test_more_cores_than_the_host_has_are_not_given(make: Make) -> None:
    with pytest.raises(RuntimeError, match="does not exist") as caught:
        make(CoreRegistry(2), tp_degree=4)
    assert not looks_busy(caught.value)


def test_a_start_that_fails_on_request_works_when_it_is_tried_again(make: Make) -> None:
    cores, pauses = CoreRegistry(2, num_failures=2), list[float]()
    model = acquire(lambda: make(cores, tp_degree=2), "0-1", holders=lambda: (), pause=pauses.append)
    assert pauses == [1.0, 2.0]
    np.testing.assert_allclose(prefill(model, 0, IDS[:20])[0, 0], reference("llama").logits[19], **CLOSE)
