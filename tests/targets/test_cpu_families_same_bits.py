"""The bits of a request do not depend on the rest of the load in any family; windows of 8 and 16 tokens included."""

from __future__ import annotations

import json
import random
from pathlib import Path

import openvino as ov
import pytest
from engine_runs import Generated, engine_request, run_engine

from ranvier.core import EngineRequest, Limits, SamplingParams
from ranvier.models import SafetensorsCheckpoint, WeightPlan, spec_of, supported_families, write_weights
from ranvier.targets.cpu import CpuOptions, CpuPrograms, load_cpu
from ranvier.targets.cpu.precision import has_bfloat16
from tiny_checkpoints import write_safetensors
from tiny_families import VOCAB, config, weights

pytestmark = pytest.mark.skipif(
    not has_bfloat16(ov.Core()), reason="the promise holds in the bfloat16 modes, and this processor has none"
)


def limits(num_slots: int, prefill_tokens: int) -> Limits:
    return Limits(
        batch_size=num_slots, sequence_length=128, max_input_tokens=127, max_batch_prefill_tokens=prefill_tokens
    )


def load(folder: Path, case: str) -> CpuPrograms:
    (folder / "config.json").write_text(json.dumps(config(case)), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", weights(case))
    plan = WeightPlan(quantize="int8", dtype="bfloat16")
    write_weights(SafetensorsCheckpoint(folder), plan, folder / "packed", lambda done, total: None)
    options = CpuOptions(dtype="bfloat16", kv_cache_dtype="u8", num_threads=1)
    return load_cpu(spec_of(config(case)), folder / "packed", limits(8, 127), options)


def random_requests(source: random.Random) -> list[EngineRequest]:
    """Prompts around the borders of blocks, some with a shared beginning; greedy and sampled."""
    shared = [source.randrange(VOCAB) for _ in range(70)]
    requests = []
    for number in range(16):
        own = [source.randrange(VOCAB) for _ in range(source.choice([1, 2, 5, 20, 31]))]
        prompt_ids = shared[: source.choice([0, 0, 32, 64, 70])] + own
        sampling = SamplingParams(do_sample=number % 2 == 1, temperature=1.2, top_p=0.95, seed=number)
        requests.append(engine_request(str(number), prompt_ids, source.randrange(1, 20), sampling))
    return requests


@pytest.mark.parametrize("case", supported_families())
def test_tokens_and_logprobs_do_not_depend_on_the_rest_of_the_load(tmp_path: Path, case: str) -> None:
    programs = load(tmp_path, case)
    source = random.Random(5)
    requests = random_requests(source)
    alone: Generated = {}
    for each in requests:
        alone |= run_engine(programs, [[each]], limits(1, 127))
    for num_slots, prefill_tokens in ((8, 64), (3, 96)):
        left = source.sample(requests, len(requests))
        arrivals: list[list[EngineRequest]] = []
        while left:
            count = source.choice([0, 1, 1, 2, 6])
            arrivals.append(left[:count])
            left = left[count:]
        assert run_engine(programs, arrivals, limits(num_slots, prefill_tokens)) == alone
