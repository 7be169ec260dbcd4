"""Bare steps: the target's programs driven in a plain loop, with nothing of the server around them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from ranvier.bench.load import Load, Measured
from ranvier.core import Chunk, SamplingParams, SamplingRow, StepPlan, StepResult
from ranvier.targets import Programs

_GREEDY = SamplingParams()


def run_bare(programs: Programs, load: Load, *, prefill_tokens: int, vocab_size: int, seed: int) -> Measured:
    """Prefill all prompts, `prefill_tokens` a step, then decode all slots together; once for each request in turn."""
    source = random.Random(seed)
    steps: list[float] = []
    began = time.perf_counter()
    for _ in range(load.num_requests):
        prompts = [
            [source.randrange(vocab_size) for _ in range(load.num_prompt_tokens)] for _ in range(load.num_clients)
        ]
        tokens = _prefill(programs, prompts, prefill_tokens)
        for index in range(1, load.num_output_tokens):
            started = time.perf_counter()
            tokens = _decode(programs, prompts, tokens, index)
            steps.append(time.perf_counter() - started)
    elapsed = time.perf_counter() - began
    return Measured(tokens_per_s=load.num_tokens / elapsed, ttft_s=0.0, tpot_s=sorted(steps)[len(steps) // 2])


def _prefill(programs: Programs, prompts: list[list[int]], prefill_tokens: int) -> list[int]:
    tokens: list[int] = []
    at_once = max(1, prefill_tokens // len(prompts[0]))
    for first in range(0, len(prompts), at_once):
        chunks = [
            Chunk(slot, prompts[slot], 0, wants_logits=True)
            for slot in range(first, min(first + at_once, len(prompts)))
        ]
        tokens += _run(programs, chunks, 0, prompts)
    return tokens


def _decode(programs: Programs, prompts: list[list[int]], tokens: list[int], index: int) -> list[int]:
    start = len(prompts[0]) + index - 1
    chunks = [Chunk(slot, [token], start, wants_logits=True) for slot, token in enumerate(tokens)]
    return _run(programs, chunks, index, prompts)


def _run(programs: Programs, chunks: Sequence[Chunk], index: int, prompts: list[list[int]]) -> list[int]:
    rows = tuple(SamplingRow(_GREEDY, index, prompts[chunk.slot]) for chunk in chunks)
    result: StepResult = programs.run(StepPlan(tuple(chunks), (), rows))
    return [choice.token_id if choice is not None else 0 for choice in result.choices]
