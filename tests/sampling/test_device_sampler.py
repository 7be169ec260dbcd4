"""The sampler of the Neuron target against the host's and its reference: the same tokens and log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sampling_reference import assert_is_right

from quick_jax import jax
from ranvier.core import SamplingParams, SamplingRow, TokenChoice, TokenLogprob
from ranvier.sampling import HostSampler
from ranvier.targets.neuron.sampling import choose, log_probabilities, packed_mask, packed_rows
from ranvier.targets.neuron.sampling.cutoffs import first_reaching
from ranvier.targets.neuron.sampling.penalties import counts_of, with_output

Row = npt.NDArray[np.float32]
Size = tuple[int, int, int]
"""Vocabulary, columns, block."""
Sampler = Callable[[Row, list[SamplingRow]], list[TokenChoice | None]]

NUM_ROWS, NUM_TOP = 16, 4
SLACK = 4e-6
"""What is left of an interval after bisection, and float32 sums over a vocabulary."""
SIZES: dict[str, Size] = {"small": (90, 96, 32), "one block": (12, 32, 32), "large": (50_000, 50_176, 512)}


@pytest.fixture(scope="module")
def samplers() -> Callable[[str], Sampler]:
    """The compiled sampler of each size."""
    made: dict[str, Sampler] = {}

    def of(name: str) -> Sampler:
        if name not in made:
            made[name] = device_sampler(SIZES[name])
        return made[name]

    return of


def device_sampler(size: Size) -> Sampler:
    vocab_size, num_columns, block = size

    def run(logits: Any, ints: Any, reals: Any, counts: Any, mask: Any) -> Any:
        fixed = {"vocab_size": vocab_size, "block": block, "num_top": NUM_TOP}
        return choose(logits, ints=ints, reals=reals, counts_SV=counts, mask_SW=mask, **fixed)

    jitted = jax.jit(run)

    def sample(logits: Row, rows: list[SamplingRow]) -> list[TokenChoice | None]:
        # Columns beyond the vocabulary, and rows that nobody asked for, hold what must never be chosen.
        wide = np.full((NUM_ROWS, num_columns), 50.0, np.float32)
        wide[: len(rows), :vocab_size] = logits
        counts = np.zeros((NUM_ROWS, num_columns), np.float32)
        for index, row in enumerate(rows):
            counts[index] = counts_of(row.history, row.token_index, num_columns)
        pairs = list(enumerate(rows))
        found = jitted(wide, *packed_rows(pairs, NUM_ROWS), counts, packed_mask(pairs, NUM_ROWS, num_columns // 32))
        ids, logprobs = np.asarray(found.ids).tolist(), np.asarray(found.logprobs).tolist()
        return [as_choice(ids[i], logprobs[i], row.params.top_n_tokens) for i, row in enumerate(rows)]

    return sample


def as_choice(ids: list[int], logprobs: list[float], num_top: int) -> TokenChoice | None:
    top = [TokenLogprob(*entry) for entry in zip(ids, logprobs, strict=True) if entry[0] >= 0][1 : num_top + 1]
    return None if ids[0] < 0 else TokenChoice(ids[0], logprobs[0], tuple(top))


def masked(logits: Row, allowed: bytes | None) -> Row:
    if allowed is None:
        return logits
    bits = np.unpackbits(np.frombuffer(allowed, np.uint8), bitorder="little", count=logits.size)
    return np.where(bits == 1, logits, np.float32(-np.inf)).astype(np.float32)


def check(sampler: Sampler, logits: Row, rows: list[SamplingRow]) -> int:
    """Hold the device's choices to the reference and to the host's; how many tokens were others than the host's."""
    num_others = 0
    host = HostSampler().choose(logits, None, rows)
    for values, row, found, expected in zip(logits, rows, sampler(logits, rows), host, strict=True):
        assert_is_right(found, masked(values, row.allowed), row, SLACK)
        assert found is not None and expected is not None
        if found.token_id == expected.token_id and len(found.top) == len(expected.top):
            assert found.logprob == pytest.approx(expected.logprob, abs=1e-4, rel=1e-5)
            assert [t.token_id for t in found.top] == [t.token_id for t in expected.top]
        num_others += found.token_id != expected.token_id
    return num_others


def drawn_params(random: np.random.Generator, size: int) -> SamplingParams:
    fractions = [1.0, 1.0, 1e-3, 0.25, 0.5, 0.75, 0.9, 0.999, random.uniform(1e-6, 1.0)]
    return SamplingParams(
        do_sample=bool(random.random() < 0.8),
        temperature=random.choice([1e-3, 0.5, 0.7, 1.0, 1.0, 100.0, random.uniform(0.05, 3.0)]),
        top_k=int(random.choice([0, 0, 1, 2, random.integers(1, size + 3)])),
        top_p=float(random.choice(fractions)),
        typical_p=float(random.choice(fractions)),
        repetition_penalty=float(random.choice([1.0, 1.3, 0.6, random.uniform(0.25, 4.0)])),
        frequency_penalty=float(random.choice([0.0, 0.5, random.uniform(-2.0, 2.0)])),
        presence_penalty=float(random.choice([0.0, 0.5, random.uniform(-2.0, 2.0)])),
        seed=int(random.integers(2**63)),
        top_n_tokens=int(random.integers(NUM_TOP + 1)),
    )


def drawn_logits(random: np.random.Generator, size: int) -> Row:
    """Whole numbers, which tie; multiples of 2**-10; and a few that are impossible."""
    kinds = [random.integers(-6, 7, size), random.integers(-(2**14), 2**14, size) / 2**10, np.zeros(size)]
    logits = kinds[random.integers(3)].astype(np.float32)
    logits[random.random(size) < random.choice([0.0, 0.0, 0.5])] = -np.inf
    logits[random.integers(size)] = random.integers(-6, 7)
    return logits


def drawn_row(random: np.random.Generator, size: int) -> SamplingRow:
    history = random.integers(0, size, random.integers(1, 20)).tolist()
    return SamplingRow(drawn_params(random, size), int(random.integers(len(history) + 1)), history)


@pytest.mark.parametrize("size", ["small", "one block"])
def test_every_combination_of_parameters_is_right(samplers: Callable[[str], Sampler], size: str) -> None:
    random = np.random.default_rng(1)
    vocab_size = SIZES[size][0]
    num_others = 0
    for _ in range(60):
        logits = np.stack([drawn_logits(random, vocab_size) for _ in range(NUM_ROWS)])
        num_others += check(samplers(size), logits, [drawn_row(random, vocab_size) for _ in range(NUM_ROWS)])
    # Draws that fall onto an edge within the slack are rare.
    assert num_others <= 3


def test_masks_and_penalties_are_right_together(samplers: Callable[[str], Sampler]) -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        logits = random.normal(0.0, 3.0, (NUM_ROWS, 90)).astype(np.float32)
        rows = []
        for _ in range(NUM_ROWS):
            row = drawn_row(random, 90)
            allowed = random.integers(0, 256, random.choice([12, 12, 6]), np.uint8)
            allowed[2] |= 1
            rows.append(SamplingRow(row.params, row.token_index, row.history, allowed.tobytes()))
        check(samplers("small"), logits, rows)


def language_model_like(random: np.random.Generator, size: int) -> Row:
    """A bulk of unlikely tokens, and a head that falls off as a power law."""
    logits = random.normal(-3.0, 2.0, size)
    logits[random.permutation(size)[:1000]] = 14.0 - 1.3 * np.log(np.arange(1, 1001))
    return logits.astype(np.float32)


def in_bfloat16(logits: Row) -> Row:
    rounded: Row = (logits.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


LARGE_SETTINGS: list[dict[str, Any]] = [
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
    {"do_sample": False},
    {"do_sample": False, "repetition_penalty": 1.3, "presence_penalty": 0.7},
]


@pytest.mark.parametrize("kind", ["language model", "bfloat16", "flat"])
def test_sampling_from_a_large_vocabulary_is_right(samplers: Callable[[str], Sampler], kind: str) -> None:
    random = np.random.default_rng(3)
    size = SIZES["large"][0]
    make: dict[str, Callable[[], Row]] = {
        "language model": lambda: language_model_like(random, size),
        "bfloat16": lambda: in_bfloat16(language_model_like(random, size)),
        "flat": lambda: random.normal(0.0, 1.5, size).astype(np.float32),
    }
    logits = np.stack([make[kind]() for _ in LARGE_SETTINGS])
    rows = [
        SamplingRow(
            SamplingParams(**({"do_sample": True, "seed": number, "top_n_tokens": 4} | settings)),
            number,
            np.argsort(values)[-200:].tolist() * 2 + [5, 6],
        )
        for number, (settings, values) in enumerate(zip(LARGE_SETTINGS, logits, strict=True))
    ]
    assert check(samplers("large"), logits, rows) <= 1


def test_no_token_is_chosen_where_none_can_be(samplers: Callable[[str], Sampler]) -> None:
    good = np.linspace(-1.0, 1.0, 90, dtype=np.float32)
    logits = np.stack([good] * 6)
    logits[0, 3], logits[1, 4], logits[2, :] = np.nan, np.inf, -np.inf
    logits[4, 89] = np.nan
    plain, other = SamplingParams(), SamplingParams(do_sample=True, top_p=0.9, seed=3)
    masks = [None, None, None, b"", b"\xff" * 4, None]
    rows = [SamplingRow(params, 0, [1], mask) for params, mask in zip([plain, other] * 3, masks, strict=True)]
    found = samplers("small")(logits, rows)
    host = HostSampler().choose(logits, None, rows)
    assert [choice is None for choice in found] == [choice is None for choice in host]
    assert [choice is None for choice in found] == [True, True, True, True, False, False]


def test_a_row_does_not_depend_on_its_company(samplers: Callable[[str], Sampler]) -> None:
    random = np.random.default_rng(5)
    logits = random.normal(0.0, 3.0, (NUM_ROWS, 90)).astype(np.float32)
    rows = [drawn_row(random, 90) for _ in range(NUM_ROWS)]
    together = samplers("small")(logits, rows)
    for index in range(NUM_ROWS):
        assert samplers("small")(logits[index : index + 1], rows[index : index + 1]) == [together[index]]


def test_the_greedy_variant_chooses_as_the_full_one_does(samplers: Callable[[str], Sampler]) -> None:
    random = np.random.default_rng(6)
    logits = np.stack([drawn_logits(random, 96) for _ in range(NUM_ROWS)])
    logits[3, 7] = np.nan
    rows = [SamplingRow(SamplingParams(top_n_tokens=NUM_TOP), 0, [1])] * NUM_ROWS
    found = jax.jit(lambda values: choose(values, vocab_size=90, num_top=NUM_TOP, block=32))(logits)
    ids, logprobs = np.asarray(found.ids).tolist(), np.asarray(found.logprobs).tolist()
    for each, *entry in zip(samplers("small")(logits[:, :90], rows), ids, logprobs, strict=True):
        choice = as_choice(*entry, NUM_TOP)
        assert (choice is None) == (each is None)
        assert choice is None or each is None or choice.token_id == each.token_id
        assert choice is None or each is None or choice.logprob == pytest.approx(each.logprob, abs=1e-5)


def test_a_running_sum_reaches_its_target_where_it_does_in_exact_arithmetic() -> None:
    random = np.random.default_rng(7)
    # Sixteenths: sums are exact in float32.
    weights = (random.integers(0, 9, (64, 96)) * (random.random((64, 96)) < 0.3) / 16).astype(np.float32)
    weights[:, 50] = 1.0
    totals = weights.sum(axis=1)
    for is_strict in (True, False):
        targets = np.floor(random.random(64) * totals * 16).astype(np.float32) / 16
        targets[0], targets[1] = totals[0], 0.0
        found = np.asarray(first_reaching(weights, targets[:, None], 32, is_strict=is_strict))[:, 0]
        for row, target, index in zip(weights, targets, found.tolist(), strict=True):
            running = np.cumsum(row)
            reaches = (running > target if is_strict else running >= target) & (row > 0)
            assert index == (np.flatnonzero(reaches)[0] if reaches.any() else np.flatnonzero(row)[-1])


def test_counts_follow_a_request_token_by_token() -> None:
    random = np.random.default_rng(8)
    prompts = [random.integers(0, 20, 30).tolist() for _ in range(3)]
    counts = jax.numpy.stack([counts_of(ids, 0, 32) for ids in prompts])
    for number in range(1, 12):
        tokens = random.integers(0, 20, 3)
        is_active = np.array([True, number % 3 != 0, False])
        counts = with_output(counts, tokens.astype(np.int32), is_active)
        for ids, token, active in zip(prompts, tokens.tolist(), is_active.tolist(), strict=True):
            ids += [token] if active else []
    for row, ids in zip(np.asarray(counts), prompts, strict=True):
        np.testing.assert_array_equal(row, counts_of(ids, len(ids) - 30, 32))


def test_prompt_scores_are_log_probabilities_of_the_vocabulary_alone() -> None:
    random = np.random.default_rng(9)
    logits = random.normal(0.0, 3.0, (5, 96)).astype(np.float32)
    ids = random.integers(0, 90, 5).astype(np.int32)
    real = logits[:, :90].astype(np.float64)
    expected = real[np.arange(5), ids] - np.log(np.exp(real).sum(axis=1))
    np.testing.assert_allclose(log_probabilities(logits, ids, 90), expected, atol=1e-5)
