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
    already. A decode is a chunk of one token. `wants_logits` asks for a token after the last one. `scored_ids`, if
    any, asks for log P(`scored_ids[k]`) after `token_ids[k]`; there are at most as many as tokens. `adapter` is the
    number of the adapter to use, from 1 in the order of `Capabilities.adapters`; 0 is the model itself.
    """

    slot: int
    token_ids: Sequence[int]
    start: int
    wants_logits: bool
    scored_ids: Sequence[int] = ()
    adapter: int = 0


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
    `history` is prompt and output so far; it is read during the call and not kept. `allowed` is a bit mask over the
    vocabulary, or None: token t may be chosen where bit t % 8 of byte t // 8 is set; ids beyond its end may not.
    """

    params: SamplingParams
    token_index: int
    history: Sequence[int]
    allowed: bytes | None = None


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
    """One choice for each sampling row of the plan, in its order; None where no token could be chosen.

    That is where the logits were not finite, or none was left to choose from. `scores` has the log-probabilities for
    each chunk with `scored_ids`, in the order of those chunks, before any logits processor. `choosing_s` is the part
    of the run, in seconds, that went into choosing tokens; `num_padded_tokens` went through the model for nothing.
    """

    choices: tuple[TokenChoice | None, ...]
    scores: tuple[tuple[float, ...], ...] = ()
    choosing_s: float = 0.0
    num_padded_tokens: int = 0
