"""Requests to the scripted target, and its arithmetic written a second time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ranvier.core import EngineRequest, SamplingParams

VOCAB_SIZE = 100

GUARD_S = 20.0
"""No wait in a test takes this long unless something is broken."""


def make_request(
    request_id: str, prompt_ids: Iterable[int], max_new_tokens: int = 3, eos: Iterable[int] = (), **sampling: Any
) -> EngineRequest:
    return EngineRequest(
        request_id=request_id,
        prompt_ids=tuple(prompt_ids),
        max_new_tokens=max_new_tokens,
        eos_token_ids=frozenset(eos),
        sampling=SamplingParams(**sampling),
    )


def scripted_tokens(prompt_ids: Iterable[int], num_tokens: int, adapter: int = 0) -> list[int]:
    """What `ScriptedPrograms` promises for a greedy request, straight from the formulas of its docstring."""
    ids = list(prompt_ids)
    num_prompt = len(ids)

    def total() -> int:
        return sum(ids) + 7 * adapter * len(ids)

    ids.append((3 * total() + 1) % VOCAB_SIZE)
    while len(ids) < num_prompt + num_tokens:
        ids.append((ids[-1] + 2 * (len(ids) - 1) + total()) % VOCAB_SIZE)
    return ids[num_prompt:]
