"""The programs as StableHLO text: only what a NeuronCore is known to run, and the state in the memory it came in."""

from __future__ import annotations

import re
from functools import cache

import pytest
from neuron_helpers import few_buckets, jax, limits

from ranvier.errors import OptionError
from ranvier.models import spec_of
from ranvier.planner.buckets import SCORED_TOKENS, plan_buckets
from ranvier.targets.neuron import Buckets, NeuronOptions, Program, ProgramSet, default_buckets, shapes_of
from tiny_families import config

# Between them every norm, block, activation, rotation, window, bias and multiplier.
CASES = ["llama", "mistral", "gemma3_text", "phi3_partial", "granite", "olmo2", "gpt2", "falcon_groups", "gpt_neox"]

ALLOWED = frozenset(
    """abs add and broadcast_in_dim compare concatenate constant convert divide dot_general dynamic_slice
    dynamic_update_slice exponential floor gather iota log maximum minimum multiply negate not or reduce reshape return
    rsqrt scatter select shift_right_arithmetic slice subtract tanh transpose""".split()
)
"""Operations of StableHLO; `sort`, `while`, `case`, `custom_call`, `reduce_window` and what is dynamic are not here."""


@cache
def programs(case: str, dtype: str = "bfloat16") -> dict[str, tuple[Program, str]]:
    options = NeuronOptions(dtype=dtype, num_top=8, buckets=few_buckets())  # type: ignore[arg-type]  # one of three
    made = ProgramSet(shapes_of(spec_of(config(case)), limits(), options, jax.devices()))
    # What follows the logits is the same for every decoder.
    names = made.names if case == "llama" else ("prefill_32", "chunk_32", "score_32", "decode_96", "choose_greedy")
    return {name: _lowered(made.named(name)) for name in names}


def _lowered(program: Program) -> tuple[Program, str]:
    return program, program.function.lower(*program.arguments).as_text()


def signature(text: str) -> str:
    """The line of the main function."""
    return next(line for line in text.splitlines() if "func.func public @main" in line)


@pytest.mark.parametrize("case", CASES)
def test_every_operation_of_every_program_is_a_known_one(case: str) -> None:
    for name, (_, text) in programs(case).items():
        found = set(re.findall(r"\bstablehlo\.(\w+)", text))
        assert found - ALLOWED == set(), name
        assert set(re.findall(r"\bchlo\.(\w+)", text)) <= {"erf"}, name
        assert set(re.findall(r"^ *%[^=]*= \"?(\w+)\.", text, re.MULTILINE)) <= {"stablehlo", "chlo"}, name


@pytest.mark.parametrize("case", CASES)
def test_no_type_is_64_bits_wide_complex_or_of_unknown_size(case: str) -> None:
    for name, (_, text) in programs(case).items():
        elements = {kind.split("x")[-1] for kind in re.findall(r"tensor<([^>]*)>", text)}
        assert elements <= {"f32", "bf16", "i32", "i1"}, (name, elements)
        assert "?" not in "".join(re.findall(r"tensor<([^>]*)>", text)), name


@pytest.mark.parametrize("case", CASES)
def test_every_reduction_is_of_one_array(case: str) -> None:
    for name, (_, text) in programs(case).items():
        for line in re.findall(r"stablehlo\.reduce\(.*", text):
            assert line.count(" init: ") == 1, (name, line)


@pytest.mark.parametrize("case", CASES)
def test_the_state_comes_back_in_its_own_memory(case: str) -> None:
    for name, (program, text) in programs(case).items():
        state = program.arguments[len(program.held) - 1] if program.has_state else ()
        assert signature(text).count("tf.aliasing_output") == len(jax.tree.leaves(state)), name
        compiled = re.findall(r"tf.aliasing_output = (\d+)", signature(text))
        assert sorted(map(int, compiled)) == list(range(len(compiled))), name


def test_programs_that_change_no_state_are_those_that_only_choose() -> None:
    stateless = {name for name, (program, _) in programs("llama").items() if not program.has_state}
    assert stateless == {"choose_greedy", "choose_first"}


def test_logits_never_leave_a_program() -> None:
    """Results beside the state are hidden states, choices and scores, at most some dozen values a row."""
    for name, (program, _) in programs("llama").items():
        given = jax.eval_shape(program.function, *program.arguments)
        results = given[1] if program.has_state and program.has_results else () if program.has_state else given
        for leaf in jax.tree.leaves(results):
            assert leaf.shape[-1:] in ((), (9,), (64,), (32,)), name


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_types_take_the_same_operations(dtype: str) -> None:
    for name, (_, text) in programs("llama", dtype).items():
        assert set(re.findall(r"\bstablehlo\.(\w+)", text)) <= ALLOWED, name
        elements = {kind.split("x")[-1] for kind in re.findall(r"tensor<([^>]*)>", text)}
        assert elements <= {"f32", "i32", "i1", "f16"}, name


def test_every_program_can_be_exported_for_the_neuron_platform_where_there_is_none() -> None:
    for name, (program, _) in programs("llama").items():
        exported = jax.export.export(program.function, platforms=["neuron"])(*program.arguments)
        assert exported.platforms == ("neuron",)
        text = exported.mlir_module()
        assert ("tf.aliasing_output" in text) == program.has_state, name
        assert set(re.findall(r"\bstablehlo\.(\w+)", text)) <= ALLOWED, name


def test_the_plan_counts_the_programs_that_there_are() -> None:
    planned = plan_buckets(512)
    buckets = Buckets(prefill=planned.prefill, chunk=planned.chunk, decode=planned.decode, score=SCORED_TOKENS)
    shapes = shapes_of(spec_of(config("llama")), limits(length=512), NeuronOptions(buckets=buckets))
    assert len(ProgramSet(shapes).names) == planned.num_programs


def test_default_buckets_are_powers_of_two_that_end_with_the_cache() -> None:
    assert default_buckets(limits(length=500)) == Buckets(
        prefill=(128, 256, 512), chunk=(128, 512), decode=(128, 256, 512), score=128
    )
    assert default_buckets(limits(length=8192)) == Buckets(
        prefill=(128, 256, 512, 1024, 2048), chunk=(128, 512), decode=(128, 256, 512, 1024, 2048, 4096, 8192), score=128
    )
    assert default_buckets(limits(length=2**17)).chunk == (128,)
    assert default_buckets(limits(length=70)) == Buckets(prefill=(96,), chunk=(96,), decode=(96,), score=96)


@pytest.mark.parametrize(
    ("buckets", "complaint"),
    [
        (Buckets(prefill=(), chunk=(32,), decode=(96,), score=32), "`prefill`"),
        (Buckets(prefill=(32, 16), chunk=(32,), decode=(96,), score=32), "`prefill`"),
        (Buckets(prefill=(32,), chunk=(128,), decode=(96,), score=32), "`chunk`"),
        (Buckets(prefill=(32,), chunk=(32,), decode=(64,), score=32), "the last `decode` bucket must be 96"),
        (Buckets(prefill=(32,), chunk=(32,), decode=(96,), score=97), "`score`"),
    ],
)
def test_buckets_that_do_not_fit_the_limits_are_refused(buckets: Buckets, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        shapes_of(spec_of(config("llama")), limits(), NeuronOptions(buckets=buckets), jax.devices())
