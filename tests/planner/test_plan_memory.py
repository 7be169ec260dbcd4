"""Memory of one core: a model worked by hand, and what must hold for any.

The small model has hidden 16, MLP 32, 2 layers, 4 heads and 2 KV heads of 4, vocabulary 64, its own head. On 2 cores a
core has 2 heads, 1 KV head, half the MLP (16) and half the vocabulary (32, since 64 is a whole number of blocks of 32
for each core):

    a layer's matrices   q 8*16 + k 4*16 + v 4*16 + o 16*8 + gate 16*16 + up 16*16 + down 16*16 = 1152, two layers 2304
    a layer's vectors    two norms of 16 = 32, two layers 64; the last norm 16; all float32
    table                embedding 32*16 = 512, the head as much again

    read in a decode     (2304 + 512) * 2 + (64 + 16) * 4 = 5952 bytes in bf16; stored: and the embedding, 1024 = 6976

Three slots of 100 tokens are held as 128 rows, for chunks have 32 tokens:

    rotary tables        128 rows * (cosines 4 + sines 4) * 4 bytes = 4096, on every core
    KV cache             2 (key, value) * 2 layers * 1 head * 4 wide * 2 bytes = 32 a token; * 3 * 128 = 12288
    counts               3 * 64 * 4 bytes = 768: whole rows, and 2 cores do not divide 3 slots
    logits               the larger of 4 copies of 3 rows and 2 copies of 128 scored rows: 256 * 64 * 4 = 65536
    scratch              128 tokens * (residual 2*16*6 + attention (2 + 2)*4*2 + MLP 2*16*2 + scores 2*128*6 = 1824)
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planned_models import LLAMA_31_8B, SMALL, spec
from ranvier.models import DecoderSpec
from ranvier.neuron_host import CastType
from ranvier.planner.buckets import plan_buckets
from ranvier.planner.memory import RESERVE_BYTES, CoreMemory, Shape, core_memory, host_memory
from ranvier.planner.sharding import even_core_counts, share_of, uneven_words

SHAPE = Shape(batch_size=3, sequence_length=100, largest_prefill=1024, cast_type="bf16")


def test_the_small_model_is_as_worked_by_hand() -> None:
    small = spec(SMALL)
    share = share_of(small, 2)
    assert (share.heads, share.kv_heads, share.intermediate, share.vocab) == (2, 1, 16, 32)
    assert (share.layer_matrices, share.layer_vectors, share.shared_vectors, share.table) == (2304, 64, 16, 512)
    assert (share.read_bytes("bf16"), share.stored_bytes("bf16")) == (5952, 6976)
    assert core_memory(small, share, SHAPE) == CoreMemory(
        weights=6976 + 4096, kv_cache=12288, counts=768, logits=65536, scratch=128 * 1824, reserve=RESERVE_BYTES
    )


def test_float32_doubles_matrices_and_cache_and_leaves_vectors() -> None:
    small = spec(SMALL)
    memory = core_memory(small, share_of(small, 2), replace(SHAPE, cast_type="fp32"))
    assert memory.weights == (2304 + 2 * 512) * 4 + (64 + 16) * 4 + 4096
    assert memory.kv_cache == 2 * 12288
    assert memory.counts == 768


def test_float16_is_as_large_as_bfloat16() -> None:
    small = spec(SMALL)
    sizes = {core_memory(small, share_of(small, 2), replace(SHAPE, cast_type=each)) for each in ("bf16", "fp16")}
    assert len(sizes) == 1


def test_a_tied_head_is_held_once() -> None:
    share = share_of(spec(SMALL, tie_word_embeddings=True), 2)
    assert share.stored_bytes("bf16") == share.read_bytes("bf16") == 5952


def test_kv_heads_fewer_than_cores_are_on_several_of_them() -> None:
    """On 4 cores each has 1 head and 1 of 2 KV heads: as much KV cache as on 2 cores, and k and v as large."""
    two, four = share_of(spec(SMALL), 2), share_of(spec(SMALL), 4)
    assert (four.heads, four.kv_heads) == (1, 1)
    assert four.layer_matrices == 2 * (4 * 16 + 4 * 16 + 4 * 16 + 16 * 4 + 3 * 16 * 8)
    memory = [core_memory(spec(SMALL), share, SHAPE).kv_cache for share in (two, four)]
    assert memory == [12288, 12288]


def test_what_cores_do_not_split_evenly_is_on_every_core() -> None:
    one, three = share_of(spec(SMALL), 1), share_of(spec(SMALL), 3)
    assert (three.heads, three.kv_heads, three.intermediate) == (one.heads, one.kv_heads, one.intermediate)
    assert three.vocab == 32
    assert uneven_words(spec(SMALL), 3) == "attention (4 heads, 2 KV heads) and the MLP (32 wide)"
    assert uneven_words(spec(SMALL), 4) == ""
    assert even_core_counts(spec(SMALL), 8) == (1, 2, 4)


def test_a_large_vocabulary_is_filled_up_to_blocks_of_512_for_each_core() -> None:
    assert share_of(spec(SMALL, vocab_size=10_000), 2).vocab == 5120


def test_learned_positions_are_a_table_on_every_core() -> None:
    gpt2 = spec({"model_type": "gpt2", "n_embd": 16, "n_head": 4, "n_layer": 1, "n_positions": 256, "vocab_size": 64})
    shares = [share_of(gpt2, count) for count in (1, 2)]
    tables = [core_memory(gpt2, share, SHAPE).weights - share.stored_bytes("bf16") for share in shares]
    assert tables == [4 * 128 * 16] * 2


def test_biases_follow_their_matrices_unless_they_follow_a_sum() -> None:
    """GPT-2: q, k, v and up are split by rows with their biases; those of o and down are whole on each core."""
    gpt2 = spec({"model_type": "gpt2", "n_embd": 16, "n_head": 4, "n_layer": 1, "n_positions": 256, "vocab_size": 64})
    split, whole, norms = 8 + 8 + 8 + 32, 16 + 16, 4 * 16
    assert share_of(gpt2, 2).layer_vectors == split + whole + norms


def test_an_8b_model_on_one_core_holds_its_parameters_once() -> None:
    llama = spec(LLAMA_31_8B)
    share = share_of(llama, 1)
    padding = 2 * (share.vocab - llama.vocab_size) * llama.hidden_size
    elements = share.layer_matrices + share.layer_vectors + share.shared_vectors + 2 * share.table
    assert elements - padding == llama.num_parameters == 8_030_261_248


def test_host_memory_follows_its_constants() -> None:
    """2 GiB for the rest; a shard of 6976 bytes; the compiler's 4 GiB and 1.5 shards; the largest tensor 64*16."""
    small, gib = spec(SMALL), 2**30
    host = host_memory(small, share_of(small, 2), "bf16")
    assert host.load == 2 * gib + 6976
    assert host.each_more == 4 * gib + 6976 * 3 // 2
    assert host.compile_one == 2 * gib + host.each_more
    assert host.export == 2 * gib + 3 * 4 * 64 * 16


def test_buckets_are_powers_of_two_and_long_prompts_go_in_pieces() -> None:
    buckets = plan_buckets(4000)
    assert buckets.prefill == (128, 256, 512, 1024)
    assert buckets.chunk == (128, 512)
    assert buckets.decode == (128, 256, 512, 1024, 2048, 4000)
    assert buckets.num_programs == 4 + 2 + 6 + 8
    short = plan_buckets(100)
    assert (short.prefill, short.chunk, short.decode) == ((128,), (128,), (128,))


def test_long_prefill_programs_cost_scratch_with_their_square() -> None:
    llama = spec(LLAMA_31_8B)
    shape = Shape(batch_size=1, sequence_length=8192, largest_prefill=1024, cast_type="bf16")
    pieces = core_memory(llama, share_of(llama, 2), shape)
    whole = core_memory(llama, share_of(llama, 2), replace(shape, largest_prefill=8192))
    assert whole.scratch > 6 * 2**30 > 12 * pieces.scratch


decoders = st.builds(
    lambda kv_heads, group, layers, inner, vocab, tied: spec(
        SMALL,
        hidden_size=16,
        head_dim=8,
        num_key_value_heads=kv_heads,
        num_attention_heads=kv_heads * group,
        num_hidden_layers=layers,
        intermediate_size=inner,
        vocab_size=vocab,
        tie_word_embeddings=tied,
    ),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([1, 2, 4, 5]),
    st.integers(1, 3),
    st.sampled_from([8, 24, 64, 120]),
    st.integers(1, 20_000),
    st.booleans(),
)
shapes = st.builds(
    Shape,
    batch_size=st.integers(1, 64),
    sequence_length=st.integers(2, 5000),
    largest_prefill=st.sampled_from([128, 1000, 1024, 4096]),
    cast_type=st.sampled_from(["bf16", "fp16", "fp32"]),
)


@given(decoders, shapes, st.integers(1, 16), st.integers(0, 8), st.integers(0, 2000), st.integers(0, 2000))
def test_more_slots_longer_sequences_and_longer_prefills_never_need_less(
    decoder: DecoderSpec, shape: Shape, cores: int, slots: int, tokens: int, prefill: int
) -> None:
    larger = replace(
        shape,
        batch_size=shape.batch_size + slots,
        sequence_length=shape.sequence_length + tokens,
        largest_prefill=shape.largest_prefill + prefill,
    )
    share = share_of(decoder, cores)
    before, after = core_memory(decoder, share, shape), core_memory(decoder, share, larger)
    for part in ("weights", "kv_cache", "counts", "logits", "scratch", "reserve", "total"):
        assert getattr(after, part) >= getattr(before, part)


@given(decoders, shapes)
def test_more_cores_that_split_evenly_never_need_more_weights_cache_or_scratch(
    decoder: DecoderSpec, shape: Shape
) -> None:
    """Logits and counts are whole rows on each core; their padding may grow by a few columns."""
    counts = even_core_counts(decoder, 64)
    memories = [core_memory(decoder, share_of(decoder, count), shape) for count in counts]
    for part in ("weights", "kv_cache", "scratch"):
        sizes = [getattr(memory, part) for memory in memories]
        assert sizes == sorted(sizes, reverse=True)


@given(decoders, st.sampled_from(["bf16", "fp32"]), st.integers(1, 32))
def test_the_cores_together_hold_every_weight(decoder: DecoderSpec, cast_type: CastType, cores: int) -> None:
    width = 2 if cast_type == "bf16" else 4
    assert share_of(decoder, cores).stored_bytes(cast_type) * cores >= decoder.num_parameters * width


@pytest.mark.parametrize("length", [2, 31, 32, 33, 128, 129, 1024, 1025, 100_000])
def test_the_last_decode_bucket_is_the_whole_cache(length: int) -> None:
    buckets = plan_buckets(length)
    assert buckets.decode[-1] == math.ceil(length / 32) * 32
    assert buckets.decode == tuple(sorted(set(buckets.decode)))
    assert set(buckets.chunk) <= set(buckets.prefill)
