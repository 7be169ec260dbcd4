"""What the programs ask of an artifact: which call, which rows at which positions, and what is never asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from ranvier.core import ALL_PARAMETERS, Chunk, PrefixShare, SamplingParams, SamplingRow, StepPlan
from ranvier.errors import ArtifactError
from ranvier.targets.nxd import NxdPrograms, NxdShape, capabilities_of, shape_of

GREEDY = SamplingParams()
VOCAB = 50
SHAPE = NxdShape(batch_size=3, sequence_length=32, max_context_length=16, vocab_size=VOCAB)
ON_DEVICE = replace(SHAPE, on_device_sampling=True, max_topk=8)
CHUNKED = replace(SHAPE, prefill_chunk_size=4)
CHUNKED_ON_DEVICE = replace(CHUNKED, on_device_sampling=True, max_topk=8)


@dataclass
class Recorder:
    """Notes each call; behind the token t the most likely one is t + 1, then t + 2, then the smallest ids."""

    shape: NxdShape
    calls: list[dict[str, Any]] = field(default_factory=list)
    details: Mapping[str, str] = field(default_factory=lambda: {"made_by": "a test"})
    is_released: bool = False

    def forward(self, input_ids: Any, position_ids: Any, seq_ids: Any, sampling_params: Any) -> Any:
        last = self._note("forward", input_ids, position_ids, seq_ids, sampling_params)
        return (last + 1).astype(np.int32) if self.shape.on_device_sampling else self._logits(last)

    def prefill_chunk(self, input_ids: Any, position_ids: Any, seq_ids: Any, sampling_params: Any) -> Any:
        return self._logits(self._note("chunk", input_ids, position_ids, seq_ids, sampling_params))

    def _note(self, kind: str, ids: Any, positions: Any, slots: Any, sampling: Any) -> Any:
        assert [each.dtype for each in (ids, positions, slots, sampling)] == [np.int32] * 3 + [np.float32]
        assert positions.shape == ids.shape and slots.shape == (len(ids),) and sampling.shape == (len(ids), 3)
        named = {"ids": ids, "positions": positions, "slots": slots, "sampling": sampling}
        self.calls.append({"kind": kind} | {name: each.tolist() for name, each in named.items()})
        return ids[:, -1]

    def _logits(self, last: Any) -> Any:
        logits = np.tile(np.arange(VOCAB + 6, dtype=np.float32) / -100, (len(last), 1, 1))
        for row, token in enumerate(last.tolist()):
            logits[row, 0, [(token + 1) % VOCAB, (token + 2) % VOCAB]] = 9, 8
        # What is held beyond the vocabulary is never chosen.
        logits[:, :, VOCAB:] = 99
        return logits

    def release(self) -> None:
        self.is_released = True

    def taken(self) -> Iterator[dict[str, Any]]:
        calls, self.calls = self.calls, []
        return iter(calls)


def started(shape: NxdShape = SHAPE) -> tuple[NxdPrograms, Recorder]:
    model = Recorder(shape)
    return NxdPrograms(model), model


def run(programs: NxdPrograms, *parts: tuple[Chunk, SamplingRow | None]) -> list[int]:
    rows = tuple(row for _, row in parts if row is not None)
    choices = programs.run(StepPlan(tuple(chunk for chunk, _ in parts), (), rows)).choices
    return [choice.token_id for choice in choices if choice is not None]


def piece(slot: int, ids: list[int], start: int = 0, params: SamplingParams = GREEDY, **row: Any) -> Any:
    return Chunk(slot, ids, start, True), SamplingRow(params, 0, ids, **row)


def silent(slot: int, ids: list[int], start: int = 0) -> tuple[Chunk, None]:
    return Chunk(slot, ids, start, False), None


def test_each_prompt_is_a_call_of_its_own_in_its_slot() -> None:
    programs, model = started()
    assert run(programs, piece(2, [5, 6, 7]), piece(0, [8, 9])) == [8, 10]
    first, second = model.taken()
    assert first == {
        "kind": "forward",
        "ids": [[5, 6, 7]],
        "positions": [[0, 1, 2]],
        "slots": [2],
        "sampling": [[1.0, 1.0, 1.0]],
    }
    assert (second["ids"], second["positions"], second["slots"]) == ([[8, 9]], [[0, 1]], [0])


def test_a_decode_has_all_rows_in_slot_order_and_parks_the_others_at_their_own_next_positions() -> None:
    programs, model = started()
    run(programs, piece(1, [1, 2, 3, 4, 5]), piece(2, [6, 7]))
    model.taken()
    assert run(programs, piece(2, [8], 2)) == [9]
    (call,) = model.taken()
    assert call["slots"] == [0, 1, 2]
    assert call["ids"] == [[0], [0], [8]]
    assert call["positions"] == [[0], [5], [2]]
    assert call["sampling"] == [[1.0, 1.0, 1.0]] * 3
    assert run(programs, piece(2, [9], 3), piece(1, [6], 5)) == [10, 7]
    (call,) = model.taken()
    assert (call["ids"], call["positions"]) == ([[0], [6], [9]], [[0], [5], [3]])
    assert run(programs, piece(1, [7], 6)) == [8]
    (call,) = model.taken()
    assert call["positions"] == [[0], [6], [4]]


def test_a_prompt_of_one_token_is_a_row_of_the_decode_graph_at_position_0() -> None:
    programs, model = started()
    run(programs, piece(0, [1, 2, 3]))
    model.taken()
    # The prompt that comes in the same step goes first, and is parked behind its end.
    assert run(programs, piece(1, [20]), piece(2, [4, 5])) == [21, 6]
    prompt, single = model.taken()
    assert prompt["ids"] == [[4, 5]]
    assert (single["ids"], single["positions"]) == ([[0], [20], [0]], [[3], [0], [2]])


def test_a_slot_that_starts_anew_is_parked_behind_its_new_request() -> None:
    programs, model = started()
    run(programs, piece(0, [1, 2, 3, 4, 5, 6]))
    run(programs, piece(0, [7, 8]), piece(1, [9, 10]))
    model.taken()
    run(programs, piece(1, [11], 2))
    (call,) = model.taken()
    assert call["positions"] == [[2], [2], [0]]


def test_a_full_slot_is_parked_within_the_cache() -> None:
    programs, model = started(CHUNKED)
    run(programs, piece(0, list(range(32))))
    run(programs, piece(1, [3]))
    assert [call["positions"] for call in model.taken()][-1] == [[31], [0], [0]]


def test_a_long_prompt_is_cut_into_chunks_and_the_last_one_filled_with_its_last_token() -> None:
    programs, model = started(CHUNKED)
    assert run(programs, piece(1, [1, 2, 3, 4, 5, 6])) == [7]
    first, second = model.taken()
    assert (first["kind"], first["ids"], first["positions"], first["slots"]) == (
        "chunk",
        [[1, 2, 3, 4]],
        [[0, 1, 2, 3]],
        [1],
    )
    assert (second["ids"], second["positions"]) == ([[5, 6, 6, 6]], [[4, 5, 5, 5]])


def test_between_the_chunks_of_a_prompt_its_slot_is_parked_where_the_next_chunk_starts() -> None:
    programs, model = started(CHUNKED)
    run(programs, piece(0, [1, 2]), silent(1, [5, 6, 7, 8]))
    assert run(programs, piece(0, [3], 2)) == [4]
    assert run(programs, piece(1, [9, 10], 4)) == [11]
    *_, decode, chunk = model.taken()
    assert decode["positions"] == [[2], [4], [0]]
    assert (chunk["ids"], chunk["positions"]) == ([[9, 10, 10, 10]], [[4, 5, 5, 5]])


def test_a_last_chunk_of_one_token_is_a_row_of_the_decode_graph() -> None:
    programs, model = started(CHUNKED)
    run(programs, silent(0, [1, 2, 3, 4]))
    assert run(programs, piece(0, [5], 4)) == [6]
    _, last = model.taken()
    assert (last["kind"], last["ids"], last["positions"]) == ("forward", [[5], [0], [0]], [[4], [0], [0]])


@pytest.mark.parametrize(
    ("shape", "chunk", "text"),
    [
        (SHAPE, Chunk(0, list(range(17)), 0, True), "at most 16 tokens .`max_context_length`.. Given: 17 tokens"),
        (SHAPE, Chunk(0, [1, 2], 3, True), "a prompt must come whole"),
        (CHUNKED, Chunk(0, list(range(33)), 0, True), "position 32 of slot 0 is beyond `sequence_length` 32"),
        (SHAPE, Chunk(3, [1, 2], 0, True), "slot 3 is not among the 3 rows"),
        (CHUNKED, Chunk(0, [1, 2], 4, True), "slot 0 goes on at 3, not at 4"),
        (SHAPE, Chunk(0, [1], 2, True), "slot 0 goes on at 3, not at 2"),
        (SHAPE, Chunk(0, [1, 2], 0, True, (2,)), "neither prompt scores nor adapters"),
        (SHAPE, Chunk(0, [1, 2], 0, True, (), 1), "neither prompt scores nor adapters"),
    ],
)
def test_what_the_library_would_do_wrong_is_refused_before_any_call(shape: NxdShape, chunk: Chunk, text: str) -> None:
    programs, model = started(shape)
    run(programs, piece(0, [7, 8, 9]))
    model.taken()
    with pytest.raises(ValueError, match=text):
        run(programs, piece(1, [1, 2]), (chunk, SamplingRow(GREEDY, 0, ())))
    assert model.calls == []


def test_a_decode_never_reaches_the_end_of_the_cache() -> None:
    programs, model = started()
    run(programs, piece(0, list(range(16))))
    for position in range(16, 32):
        run(programs, piece(0, [1], position))
    model.taken()
    with pytest.raises(ValueError, match="position 32 of slot 0 is beyond `sequence_length` 32"):
        run(programs, piece(0, [1], 32))
    assert model.calls == []


def test_a_shared_prefix_is_refused() -> None:
    programs, model = started()
    with pytest.raises(ValueError, match="no shared prefixes"):
        programs.run(StepPlan((), (PrefixShare(0, 1, 2),), ()))
    assert model.calls == []


def test_with_logits_on_the_host_every_parameter_is_served() -> None:
    programs, model = started()
    allowed = bytes(7)[:6] + bytes([1])
    penalty = SamplingParams(repetition_penalty=100.0)
    top = SamplingParams(top_n_tokens=2)
    never_first = SamplingParams(do_sample=True, top_k=2, seed=3, temperature=1e4)
    parts = (piece(0, [5, 6], allowed=allowed), piece(1, [7, 8], params=top), piece(2, [9, 8], params=penalty))
    choices = programs.run(StepPlan(tuple(c for c, _ in parts), (), tuple(r for _, r in parts))).choices
    masked, with_top, penalized = choices
    assert masked is not None and with_top is not None and penalized is not None
    assert masked.token_id == 48 and masked.logprob == 0.0
    assert [entry.token_id for entry in with_top.top] == [9, 10]
    assert with_top.top[0].logprob == with_top.logprob < -0.3
    # 9 is the likeliest behind 8, and in the prompt.
    assert penalized.token_id == 10
    drawn = {run(programs, piece(0, [1, 2], params=replace(never_first, seed=seed)))[0] for seed in range(20)}
    assert drawn == {3, 4}
    assert {tuple(row) for call in model.taken() for row in call["sampling"]} == {(1.0, 1.0, 1.0)}


def test_a_row_without_a_number_has_no_choice() -> None:
    programs, model = started()
    nothing = bytes(6)
    parts = piece(0, [1, 2], allowed=nothing)
    assert programs.run(StepPlan((parts[0],), (), (parts[1],))).choices == (None,)
    on_device, device = started(ON_DEVICE)
    device.forward = lambda *call: np.array([VOCAB], np.int32)  # type: ignore[method-assign]  # a broken device
    parts = piece(0, [1, 2])
    assert on_device.run(StepPlan((parts[0],), (), (parts[1],))).choices == (None,)
    assert len(model.calls) == 1


def test_a_device_that_samples_gets_each_rows_parameters_and_its_tokens_are_taken() -> None:
    programs, model = started(ON_DEVICE)
    sampled = SamplingParams(do_sample=True, top_k=5, top_p=0.5, temperature=0.25, seed=1)
    whole = SamplingParams(do_sample=True, temperature=2.0)
    assert run(programs, piece(0, [1, 2], params=sampled), piece(2, [3, 4])) == [3, 5]
    assert [call["sampling"] for call in model.taken()] == [[[5.0, 0.5, 0.25]], [[1.0, 1.0, 1.0]]]
    assert run(programs, piece(2, [5], 2, whole), piece(0, [3], 2, sampled)) == [6, 4]
    (call,) = model.taken()
    assert call["sampling"] == [[5.0, 0.5, 0.25], [1.0, 1.0, 1.0], [8.0, 1.0, 2.0]]


def test_numbers_too_small_for_the_device_stay_above_zero() -> None:
    programs, model = started(ON_DEVICE)
    run(programs, piece(0, [1, 2], params=SamplingParams(do_sample=True, top_p=1e-60, temperature=1e-50)))
    (call,) = model.taken()
    assert all(value > 0 and math.isfinite(value) for value in call["sampling"][0])


def test_behind_chunks_a_device_that_samples_leaves_the_first_token_to_the_host() -> None:
    programs, model = started(CHUNKED_ON_DEVICE)
    wide = SamplingParams(do_sample=True, temperature=1e6, seed=0)
    drawn = {run(programs, piece(0, [1, 2, 3, 4, 5], params=replace(wide, seed=seed)))[0] for seed in range(200)}
    # Eight candidates are all that the device has.
    assert drawn == {6, 7, 0, 1, 2, 3, 4, 5}
    model.taken()
    assert run(programs, piece(0, [7], 5)) == [8]
    (call,) = model.taken()
    assert call["kind"] == "forward"


@pytest.mark.parametrize(
    ("params", "allowed", "text"),
    [
        (SamplingParams(typical_p=0.5), None, "`typical_p` needs logits on the host"),
        (SamplingParams(repetition_penalty=1.5), None, "`repetition_penalty` needs logits"),
        (SamplingParams(frequency_penalty=0.5), None, "`frequency_penalty` needs logits"),
        (SamplingParams(presence_penalty=0.5), None, "`presence_penalty` needs logits"),
        (SamplingParams(top_n_tokens=1), None, "`top_n_tokens` needs logits"),
        (GREEDY, b"\xff", "`grammar` needs logits"),
        (SamplingParams(do_sample=True, top_k=9), None, "`top_k` must be <= 8.* Given: 9"),
    ],
)
def test_what_a_device_that_samples_cannot_do_is_refused_before_any_call(
    params: SamplingParams, allowed: bytes | None, text: str
) -> None:
    programs, model = started(ON_DEVICE)
    with pytest.raises(ValueError, match=text):
        run(programs, piece(0, [1, 2]), piece(1, [1, 2], params=params, allowed=allowed))
    assert model.calls == []


def test_host_logits_serve_all_but_the_scores_of_prompts() -> None:
    capabilities = capabilities_of(SHAPE)
    assert ALL_PARAMETERS - capabilities.parameters == {"decoder_input_details"}
    assert (capabilities.mixed_steps, capabilities.chunk_multiple, capabilities.prefix_sharing) == (False, 0, False)
    assert capabilities.max_top_n_tokens > VOCAB and capabilities.max_top_k > VOCAB
    assert capabilities.adapters == ()


def test_a_device_that_samples_serves_temperature_top_k_and_top_p_alone() -> None:
    capabilities = NxdPrograms(Recorder(ON_DEVICE)).capabilities
    assert capabilities.parameters == {"temperature", "top_k", "top_p"}
    assert (capabilities.max_top_k, capabilities.max_top_n_tokens) == (8, 0)


def test_prompts_are_cut_only_where_there_is_a_graph_for_chunks() -> None:
    assert capabilities_of(CHUNKED).chunk_multiple == 4
    assert CHUNKED.max_prompt == 31 and SHAPE.max_prompt == 16
    assert replace(SHAPE, max_context_length=32).limits().max_input_tokens == 31
    assert SHAPE.limits().max_batch_prefill_tokens == 16
    assert SHAPE.limits(max_batch_prefill_tokens=64).max_batch_prefill_tokens == 64


def test_padding_is_counted() -> None:
    programs, _ = started()
    parts = [piece(0, [1, 2, 3]), piece(1, [4])]
    result = programs.run(StepPlan(tuple(c for c, _ in parts), (), tuple(r for _, r in parts)))
    assert result.num_padded_tokens == 13 + 2
    chunked, _ = started(CHUNKED)
    chunk, row = piece(0, [1, 2, 3, 4, 5, 6])
    assert chunked.run(StepPlan((chunk,), (), (row,))).num_padded_tokens == 2


@pytest.mark.parametrize(("shape", "kinds"), [(SHAPE, ["forward"] * 2), (CHUNKED, ["chunk", "forward"])])
def test_warming_up_runs_each_graph_and_leaves_every_slot_empty(shape: NxdShape, kinds: list[str]) -> None:
    programs, model = started(shape)
    programs.warm_up()
    assert [call["kind"] for call in model.taken()] == kinds
    run(programs, piece(1, [1]))
    (call,) = model.taken()
    assert call["positions"] == [[0], [0], [0]]


def test_details_say_how_the_artifact_was_exported_and_releasing_lets_go_of_the_model() -> None:
    programs, model = started(ON_DEVICE)
    assert programs.details == {
        "sampling": "device",
        "max_context_length": "16",
        "prefill_chunk_size": "0",
        "num_cores": "1",
        "made_by": "a test",
    }
    programs.release()
    assert model.is_released


CONFIG = {"batch_size": 4, "sequence_length": 64, "continuous_batching": True, "_serialized_key": "NxDNeuronConfig"}


def test_a_shape_is_read_with_the_librarys_defaults() -> None:
    assert shape_of({}, VOCAB) == NxdShape(
        batch_size=1, sequence_length=128, max_context_length=128, continuous_batching=False, vocab_size=VOCAB
    )
    given = CONFIG | {"max_context_length": 32, "tp_degree": 2, "on_device_sampling": True, "max_topk": 16}
    assert shape_of(given | {"max_batch_size": None, "prefill_chunk_size": 16}, VOCAB) == NxdShape(
        batch_size=4,
        sequence_length=64,
        max_context_length=32,
        tp_degree=2,
        on_device_sampling=True,
        max_topk=16,
        prefill_chunk_size=16,
        vocab_size=VOCAB,
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"_serialized_key": "NxDVLMNeuronConfig"}, "`_serialized_key` is 'NxDVLMNeuronConfig'"),
        ({"speculation_length": 4}, "`speculation_length` > 0"),
        ({"output_logits": True}, "`output_logits`"),
        ({"max_batch_size": 8}, "`max_batch_size` must be `batch_size`"),
        ({"continuous_batching": False}, "needs `continuous_batching`"),
        ({"max_context_length": 65}, "`max_context_length` must be > 1 and <= `sequence_length`"),
        ({"sequence_length": 1}, "`max_context_length` must be > 1"),
        ({"batch_size": "4"}, "`batch_size` must be a whole number >= 1. Given: '4'"),
        ({"batch_size": True}, "`batch_size` must be a whole number"),
        ({"tp_degree": 0}, "`tp_degree` must be a whole number >= 1"),
        ({"prefill_chunk_size": -1}, "`prefill_chunk_size` must be a whole number >= 0"),
        ({"on_device_sampling": 1}, "`on_device_sampling` must be true or false"),
    ],
)
def test_an_artifact_that_cannot_be_driven_is_refused_by_its_field(changes: dict[str, object], text: str) -> None:
    assert shape_of(CONFIG, VOCAB).batch_size == 4
    with pytest.raises(ArtifactError, match=text):
        shape_of(CONFIG | changes, VOCAB)
