"""The host sampler against a reference that takes no shortcut."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_reference import assert_is_right, reference_log_softmax

from ranvier.core import SamplingParams, SamplingRow
from ranvier.sampling import HostSampler

Row = npt.NDArray[np.float32]
FRACTIONS = st.one_of(st.sampled_from([1e-9, 1e-3, 0.25, 0.5, 0.75, 0.999, 1 - 1e-9, 1.0]), st.floats(1e-6, 1.0))
# Multiples of 2**-10: among logits that differ by less than float64 can tell, any typical token is as right as another.
LOGITS = st.one_of(
    st.integers(-6, 6).map(float),
    st.integers(-30 * 2**10, 30 * 2**10).map(lambda n: n / 2**10),
    st.sampled_from([-np.inf, -8e37, 0.0]),
)


@st.composite
def rows_of_logits(draw: st.DrawFn, max_size: int = 12) -> Row:
    logits = np.array(draw(st.lists(LOGITS, min_size=1, max_size=max_size)), dtype=np.float32)
    if not np.isfinite(logits).any():
        logits[draw(st.integers(0, len(logits) - 1))] = draw(st.integers(-6, 6))
    return logits


def sampling_params(size: int) -> st.SearchStrategy[SamplingParams]:
    return st.builds(
        SamplingParams,
        do_sample=st.booleans(),
        temperature=st.one_of(st.sampled_from([1e-3, 0.5, 0.7, 1.0, 100.0]), st.floats(1e-3, 100.0)),
        top_k=st.one_of(st.just(0), st.integers(1, size + 2)),
        top_p=FRACTIONS,
        typical_p=FRACTIONS,
        repetition_penalty=st.one_of(st.just(1.0), st.floats(0.25, 4.0)),
        frequency_penalty=st.one_of(st.just(0.0), st.floats(-2.0, 2.0)),
        presence_penalty=st.one_of(st.just(0.0), st.floats(-2.0, 2.0)),
        seed=st.integers(0, 2**64 - 1),
        top_n_tokens=st.integers(0, size + 1),
    )


@settings(max_examples=500, deadline=None)
@given(data=st.data(), logits=rows_of_logits())
def test_every_combination_of_parameters_is_right_on_a_small_vocabulary(data: st.DataObject, logits: Row) -> None:
    row = SamplingRow(
        data.draw(sampling_params(len(logits))),
        data.draw(st.integers(0, 2**40)),
        data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=6)),
    )
    (choice,) = HostSampler().choose(logits[None], None, [row])
    assert_is_right(choice, logits, row, slack=1e-9)


def language_model_like(rng: np.random.Generator, size: int) -> Row:
    """A bulk of unlikely tokens, and a head that falls off as a power law."""
    logits = rng.normal(-3.0, 2.0, size)
    logits[rng.permutation(size)[:1000]] = 14.0 - 1.3 * np.log(np.arange(1, 1001))
    return logits.astype(np.float32)


def in_bfloat16(logits: Row) -> Row:
    """Rounded to 8 bits of mantissa, which makes many ties."""
    rounded: Row = (logits.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


LARGE_ROWS = {
    "language model": lambda rng: language_model_like(rng, 50_000),
    "language model in bfloat16": lambda rng: in_bfloat16(language_model_like(rng, 50_000)),
    "flat": lambda rng: rng.normal(0.0, 1.5, 50_000).astype(np.float32),
    "sorted": lambda rng: np.sort(language_model_like(rng, 50_000)),
    "masked": lambda rng: np.where(rng.random(50_000) < 0.99, -np.inf, language_model_like(rng, 50_000)).astype("f4"),
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.7, "top_p": 0.95},
    {"top_p": 0.999},
    {"top_p": 1e-4},
    {"top_k": 50, "top_p": 0.95},
    {"top_k": 20_000, "top_p": 0.99},
    {"typical_p": 0.2},
    {"typical_p": 0.9},
    {"temperature": 1.3, "typical_p": 0.999},
    {"temperature": 0.8, "top_k": 3000, "top_p": 0.95, "typical_p": 0.9},
    {"temperature": 1e-3, "top_p": 0.9},
    {"temperature": 100.0, "top_p": 0.9, "typical_p": 0.9},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.5, "temperature": 0.9, "top_p": 0.9},
]


@pytest.mark.parametrize("settings_", SETTINGS, ids=str)
@pytest.mark.parametrize("make", LARGE_ROWS.values(), ids=LARGE_ROWS)
def test_sampling_from_a_large_vocabulary_is_right(make: Any, settings_: dict[str, Any]) -> None:
    rng = np.random.default_rng(len(str(settings_)))
    for seed in range(2):
        logits = make(rng)
        history = np.argsort(logits)[-200:].tolist() * 2 + [5, 6]
        row = SamplingRow(SamplingParams(do_sample=True, seed=seed, top_n_tokens=5, **settings_), seed, history)
        (choice,) = HostSampler().choose(logits[None], None, [row])
        assert_is_right(choice, logits, row, slack=2e-6)


@pytest.mark.parametrize("make", LARGE_ROWS.values(), ids=LARGE_ROWS)
def test_greedy_is_right_on_a_large_vocabulary_with_and_without_the_devices_log_sum_exp(make: Any) -> None:
    rng = np.random.default_rng(11)
    logits = make(rng)
    lse = np.array([logits.max() - reference_log_softmax(logits.astype(np.float64), 1.0).max()], dtype=np.float32)
    plain = SamplingRow(SamplingParams(top_n_tokens=5), 0, [])
    penalized = SamplingRow(SamplingParams(repetition_penalty=1.3, frequency_penalty=-1.0), 0, list(range(300)))
    for row in (plain, penalized):
        for given_lse in (None, lse):
            (choice,) = HostSampler().choose(logits[None], given_lse, [row])
            assert_is_right(choice, logits, row, slack=1e-6)


def test_the_draws_of_many_seeds_have_the_frequencies_of_the_distribution() -> None:
    logits = np.array([[2.0, 1.0, 0.0, -1.0, 1.5, -np.inf, 0.5, 1.0]], dtype=np.float32)
    for params in ({"temperature": 0.8}, {"top_k": 4}):
        rows = [SamplingRow(SamplingParams(do_sample=True, seed=seed, **params), 3, []) for seed in range(4000)]
        choices = HostSampler().choose(np.repeat(logits, len(rows), axis=0), None, rows)
        drawn = [choice.token_id for choice in choices if choice is not None]
        counts = np.bincount(drawn, minlength=8)
        kept = np.where(logits[0] >= 1.0, logits[0], -np.inf) if "top_k" in params else logits[0]
        expected = 4000 * np.exp(reference_log_softmax(kept.astype(np.float64), params.get("temperature", 1.0)))
        assert (counts[expected == 0] == 0).all()
        possible = expected > 0
        # 22.5 is the 0.999 quantile of chi-square with 6 degrees of freedom.
        assert ((counts - expected)[possible] ** 2 / expected[possible]).sum() < 22.5
