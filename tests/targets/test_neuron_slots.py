"""What one slot does never changes another, and a program writes the rows of its tokens alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from neuron_helpers import GREEDY, decode, jax, limits, load, prompt

from ranvier.core import Chunk, PrefixShare, SamplingParams, SamplingRow, StepPlan
from ranvier.errors import OptionError
from ranvier.models import spec_of
from ranvier.targets.neuron import Buckets, NeuronOptions, NeuronPrograms, load_neuron
from ranvier.targets.neuron.buckets import Piece
from ranvier.targets.neuron.runtime import prompt_pieces
from tiny_families import IDS, VOCAB, config, reference

LENGTH = 96
PROMPTS = {slot: IDS[slot * 7 : slot * 7 + 12 + 9 * slot] for slot in range(4)}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> NeuronPrograms:
    buckets = Buckets(prefill=(32,), chunk=(32, 64), decode=(64, 96), score=32)
    return load(tmp_path_factory.mktemp("slots"), "mistral", buckets=buckets, served=limits(4, LENGTH))


def rows(programs: NeuronPrograms) -> list[np.ndarray[Any, Any]]:
    """Copies of every layer's keys and values `[S, K, C, E]`."""
    return [np.array(leaf) for leaf in jax.tree.leaves(programs._held["caches"])]


def changed(before: list[Any], after: list[Any]) -> set[tuple[int, int]]:
    """`(slot, position)` of the rows that differ in any layer."""
    differs = [np.any(old != new, axis=(1, 3)) for old, new in zip(before, after, strict=True)]
    return {(int(slot), int(position)) for slot, position in np.argwhere(np.any(differs, axis=0))}


def greedy_alone(programs: NeuronPrograms, slot: int, count: int) -> list[int]:
    ids = list(PROMPTS[slot])
    first = prompt(programs, slot, ids).choices[0]
    assert first is not None
    tokens = [first.token_id]
    for _ in range(count - 1):
        tokens.append(decode(programs, {slot: ids + tokens}, len(ids))[slot])
    return tokens


@pytest.mark.parametrize("subset", [s for n in range(1, 5) for s in itertools.combinations(range(4), n)])
def test_every_subset_of_slots_decodes_as_if_alone(programs: NeuronPrograms, subset: tuple[int, ...]) -> None:
    expected = {slot: greedy_alone(programs, slot, 6) for slot in range(4)}
    histories = {slot: list(ids) for slot, ids in PROMPTS.items()}
    for slot, ids in histories.items():
        first = prompt(programs, slot, ids).choices[0]
        assert first is not None
        ids.append(first.token_id)
    # The subset runs ahead while the others stand still, then the others follow.
    for slots in (subset, tuple(slot for slot in range(4) if slot not in subset)):
        for _ in range(5 if slots else 0):
            chunks = tuple(Chunk(slot, histories[slot][-1:], len(histories[slot]) - 1, True) for slot in slots)
            its_rows = tuple(SamplingRow(GREEDY, len(histories[s]) - len(PROMPTS[s]), histories[s]) for s in slots)
            for slot, choice in zip(slots, programs.run(StepPlan(chunks, (), its_rows)).choices, strict=True):
                assert choice is not None
                histories[slot].append(choice.token_id)
    assert {slot: ids[len(PROMPTS[slot]) :] for slot, ids in histories.items()} == expected


def test_a_prompt_writes_its_own_rows_and_no_padding(programs: NeuronPrograms) -> None:
    prompt(programs, 1, IDS[:60])
    before = rows(programs)
    prompt(programs, 1, IDS[20:41])
    assert changed(before, rows(programs)) == {(1, position) for position in range(21)}


def test_a_chunk_whose_bucket_reaches_beyond_the_cache_writes_its_own_rows_alone(programs: NeuronPrograms) -> None:
    ids = [*IDS, *IDS[:30]]
    (whole,) = prompt(programs, 1, ids[:92]).choices
    prompt(programs, 2, ids[:50])
    before = rows(programs)
    # 42 tokens take the bucket of 64, and 50 + 64 > 96.
    (choice,) = programs.run(StepPlan((Chunk(2, ids[50:92], 50, True),), (), (SamplingRow(GREEDY, 0, ids),))).choices
    assert changed(before, rows(programs)) == {(2, position) for position in range(50, 92)}
    assert choice is not None and whole is not None and choice.token_id == whole.token_id


def test_a_decode_writes_one_row_of_each_active_slot_and_the_last_of_the_parked(programs: NeuronPrograms) -> None:
    before = rows(programs)
    decode(programs, {0: IDS[:11], 3: IDS[:50]}, 5)
    written = changed(before, rows(programs))
    assert {(0, 10), (3, 49)} <= written
    assert written - {(0, 10), (3, 49)} <= {(1, LENGTH - 1), (2, LENGTH - 1)}


def test_sharing_copies_the_prefix_and_nothing_else(programs: NeuronPrograms) -> None:
    prompt(programs, 0, IDS[:64])
    prompt(programs, 3, IDS[:20])
    before = rows(programs)
    share = PrefixShare(0, 3, 32)
    programs.run(StepPlan((), (share, PrefixShare(1, 1, 32)), ()))
    after = rows(programs)
    assert {slot for slot, _ in changed(before, after)} <= {3}
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[3, :, :32], old[0, :, :32])
        np.testing.assert_array_equal(new[3, :, 32:], old[3, :, 32:])


def test_a_prompt_behind_a_shared_prefix_gets_the_token_of_the_whole_prompt(programs: NeuronPrograms) -> None:
    whole = prompt(programs, 0, IDS[:50]).choices
    row = SamplingRow(GREEDY, 0, IDS[:50])
    plan = StepPlan((Chunk(2, IDS[32:50], 32, True),), (PrefixShare(0, 2, 32),), (row,))
    shared = programs.run(plan).choices
    assert [c.token_id for c in shared if c] == [c.token_id for c in whole if c]


def test_the_last_position_of_the_cache_can_be_decoded(programs: NeuronPrograms) -> None:
    ids = [*IDS, *IDS[:32]]
    prompt(programs, 1, ids[:95])
    chunk = prompt(programs, 2, ids).choices[0]
    decode(programs, {0: IDS[:9]}, 4)
    assert chunk is not None
    assert decode(programs, {1: ids}, 90)[1] == chunk.token_id


@pytest.mark.parametrize("length", [64, 65, 66])
def test_a_decode_at_the_border_of_a_bucket_sees_its_own_token(programs: NeuronPrograms, length: int) -> None:
    ids = [*IDS, *IDS][:length]
    (whole,) = prompt(programs, 0, ids, SamplingParams(top_n_tokens=2)).choices
    prompt(programs, 1, ids[:-1])
    row = SamplingRow(SamplingParams(top_n_tokens=2), 1, ids)
    (decoded,) = programs.run(StepPlan((Chunk(1, ids[-1:], length - 1, True),), (), (row,))).choices
    assert whole is not None and decoded is not None
    assert decoded.token_id == whole.token_id
    assert [t.logprob for t in decoded.top] == pytest.approx([t.logprob for t in whole.top], abs=1e-4)


def test_counts_that_are_not_on_the_device_are_taken_from_the_history(programs: NeuronPrograms) -> None:
    params = SamplingParams(repetition_penalty=1.5, frequency_penalty=1.0, presence_penalty=-0.5)

    def second(first: SamplingParams) -> object:
        prompt(programs, 2, IDS[:20], first)
        row = SamplingRow(params, 1, IDS[:21])
        return programs.run(StepPlan((Chunk(2, IDS[20:21], 20, True),), (), (row,))).choices

    assert second(GREEDY) == second(params)


def test_what_is_not_finite_ends_with_its_request(programs: NeuronPrograms) -> None:
    expected = greedy_alone(programs, 1, 4)
    held = programs._held["weights"]
    table = held["embed"]
    held["embed"] = table.at[5].set(np.nan)
    result = prompt(programs, 1, [3, 5, 8, *IDS[:40]])
    held["embed"] = table
    assert result.choices == (None,)
    assert greedy_alone(programs, 1, 4) == expected


def test_padding_is_counted(programs: NeuronPrograms) -> None:
    assert prompt(programs, 0, IDS[:20]).num_padded_tokens == 12
    assert prompt(programs, 0, IDS[:40]).num_padded_tokens == 24
    chunk, row = Chunk(0, [1], 40, True), SamplingRow(GREEDY, 1, [*IDS[:40], 1])
    assert programs.run(StepPlan((chunk,), (), (row,))).num_padded_tokens == 3


def test_penalties_of_a_request_do_not_reach_the_next_in_its_slot(programs: NeuronPrograms) -> None:
    strong = SamplingParams(frequency_penalty=2.0, repetition_penalty=2.0)
    history = [*IDS[:12]]
    for number in range(4):
        params, start = strong, len(history) - 1
        chunk = Chunk(0, history, 0, True) if number == 0 else Chunk(0, history[-1:], start, True)
        (choice,) = programs.run(StepPlan((chunk,), (), (SamplingRow(params, number, history),))).choices
        assert choice is not None
        history.append(choice.token_id)
    fresh = SamplingParams(presence_penalty=1e-6)
    (choice,) = prompt(programs, 0, IDS[:12], fresh).choices
    (plain,) = prompt(programs, 0, IDS[:12]).choices
    assert choice is not None and plain is not None and choice.token_id == plain.token_id


def test_warming_up_runs_every_program_and_leaves_the_rows_alone(programs: NeuronPrograms) -> None:
    prompt(programs, 3, IDS[:64])
    before = rows(programs)
    programs.warm_up()
    written = changed(before, rows(programs))
    # Slot 0 is cleared; parked rows write at the end.
    assert {(slot, position) for slot, position in written if slot > 0 and position < LENGTH - 1} == set()
    programs.check()


def test_prompts_take_the_smallest_buckets_that_hold_them() -> None:
    buckets = Buckets(prefill=(32, 64), chunk=(32, 64), decode=(256,), score=16)

    def of(length: int, start: int = 0, scored: int = 0) -> list[tuple[str, Piece]]:
        return prompt_pieces(buckets, Chunk(0, [1] * length, start, True, [1] * scored))

    assert of(20) == [("prefill", Piece(0, 20, 32))]
    assert of(33) == [("prefill", Piece(0, 33, 64))]
    assert of(100) == [("prefill", Piece(0, 64, 64)), ("chunk", Piece(64, 36, 64))]
    assert of(70, start=32) == [("chunk", Piece(0, 64, 64)), ("chunk", Piece(64, 6, 32))]
    assert of(20, scored=19) == [("score", Piece(0, 16, 16)), ("score", Piece(16, 4, 16))]


def test_more_cores_than_there_are_devices_are_refused(tmp_path: Path) -> None:
    options = NeuronOptions(num_cores=len(jax.devices()) + 1)
    with pytest.raises(OptionError, match="`num_cores`"):
        load_neuron(spec_of(config("llama")), tmp_path / "none", limits(), options)


def test_more_top_tokens_than_the_programs_report_stop_the_step_before_it_begins(programs: NeuronPrograms) -> None:
    before = rows(programs)
    with pytest.raises(ValueError, match="`top_n_tokens` must be <= 2"):
        prompt(programs, 0, IDS[:9], SamplingParams(top_n_tokens=3))
    assert changed(before, rows(programs)) == set()


def test_greedy_tokens_are_those_of_the_reference(programs: NeuronPrograms) -> None:
    ids = IDS[:20]
    (choice,) = prompt(programs, 2, ids).choices
    assert choice is not None and choice.token_id < VOCAB
    tokens = [choice.token_id]
    while len(tokens) < 32:
        tokens.append(decode(programs, {2: ids + tokens}, 20)[2])
    assert tokens == reference("mistral").greedy
