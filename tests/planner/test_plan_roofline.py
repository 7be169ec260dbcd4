"""Upper bounds on speed: the small model of `test_plan_memory` by hand, and what must hold for any.

One core of an inf2.xlarge has 410 GiB/s and 95e12 operations/s. Three rows over 128 rows of cache on 2 cores:

    bytes        5952 of weights + 3 * 128 * 32 of KV cache = 18240, in 41.4 ns
    operations   3 * (2 * (2304 + 512) + 4 * 2 layers * 2 heads * 4 wide * 128) = 41472, in 0.4 ns

A prompt of 128 tokens, which see each other: 128 * (2 * 2304 + 8192) + 2 * 512 = 1639424 operations, in 17.3 ns, more
than the 13.5 ns of its 5952 bytes.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planned_models import LLAMA_31_8B, SMALL, spec
from ranvier.neuron_host import CHIPS, GIB, INFERENTIA2, TRAINIUM2, CastType, Chip
from ranvier.planner import Roofline
from ranvier.planner.buckets import plan_buckets
from ranvier.planner.sharding import even_core_counts

EIGHT_B = spec(LLAMA_31_8B)


def roofline(cores: int, cast_type: CastType = "bf16", chip: Chip = INFERENTIA2, lnc: int | None = None) -> Roofline:
    return Roofline(spec=EIGHT_B, chip=chip, lnc=lnc or chip.default_lnc, num_cores=cores, cast_type=cast_type)


def small(cores: int) -> Roofline:
    return Roofline(spec=spec(SMALL), chip=INFERENTIA2, lnc=1, num_cores=cores, cast_type="bf16")


def test_a_decode_is_as_worked_by_hand() -> None:
    bound = small(2).decode(batch_size=3, context=128)
    assert bound.limit == "memory"
    assert bound.seconds == pytest.approx(18240 / (410 * GIB))
    assert small(2).tokens_per_second(3, 128) == pytest.approx(3 * 410 * GIB / 18240)


def test_a_prefill_is_as_worked_by_hand() -> None:
    bound = small(2).prefill(128)
    assert bound.limit == "compute"
    assert bound.seconds == pytest.approx(1639424 / 95e12)


def test_a_chunk_sees_the_whole_slot_and_reads_its_cache() -> None:
    """512 rows of 32 bytes beside the weights; attention over 512 rows is 4 * 2 * 2 * 4 * 512 = 32768 a token."""
    bound = small(2).prefill(1, context=512)
    assert bound.seconds == pytest.approx((5952 + 512 * 32) / (410 * GIB))
    many = small(2).prefill(512, context=512)
    assert many.seconds == pytest.approx((512 * (2 * 2304 + 32768) + 1024) / 95e12)


def test_a_long_prompt_is_a_prefill_and_chunks() -> None:
    """1024, then 512s and the rest in the smallest bucket that holds it: 1024 + 512 + 512 + 128."""
    bounds, buckets = roofline(2), plan_buckets(4096)
    calls, seconds = bounds.first_token(2100, buckets)
    assert calls == 4
    pieces = [bounds.prefill(1024), bounds.prefill(512, 4096), bounds.prefill(512, 4096), bounds.prefill(128, 4096)]
    assert seconds == pytest.approx(sum(piece.seconds for piece in pieces))
    assert bounds.first_token(100, buckets) == (1, bounds.prefill(128).seconds)


def test_an_8b_model_on_one_inferentia2_chip_has_the_known_bound() -> None:
    """820 GiB/s over about 14 GiB read a step (15 GiB less the embedding): between 54 and 60 steps a second."""
    assert 54 < roofline(2).tokens_per_second(1, 128) < 60


def test_float32_reads_twice_and_computes_at_a_quarter() -> None:
    assert roofline(2, "fp32").decode(1, 128).seconds == pytest.approx(2 * roofline(2).decode(1, 128).seconds, rel=1e-3)
    assert roofline(2, "fp32").prefill(1024).seconds == pytest.approx(4 * roofline(2).prefill(1024).seconds)
    assert roofline(2, "fp16").prefill(1024) == roofline(2).prefill(1024)


def test_a_whole_chip_is_as_fast_in_either_logical_configuration_but_for_replicated_weights() -> None:
    by_two = roofline(4, chip=TRAINIUM2, lnc=2).tokens_per_second(8, 1024)
    by_one = roofline(8, chip=TRAINIUM2, lnc=1).tokens_per_second(8, 1024)
    assert by_two * 0.99 < by_one < by_two


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: str(chip.name))
def test_the_cores_of_a_chip_share_it_whole(chip: Chip) -> None:
    for lnc in chip.lncs:
        count = chip.num_cores(lnc)
        assert count * lnc == chip.physical_cores
        assert count * chip.core_memory(lnc) == chip.memory_bytes
        assert count * chip.core_bandwidth(lnc) == pytest.approx(chip.bandwidth)
        assert count * chip.core_flops("bf16", lnc) == pytest.approx(chip.bf16_flops)
        assert chip.core_flops("fp32", lnc) < chip.core_flops("fp16", lnc) == chip.core_flops("bf16", lnc)


@given(
    st.integers(1, 256),
    st.integers(1, 8192),
    st.sampled_from(CHIPS),
    st.sampled_from(["bf16", "fp32"]),
)
def test_more_cores_are_never_slower(batch: int, context: int, chip: Chip, cast_type: CastType) -> None:
    counts = even_core_counts(EIGHT_B, 64)
    speeds = [roofline(count, cast_type, chip).tokens_per_second(batch, context) for count in counts]
    assert speeds == sorted(speeds)
    prefills = [roofline(count, cast_type, chip).prefill(context).seconds for count in counts]
    assert prefills == sorted(prefills, reverse=True)


@given(st.integers(1, 255), st.integers(1, 8191), st.integers(1, 64))
def test_more_rows_are_never_slower_together_and_never_faster_each(batch: int, context: int, more: int) -> None:
    bounds = roofline(2)
    assert bounds.decode(batch + more, context).seconds >= bounds.decode(batch, context).seconds
    assert bounds.decode(batch, context + more).seconds >= bounds.decode(batch, context).seconds
    together = bounds.tokens_per_second(batch + more, context)
    assert together >= bounds.tokens_per_second(batch, context) * (1 - 1e-9)


@given(st.integers(1, 20_000), st.integers(1, 100))
def test_a_longer_prompt_never_has_its_first_token_earlier(length: int, more: int) -> None:
    bounds, buckets = roofline(2), plan_buckets(32_768)
    assert bounds.first_token(length + more, buckets)[1] >= bounds.first_token(length, buckets)[1] * (1 - 1e-9)
