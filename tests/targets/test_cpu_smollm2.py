"""A real model: the stored float32 texts, and the same bits whatever runs beside a request.

`smollm2_greedy.json` was written by `make_smollm2_reference.py` with the plain NumPy model.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal

import openvino as ov
import pytest
from engine_runs import Generated, engine_request, run_engine

from ranvier.core import ConstraintFactory, EngineRequest, Limits, SamplingParams
from ranvier.models.packing import DType, Quantize
from ranvier.targets.cpu import CpuOptions, CpuPrograms, load_cpu
from ranvier.targets.cpu.precision import has_bfloat16
from smollm2 import needs_smollm2, packed

REFERENCES = json.loads(Path(__file__).with_name("smollm2_greedy.json").read_text(encoding="utf-8"))
LENGTH = 512

pytestmark = needs_smollm2
needs_bfloat16 = pytest.mark.skipif(
    not has_bfloat16(ov.Core()), reason="the promise holds in the bfloat16 modes, and this processor has none"
)


def load(directory: Path, quantize: Quantize | Literal["dense"], dtype: DType, kv: str) -> CpuPrograms:
    spec, weights = packed(directory, quantize, dtype)
    options = CpuOptions(dtype=dtype, kv_cache_dtype=kv, num_threads=0)
    return load_cpu(spec, weights, limits(16, 512), options)


def limits(num_slots: int, prefill_tokens: int) -> Limits:
    return Limits(
        batch_size=num_slots,
        sequence_length=LENGTH,
        max_input_tokens=LENGTH - 1,
        max_batch_prefill_tokens=prefill_tokens,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smollm2")


def run(
    programs: CpuPrograms,
    arrivals: list[list[EngineRequest]],
    num_slots: int,
    prefill_tokens: int,
    constraints: ConstraintFactory | None = None,
) -> Generated:
    return run_engine(programs, arrivals, limits(num_slots, prefill_tokens), constraints)


def test_greedy_text_in_float32_is_the_stored_reference(directory: Path) -> None:
    programs = load(directory, "none", "float32", "float32")
    requests = [
        engine_request(str(number), reference["prompt_ids"], len(reference["output_ids"]), SamplingParams())
        for number, reference in enumerate(REFERENCES)
    ]
    generated = run(programs, [requests], 16, 512)
    for number, reference in enumerate(REFERENCES):
        assert [token for token, _ in generated[str(number)]] == reference["output_ids"], reference["prompt"]


def random_requests(source: random.Random) -> list[EngineRequest]:
    """Prompts around the borders of blocks, some with a shared beginning; greedy and sampled."""
    shared = [source.randrange(49152) for _ in range(200)]
    requests = []
    for number in range(24):
        own = [source.randrange(49152) for _ in range(source.choice([1, 2, 5, 31, 32, 33, 34, 64, 65, 66, 97, 150]))]
        prompt_ids = shared[: source.choice([0, 0, 32, 100, 200])] + own
        sampling = SamplingParams(
            do_sample=number % 2 == 1,
            temperature=1.2,
            top_p=0.95,
            seed=number,
            repetition_penalty=1.1 if number % 3 == 0 else 1.0,
        )
        requests.append(engine_request(str(number), prompt_ids, source.randrange(1, 25), sampling))
    return requests


@needs_bfloat16
@pytest.mark.parametrize(
    ("quantize", "kv"), [("auto", "bfloat16"), ("auto", "u8"), ("int4", "u8"), ("dense", "bfloat16")]
)
def test_tokens_and_logprobs_do_not_depend_on_the_rest_of_the_load(
    directory: Path, quantize: Quantize | Literal["dense"], kv: str
) -> None:
    """Alone with the whole prompt in one chunk, and in random mixes, other cuts, slots, cache hits: same bits."""
    programs = load(directory, quantize, "bfloat16", kv)
    source = random.Random(11)
    requests = random_requests(source)
    alone: Generated = {}
    for each in requests:
        alone |= run(programs, [[each]], 1, 512)
    for num_slots, prefill_tokens in ((16, 512), (16, 64), (3, 96), (8, 256)):
        left = source.sample(requests, len(requests))
        arrivals: list[list[EngineRequest]] = []
        while left:
            count = source.choice([0, 0, 1, 1, 2, 6])
            arrivals.append(left[:count])
            left = left[count:]
        assert run(programs, arrivals, num_slots, prefill_tokens) == alone
