"""Log-probabilities of prompt tokens on the CPU target, against the rows of logits they are made from."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_helpers import load_tiny, run_logits

from ranvier.core import Chunk, SamplingParams, SamplingRow, StepPlan
from ranvier.targets.cpu import CpuPrograms
from tiny_checkpoints import TinyModel

PROMPT = [int(token) for token in np.random.default_rng(3).integers(4, 280, 70)]
OTHER = [int(token) for token in np.random.default_rng(4).integers(4, 280, 40)]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> CpuPrograms:
    return load_tiny(tmp_path_factory.mktemp("scores"), TinyModel())


def expected(programs: CpuPrograms, prompt: list[int]) -> list[float]:
    scores = []
    for length in range(1, len(prompt)):
        logits = run_logits(programs, (0, prompt[:length], 0))[0].astype(np.float64)
        scores.append(float(logits[prompt[length]] - logits.max() - np.log(np.exp(logits - logits.max()).sum())))
    return scores


def scored(programs: CpuPrograms, start: int, end: int, slot: int = 1) -> Chunk:
    is_last = end == len(PROMPT)
    return Chunk(slot, PROMPT[start:end], start, is_last, PROMPT[start + 1 : end + 1])


def row(ids: list[int]) -> SamplingRow:
    return SamplingRow(SamplingParams(), 0, ids)


def test_a_whole_prompt_is_scored_and_its_token_is_the_same(programs: CpuPrograms) -> None:
    plain = programs.run(StepPlan((Chunk(2, PROMPT, 0, True),), (), (row(PROMPT),)))
    result = programs.run(StepPlan((scored(programs, 0, 70),), (), (row(PROMPT),)))
    assert result.scores[0] == pytest.approx(expected(programs, PROMPT), abs=1e-4)
    assert result.choices[0].token_id == plain.choices[0].token_id  # type: ignore[union-attr]


def test_a_prompt_in_chunks_beside_others_has_the_same_scores(programs: CpuPrograms) -> None:
    first = programs.run(StepPlan((Chunk(0, OTHER, 0, True), scored(programs, 0, 32)), (), (row(OTHER),)))
    second = programs.run(
        StepPlan((Chunk(0, [7], len(OTHER), True), scored(programs, 32, 70)), (), (row(OTHER), row(PROMPT)))
    )
    assert (len(first.scores), len(first.choices)) == (1, 1)
    assert len(second.choices) == 2
    assert first.scores[0] + second.scores[0] == pytest.approx(expected(programs, PROMPT), abs=1e-4)
    assert len(first.scores[0]) == 32


def test_two_prompts_are_scored_in_one_step(programs: CpuPrograms) -> None:
    other = Chunk(3, OTHER, 0, True, OTHER[1:])
    result = programs.run(StepPlan((scored(programs, 0, 70), other), (), (row(PROMPT), row(OTHER))))
    assert result.scores[0] == pytest.approx(expected(programs, PROMPT), abs=1e-4)
    assert result.scores[1] == pytest.approx(expected(programs, OTHER), abs=1e-4)


def test_a_step_without_scored_tokens_has_no_scores(programs: CpuPrograms) -> None:
    assert programs.run(StepPlan((Chunk(0, OTHER, 0, True),), (), (row(OTHER),))).scores == ()
