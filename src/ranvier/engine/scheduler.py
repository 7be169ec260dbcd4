"""What the next step does: arithmetic over the waiting queue and the slots; touches no tensor.

Rules
1. Every slot that decodes, decodes (unless the target cannot mix; then prefill goes first).
2. Prompts are prefilled in the order they arrived, `max_batch_prefill_tokens` tokens a step at most. The first one
   that does not fit whole ends the step's prefill: nobody overtakes.
3. A prompt is cut only at multiples of the target's `chunk_multiple`, and never so that a lone last token is left:
   cut like this, its KV rows have the same bits however it is cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ranvier.core import Capabilities, Chunk, Limits, PrefixShare, SamplingRow, StepPlan
from ranvier.engine.sequence import Sequence
from ranvier.engine.slots import Placement, Slots
from ranvier.errors import OptionError

MAX_SCORED_TOKENS = 128
"""Prompt tokens a step computes of a request that scores its prompt: each needs a row of logits, not only the last."""


class Scheduler:
    """Owner of the waiting queue and of the slots.

    Raises `OptionError` when `max_batch_prefill_tokens` is too small to make progress on some prompt.
    """

    def __init__(self, limits: Limits, capabilities: Capabilities) -> None:
        self._budget = limits.max_batch_prefill_tokens
        self._multiple = capabilities.chunk_multiple
        self._mixes = capabilities.mixed_steps
        self.slots = Slots(limits.batch_size, self._multiple if capabilities.prefix_sharing else 0)
        self._waiting: deque[Sequence] = deque()
        self._prefilling: list[Sequence] = []
        # Room for two multiples: a cut that spares a lone last token still leaves one to compute.
        needed = min(2 * self._multiple or limits.max_input_tokens, limits.max_input_tokens)
        if self._budget < needed:
            raise OptionError(f"`max_batch_prefill_tokens` must be >= {needed}. Given: {self._budget}")

    @property
    def num_waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting) or self.slots.num_used > 0

    def enqueue(self, sequence: Sequence) -> None:
        """Put a request at the end of the queue."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence, *, keep_prefix: bool = True) -> None:
        """Take a request out, wherever it is; its slot is free at once."""
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            return
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        self.slots.release(sequence, keep_prefix=keep_prefix)

    def plan(self) -> tuple[StepPlan, list[tuple[Sequence, Placement]]]:
        """The next step, and the requests that left the queue for it. Needs `has_work`."""
        decoding = [sequence for sequence in self.slots.occupants() if sequence.is_decoding]
        shares: list[PrefixShare] = []
        placed: list[tuple[Sequence, Placement]] = []
        prefill = list(self._prefill_chunks(shares, placed))
        step = prefill if prefill and not self._mixes else prefill + [(s, 1) for s in decoding]
        chunks = tuple(_chunk(sequence, length) for sequence, length in step)
        rows = tuple(_row(s) for (s, _), chunk in zip(step, chunks, strict=True) if chunk.wants_logits)
        return StepPlan(chunks, tuple(shares), rows), placed

    def _prefill_chunks(
        self, shares: list[PrefixShare], placed: list[tuple[Sequence, Placement]]
    ) -> Iterator[tuple[Sequence, int]]:
        budget = self._budget
        for sequence in self._prefilling:
            # At most one prompt is in its prefill between two plans, so it has the whole budget.
            length = self._length(sequence, budget)
            yield sequence, length
            if length < sequence.num_prefill_left:
                return
            budget -= length
        while self._waiting and self.slots.num_free and budget > 0:
            sequence = self._waiting[0]
            # Judged without reuse: a cache hit must not change who goes first.
            if self._cut(sequence.num_prompt, self._room(sequence, budget)) == 0:
                return
            placement = self.slots.place(self._waiting.popleft())
            self._prefilling.append(sequence)
            placed.append((sequence, placement))
            if placement.share is not None:
                shares.append(placement.share)
            length = self._length(sequence, budget)
            if length:
                yield sequence, length
            if length < sequence.num_prefill_left:
                return
            budget -= length

    def _length(self, sequence: Sequence, budget: int) -> int:
        return self._cut(sequence.num_prefill_left, self._room(sequence, budget))

    def _room(self, sequence: Sequence, budget: int) -> int:
        is_cut = self._multiple and sequence.request.wants_prompt_logprobs
        return min(budget, max(MAX_SCORED_TOKENS, 2 * self._multiple)) if is_cut else budget

    def _cut(self, left: int, budget: int) -> int:
        """How many of `left` prompt tokens go into a step with room for `budget`; 0 means wait."""
        if left <= budget:
            return left
        if not self._multiple:
            return 0
        length = budget // self._multiple * self._multiple
        return length - self._multiple if left - length == 1 else length

    def advance(self, sequence: Sequence, length: int) -> None:
        """Note that `length` more tokens of a sequence have been computed."""
        sequence.num_computed += length
        self.slots.remember(sequence)
        if sequence.is_decoding and sequence in self._prefilling:
            self._prefilling.remove(sequence)

    def check(self) -> None:
        """Assert that queue, prefill list and slots agree."""
        self.slots.check()
        assert all(sequence.slot < 0 for sequence in self._waiting), "a waiting request has a slot"
        expected = {id(sequence) for sequence in self.slots.occupants() if not sequence.is_decoding}
        assert {id(sequence) for sequence in self._prefilling} == expected, "the prefill list is off"


def _chunk(sequence: Sequence, length: int) -> Chunk:
    start = sequence.num_computed
    ids = sequence.token_ids[start : start + length]
    return Chunk(
        sequence.slot,
        ids,
        start,
        wants_logits=start + length == len(sequence.token_ids),
        scored_ids=sequence.scored_ids(length),
        adapter=sequence.adapter,
    )


def _row(sequence: Sequence) -> SamplingRow:
    return SamplingRow(
        sequence.request.sampling, sequence.num_generated, sequence.token_ids, allowed=sequence.allowed()
    )
