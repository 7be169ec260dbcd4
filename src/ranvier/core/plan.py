"""The step plan: what one run of a target's programs is to do, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ranvier.core.events import TokenLogprob
from ranvier.core.request import SamplingParams


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one slot to put through the model.

    They take the positions `start … start + len(token_ids) - 1`; everything before `start` is in the slot's KV cache
    already. A decode is a chunk of one token. `wants_logits` asks for a token after the last one.
    """

    slot: int
    token_ids: Sequence[int]
    start: int
    wants_logits: bool


@dataclass(frozen=True, slots=True)
class PrefixShare:
    """Before the chunks run, slot `target` takes over the first `num_tokens` KV rows of slot `source`.

    `source == target` keeps what the slot's last request has left there.
    """

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """How to choose the token of one chunk that wants logits, in the order of those chunks.

    `token_index` counts the request's generated tokens from 0: it is the counter of its random numbers.
    `history` is prompt and output so far; it is read during the call and not kept.
    """

    params: SamplingParams
    token_index: int
    history: Sequence[int]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: at most one chunk for each slot, and one sampling row for each chunk that wants logits."""

    chunks: tuple[Chunk, ...]
    shares: tuple[PrefixShare, ...]
    rows: tuple[SamplingRow, ...]


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """The chosen token, its log-probability after all processors, and the `top_n_tokens` most likely ones."""

    token_id: int
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """One choice for each sampling row of the plan, in its order; None where the logits were not finite."""

    choices: tuple[TokenChoice | None, ...]
