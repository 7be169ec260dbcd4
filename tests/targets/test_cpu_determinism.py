"""The same request, the same bits: alone, and in 50 random mixes, with grammars, penalties and scored prompts."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from engine_runs import Generated
from test_cpu_smollm2 import load, needs_bfloat16, random_requests, run

from ranvier.compose.constraints import constraint_factory
from ranvier.core import ConstraintFactory, EngineRequest, SamplingParams
from ranvier.grammar import from_json_schema, from_regex
from ranvier.models.packing import Quantize
from smollm2 import needs_smollm2, tokenizer_file

pytestmark = needs_smollm2

PERSON = from_json_schema(
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}}}
)
MODES = ("auto/bfloat16", "auto/u8", "int4/u8", "dense/bfloat16")
NUM_MIXES = 50


@pytest.fixture(scope="module")
def constraints(tmp_path_factory: pytest.TempPathFactory) -> ConstraintFactory:
    return constraint_factory(tokenizer_file(tmp_path_factory.mktemp("tokenizer")))


def probes(source: random.Random) -> list[EngineRequest]:
    """Seeded requests of every kind; the end token is 2."""
    samplings = [
        SamplingParams(),
        SamplingParams(do_sample=True, temperature=1.3, seed=1),
        SamplingParams(do_sample=True, top_p=0.9, top_k=40, seed=2, frequency_penalty=0.7, top_n_tokens=3),
        SamplingParams(repetition_penalty=1.3, presence_penalty=0.8),
        SamplingParams(do_sample=True, typical_p=0.8, seed=3, presence_penalty=-0.5),
    ]
    grammars = [None, PERSON, from_regex("[a-z]{3,12}( [a-z]{1,9}){0,4}"), None, PERSON]
    made = random_requests(source)
    return [
        replace(
            made[number],
            request_id=f"probe {number}",
            max_new_tokens=10,
            eos_token_ids=frozenset({2}),
            sampling=sampling,
            grammar=grammar,
            wants_prompt_logprobs=number % 2 == 0,
        )
        for number, (sampling, grammar) in enumerate(zip(samplings, grammars, strict=True))
    ]


def a_mix(source: random.Random, requests: list[EngineRequest]) -> list[list[EngineRequest]]:
    """The probes among up to eight strangers, in any order and company."""
    strangers = [
        replace(each, max_new_tokens=6) for each in source.sample(random_requests(source), source.randrange(9))
    ]
    left = source.sample(requests + strangers, len(requests) + len(strangers))
    arrivals = []
    while left:
        count = source.choice([0, 1, 1, 2, 5])
        arrivals.append(left[:count])
        left = left[count:]
    return arrivals


@needs_bfloat16
@pytest.mark.parametrize("mode", MODES)
def test_a_request_has_the_same_bits_alone_and_in_random_mixes(
    mode: str, tmp_path_factory: pytest.TempPathFactory, constraints: ConstraintFactory
) -> None:
    quantize, kv = mode.split("/")
    programs = load(_shared(tmp_path_factory), _quantize(quantize), "bfloat16", kv)
    source = random.Random(5)
    requests = probes(source)
    alone: Generated = {}
    for each in requests:
        alone |= run(programs, [[each]], 1, 512, constraints)
    assert all(alone.values())
    for _ in range(NUM_MIXES):
        num_slots, prefill_tokens = source.choice([(16, 512), (16, 64), (3, 96), (8, 256)])
        mixed = run(programs, a_mix(source, requests), num_slots, prefill_tokens, constraints)
        assert {name: mixed[name] for name in alone} == alone


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where packed weights lie; one place for all modes."""
    path = tmp_path_factory.getbasetemp() / "smollm2-packed"
    path.mkdir(exist_ok=True)
    return path


def _quantize(name: str) -> Quantize | Literal["dense"]:
    return name  # type: ignore[return-value]  # one of the names above
