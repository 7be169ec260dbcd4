from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.core import SamplingParams, SamplingRow, TokenChoice
from ranvier.sampling import HostSampler
from ranvier.sampling.masks import masked


def choose(logits: list[float], allowed: bytes | None, **params: float) -> TokenChoice | None:
    row = SamplingRow(SamplingParams(**params), 0, [0], allowed)  # type: ignore[arg-type]
    return HostSampler().choose(np.array([logits], np.float32), np.array([9.0], np.float32), [row])[0]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 40))
def test_a_token_stays_where_its_bit_is_set_and_the_mask_reaches(bits: list[bool], vocab_size: int) -> None:
    allowed = bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))
    kept = masked(np.ones(vocab_size, np.float32), allowed) > 0
    assert kept.tolist() == (bits + [False] * vocab_size)[:vocab_size]


def test_greedy_takes_the_best_allowed_token_and_counts_only_the_allowed_mass() -> None:
    choice = choose([5.0, 1.0, 1.0, 4.0], b"\x06")
    assert choice is not None
    assert (choice.token_id, choice.logprob) == (1, pytest.approx(-np.log(2)))


def test_top_tokens_leave_out_what_is_not_allowed() -> None:
    choice = choose([5.0, 1.0, 0.5, 4.0], b"\x06", top_n_tokens=4)
    assert choice is not None
    assert [item.token_id for item in choice.top] == [1, 2]


def test_a_sampled_token_is_always_allowed() -> None:
    for seed in range(50):
        choice = choose([5.0, 1.0, 0.5, 4.0], b"\x06", do_sample=True, temperature=3.0, seed=seed)
        assert choice is not None and choice.token_id in (1, 2)


def test_the_mask_comes_after_the_penalties() -> None:
    choice = choose([2.0, 1.5, 9.0], b"\x03", repetition_penalty=4.0)
    assert choice is not None and choice.token_id == 1


@pytest.mark.parametrize("allowed", [b"", b"\x00"])
def test_a_mask_that_leaves_nothing_gives_no_choice(allowed: bytes) -> None:
    assert choose([1.0, 2.0], allowed) is None
    assert choose([1.0, 2.0], allowed, do_sample=True) is None


def test_the_mask_leaves_the_logits_alone() -> None:
    logits = np.ones(4, np.float32)
    logits.flags.writeable = False
    masked(logits, b"\x01")
    assert logits.tolist() == [1, 1, 1, 1]
