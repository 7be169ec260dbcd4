"""Adapters on the real model: the same bits whatever adapters the requests beside it use."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from engine_runs import Generated
from test_cpu_smollm2 import limits, needs_bfloat16, random_requests, run

from ranvier.core import EngineRequest
from ranvier.models import Adapter, DecoderSpec
from ranvier.models.adapters import LowRank
from ranvier.targets.cpu import CpuOptions, load_cpu
from smollm2 import needs_smollm2, packed

pytestmark = [needs_smollm2, needs_bfloat16]

LOUDNESS = 0.05
ADAPTERS = {"few": (8, ("q", "v")), "all": (16, ("q", "k", "v", "o", "gate", "up", "down")), "odd": (5, ("o", "down"))}
"""Rank and matrices."""


def drawn_adapters(spec: DecoderSpec) -> list[Adapter]:
    source, shapes = np.random.default_rng(3), spec.layer_shapes()

    def low_rank(rank: int, part: str) -> LowRank:
        out, width = shapes[part]
        down = source.standard_normal((rank, width)) / np.sqrt(width)
        up = source.standard_normal((out, rank)) * (LOUDNESS / np.sqrt(rank))
        return LowRank(down.astype(np.float32), up.astype(np.float32))

    return [
        Adapter(
            name=name,
            parts={f"layers.{n}.{part}": low_rank(rank, part) for n in range(spec.num_layers) for part in parts},
        )
        for name, (rank, parts) in ADAPTERS.items()
    ]


def a_mix(source: random.Random, requests: list[EngineRequest]) -> list[list[EngineRequest]]:
    left, arrivals = source.sample(requests, len(requests)), []
    while left:
        count = source.choice([0, 1, 1, 2, 6])
        arrivals.append(left[:count])
        left = left[count:]
    return arrivals


@pytest.mark.parametrize("kv", ["bfloat16", "u8"])
def test_a_request_has_the_same_bits_alone_and_beside_any_adapters(
    tmp_path_factory: pytest.TempPathFactory, kv: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "smollm2-packed"
    folder.mkdir(exist_ok=True)
    spec, weights = packed(folder, "auto", "bfloat16")
    options = CpuOptions(dtype="bfloat16", kv_cache_dtype=kv, num_threads=0)
    programs = load_cpu(spec, weights, limits(16, 512), options, drawn_adapters(spec))
    source = random.Random(17)
    names = [None, *ADAPTERS]
    requests = [
        replace(each, adapter=names[number % len(names)], max_new_tokens=min(each.max_new_tokens, 8))
        for number, each in enumerate(random_requests(source)[:16])
    ]
    alone: Generated = {}
    for each in requests:
        alone |= run(programs, [[each]], 1, 512)
    for num_slots, prefill_tokens in ((16, 512), (5, 64), (3, 96)):
        assert run(programs, a_mix(source, requests), num_slots, prefill_tokens) == alone
