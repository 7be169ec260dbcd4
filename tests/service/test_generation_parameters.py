"""TGI's rules for parameters: each text, their order, what the engine is given in the end.

Limits: 64 tokens a slot, prompts up to 32; the service's defaults allow best_of 2, 4 stop strings, 5 top tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.core import Limits, SamplingParams
from ranvier.errors import ValidationError
from ranvier.service import GenerateParameters, Grammar, ServiceLimits
from ranvier.service.parameters import (
    check_best_of,
    check_capabilities,
    check_prompt,
    check_streamable,
    check_values,
    settle_max_new_tokens,
    to_sampling,
)
from serving import CAPABILITIES, LIMITS

OPERATOR = ServiceLimits()


def parameters(**values: Any) -> GenerateParameters:
    return GenerateParameters(**values)


VALUE_RULES: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": -0.5}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.01}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ("a", "b", "c", "d", "e")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"seed": 0, "best_of": 2, "do_sample": True}, "`seed` must not be set when `best_of` > 1"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
]
IMPLIES_SAMPLING = {"temperature", "top_p", "typical_p", "top_k", "do_sample"}


@pytest.mark.parametrize(("values", "text"), VALUE_RULES)
def test_a_value_outside_its_limits_is_refused_with_the_rule(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        check_values(parameters(**values), OPERATOR)
    assert str(caught.value) == text


@given(st.sets(st.sampled_from(range(len(VALUE_RULES))), min_size=1))
def test_of_several_mistakes_the_first_in_tgis_order_is_told(broken: set[int]) -> None:
    values: dict[str, Any] = {}
    for number in broken:
        values |= VALUE_RULES[number][0]
    # Sampling that another mistake asks for makes `best_of` alone right.
    wrong = broken - {0} if IMPLIES_SAMPLING & values.keys() else broken | ({0} if "best_of" in values else set())
    if {"seed", "best_of"} <= values.keys():
        wrong = wrong | {9}
    with pytest.raises(ValidationError) as caught:
        check_values(parameters(**values), OPERATOR)
    assert str(caught.value) == VALUE_RULES[min(wrong)][1]


@pytest.mark.parametrize(
    "values",
    [
        {"best_of": 0},
        {"best_of": 1, "seed": 3},
        {"temperature": 1e-9},
        {"frequency_penalty": -2.0},
        {"frequency_penalty": 2.0},
        {"top_p": 0.999999},
        {"typical_p": 1e-6},
        {"top_k": 2**31 - 1},
        {"max_new_tokens": 1},
        {"stop": ("a", "b", "c", "d")},
        {"top_n_tokens": 5},
        {"top_n_tokens": 0},
        *({"best_of": 2, name: value} for name, value in {"do_sample": True, "temperature": 1.0, "top_k": 5}.items()),
        *({"best_of": 2, name: 0.5} for name in ("top_p", "typical_p")),
    ],
)
def test_values_at_their_limits_are_accepted(values: dict[str, Any]) -> None:
    check_values(parameters(**values), OPERATOR)


@pytest.mark.parametrize("name", ["temperature", "repetition_penalty", "frequency_penalty", "top_p", "typical_p"])
def test_not_a_number_is_outside_every_limit(name: str) -> None:
    with pytest.raises(ValidationError):
        check_values(parameters(**{name: float("nan")}), OPERATOR)


@pytest.mark.parametrize("best_of", [0, 2, 7])
def test_a_stream_has_one_sequence(best_of: int) -> None:
    with pytest.raises(ValidationError) as caught:
        check_streamable(parameters(best_of=best_of, decoder_input_details=True))
    assert str(caught.value) == "`best_of` != 1 is not supported when streaming tokens"


def test_a_stream_has_no_prefill_details() -> None:
    with pytest.raises(ValidationError) as caught:
        check_streamable(parameters(best_of=1, decoder_input_details=True))
    assert str(caught.value) == "`decoder_input_details` == true is not supported when streaming tokens"
    check_streamable(parameters(best_of=1))
    check_streamable(parameters())


def test_best_of_is_bounded_by_the_operator() -> None:
    with pytest.raises(ValidationError) as caught:
        check_best_of(parameters(best_of=3), OPERATOR)
    assert str(caught.value) == "`best_of` must be > 0 and <= 2. Given: 3"
    with pytest.raises(ValidationError) as caught:
        check_best_of(parameters(best_of=2), ServiceLimits(max_best_of=1))
    assert str(caught.value) == "`best_of` != 1 is not allowed for this endpoint"
    for allowed in (None, 0, 1, 2):
        check_best_of(parameters(best_of=allowed), OPERATOR)


@pytest.mark.parametrize("truncate", [0, 33, 2**64 - 1])
def test_truncate_must_leave_a_prompt_that_fits(truncate: int) -> None:
    with pytest.raises(ValidationError) as caught:
        check_prompt(False, parameters(truncate=truncate), LIMITS)
    assert str(caught.value) == f"`truncate` must be strictly positive and less than 32. Given: {truncate}"


def test_truncate_may_be_as_long_as_the_longest_prompt() -> None:
    check_prompt(False, parameters(truncate=32), LIMITS)


def test_an_empty_prompt_is_told_before_a_bad_truncate() -> None:
    with pytest.raises(ValidationError) as caught:
        check_prompt(True, parameters(truncate=0), LIMITS)
    assert str(caught.value) == "`inputs` cannot be empty"


@pytest.mark.parametrize(
    ("num_input", "max_new_tokens", "text"),
    [
        (1, 64, "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 1 `inputs` tokens and 64 `max_new_tokens`"),
        (
            1,
            2**32 - 1,
            "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 1 `inputs` tokens and 1024 `max_new_tokens`",
        ),
        (
            65,
            None,
            "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 65 `inputs` tokens and 0 `max_new_tokens`",
        ),
        (33, 1, "`inputs` must have less than 32 tokens. Given: 33"),
        (33, None, "`inputs` must have less than 32 tokens. Given: 33"),
        (64, None, "`inputs` must have less than 32 tokens. Given: 64"),
        (40, 25, "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 40 `inputs` tokens and 25 `max_new_tokens`"),
    ],
)
def test_prompt_and_output_must_fit_a_slot(num_input: int, max_new_tokens: int | None, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settle_max_new_tokens(num_input, parameters(max_new_tokens=max_new_tokens), LIMITS)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("num_input", "max_new_tokens", "settled"), [(1, 63, 63), (32, 32, 32), (32, None, 32), (10, None, 54), (5, 1, 1)]
)
def test_what_fits_is_generated_as_asked(num_input: int, max_new_tokens: int | None, settled: int) -> None:
    assert settle_max_new_tokens(num_input, parameters(max_new_tokens=max_new_tokens), LIMITS) == settled


@pytest.mark.parametrize(("asked", "settled"), [(1024, 1024), (1500, 1500), (100_000, 1990), (2**32 - 1, 1990)])
def test_more_than_fits_is_cut_where_1024_fit(asked: int, settled: int) -> None:
    wide = Limits(batch_size=1, sequence_length=2000, max_input_tokens=1999, max_batch_prefill_tokens=64)
    assert settle_max_new_tokens(10, parameters(max_new_tokens=asked), wide) == settled


@given(
    st.integers(1, 80),
    st.none() | st.integers(1, 2**32 - 1),
    st.integers(2, 3000).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total - 1))),
)
def test_whatever_is_admitted_fits_and_makes_progress(
    num_input: int, max_new_tokens: int | None, shape: tuple[int, int]
) -> None:
    total, max_input = shape
    limits = Limits(batch_size=1, sequence_length=total, max_input_tokens=max_input, max_batch_prefill_tokens=64)
    try:
        settled = settle_max_new_tokens(num_input, parameters(max_new_tokens=max_new_tokens), limits)
    except ValidationError:
        assert num_input > max_input or num_input + min(max_new_tokens or 0, 1024) > total
    else:
        assert 1 <= settled <= total - num_input
        assert num_input <= max_input
        assert max_new_tokens is None or settled <= max_new_tokens


def test_what_no_target_does_yet_is_refused_by_name() -> None:
    with pytest.raises(ValidationError) as caught:
        check_capabilities(parameters(watermark=True), CAPABILITIES, "cpu")
    assert str(caught.value) == "`watermark` is not supported by this server (target cpu); leave it out"


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        ((), "`adapter_id` is not supported by this server: it has no adapters; leave it out"),
        (("a",), "`adapter_id` must be one of the adapters loaded: `a`; or leave it out"),
        (("a", "b/c"), "`adapter_id` must be one of the adapters loaded: `a`, `b/c`; or leave it out"),
    ],
)
@pytest.mark.parametrize("adapter_id", ["lora", "", "A"])
def test_an_adapter_that_is_not_loaded_is_refused_with_the_names_of_those_that_are(
    loaded: tuple[str, ...], text: str, adapter_id: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        check_capabilities(parameters(adapter_id=adapter_id), replace(CAPABILITIES, adapters=loaded), "cpu")
    assert str(caught.value) == text


def test_an_adapter_that_is_loaded_is_taken() -> None:
    check_capabilities(parameters(adapter_id="b"), replace(CAPABILITIES, adapters=("a", "b")), "cpu")


def test_a_grammar_that_the_target_lacks_is_refused_with_tgis_text() -> None:
    given_value = parameters(grammar=Grammar("regex", "a"))
    check_capabilities(given_value, CAPABILITIES, "nxd")
    with pytest.raises(ValidationError) as caught:
        check_capabilities(given_value, replace(CAPABILITIES, parameters=frozenset()), "nxd")
    assert str(caught.value) == "grammar is not supported"


SAMPLING_VALUES = {
    "temperature": 0.5,
    "top_k": 1,
    "top_p": 0.5,
    "typical_p": 0.5,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "seed": 0,
    "top_n_tokens": 1,
}
NEUTRAL_VALUES = {
    "temperature": 1.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "top_n_tokens": 0,
    "best_of": 1,
    "logprobs": False,
}


@pytest.mark.parametrize("name", [*sorted(SAMPLING_VALUES), "decoder_input_details", "best_of", "logprobs"])
def test_a_parameter_that_the_target_lacks_is_refused_by_name(name: str) -> None:
    given_value = parameters(**{name: 2 if name == "best_of" else SAMPLING_VALUES.get(name, True)})
    lacking = replace(CAPABILITIES, parameters=CAPABILITIES.parameters - {name})
    check_capabilities(given_value, CAPABILITIES, "nxd")
    with pytest.raises(ValidationError) as caught:
        check_capabilities(given_value, lacking, "nxd")
    assert str(caught.value) == f"`{name}` is not supported by this server (target nxd); leave it out"


@pytest.mark.parametrize("name", sorted(NEUTRAL_VALUES))
def test_a_neutral_value_needs_no_capability(name: str) -> None:
    bare = replace(CAPABILITIES, parameters=frozenset())
    check_capabilities(parameters(**{name: NEUTRAL_VALUES[name]}), bare, "nxd")


@pytest.mark.parametrize(
    ("values", "samples"),
    [
        ({}, False),
        ({"do_sample": True}, True),
        ({"temperature": 1.0}, False),
        ({"temperature": 0.7}, True),
        ({"top_k": 1}, True),
        ({"top_p": 0.5}, True),
        ({"typical_p": 0.5}, True),
        ({"seed": 1, "repetition_penalty": 2.0}, False),
    ],
)
def test_sampling_is_asked_for_or_implied(values: dict[str, Any], samples: bool) -> None:
    assert to_sampling(parameters(**values)).do_sample is samples


def test_absent_parameters_are_neutral_for_the_engine() -> None:
    assert to_sampling(parameters()) == SamplingParams()


def test_every_sampling_parameter_reaches_the_engine() -> None:
    values = SAMPLING_VALUES | {"do_sample": True, "seed": 2**64 - 1, "top_n_tokens": 5}
    assert to_sampling(parameters(**values)) == SamplingParams(**values)  # type: ignore[arg-type]  # mixed values


def test_without_a_seed_each_request_draws_its_own() -> None:
    seeds = {to_sampling(parameters(do_sample=True)).seed for _ in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**64 for seed in seeds)


@pytest.mark.parametrize(("best_of", "expected"), [(None, 1), (0, 1), (1, 1), (2, 2)])
def test_best_of_zero_means_one_sequence(best_of: int | None, expected: int) -> None:
    assert parameters(best_of=best_of).num_sequences == expected


@pytest.mark.parametrize("name", ["do_sample", "temperature", "top_k", "top_p", "typical_p", "seed"])
def test_greedy_is_greedy_whatever_else_says_how_to_draw(name: str) -> None:
    """The OpenAI API's temperature 0: clients send a `top_p` with it."""
    assert not to_sampling(parameters(**{name: SAMPLING_VALUES.get(name, True)}, is_greedy=True)).do_sample


def test_the_sequences_of_a_request_have_seeds_that_follow_each_other() -> None:
    seeds = [to_sampling(parameters(do_sample=True, seed=2**64 - 1), index).seed for index in range(3)]
    assert seeds == [2**64 - 1, 0, 1]
    assert len({to_sampling(parameters(do_sample=True), index).seed for index in range(3)}) == 3


def test_a_target_may_report_fewer_top_tokens_than_the_operator_allows() -> None:
    few = replace(CAPABILITIES, max_top_n_tokens=2)
    check_capabilities(parameters(top_n_tokens=2), few, "cpu")
    with pytest.raises(ValidationError) as caught:
        check_capabilities(parameters(top_n_tokens=3), few, "cpu")
    assert str(caught.value) == "`top_n_tokens` must be >= 0 and <= 2. Given: 3"


def test_a_target_may_draw_from_fewer_candidates_than_the_vocabulary_has() -> None:
    few = replace(CAPABILITIES, max_top_k=256)
    check_capabilities(parameters(top_k=256), few, "nxd")
    check_capabilities(parameters(), few, "nxd")
    with pytest.raises(ValidationError) as caught:
        check_capabilities(parameters(top_k=257), few, "nxd")
    assert str(caught.value) == "`top_k` must be > 0 and <= 256. Given: 257"
