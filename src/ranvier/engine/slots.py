"""The slots: who sits where, and which prompt prefixes their KV rows still hold."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass

from ranvier.core import PrefixShare
from ranvier.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request goes: its slot, and the prefix it takes over, if any."""

    slot: int
    source: int
    num_reused: int

    @property
    def share(self) -> PrefixShare | None:
        """The copy a target has to make; None when nothing is reused or the rows are in place already."""
        if self.num_reused == 0 or self.source == self.slot:
            return None
        return PrefixShare(self.source, self.slot, self.num_reused)


class Slots:
    """Owner of `num_slots` slots. `block` tokens is the unit of prefix reuse; 0 turns it off.

    Only rows that a prefill wrote are reused: a decode rounds differently, and a request's text must not depend on
    what the cache held. Nor are rows that were computed with another adapter.
    """

    def __init__(self, num_slots: int, block: int) -> None:
        self._block = block
        self._occupants: list[Sequence | None] = [None] * num_slots
        self._prefixes: list[tuple[int, ...]] = [()] * num_slots
        # The adapter with which a slot's prefix was computed.
        self._adapters = [0] * num_slots
        # Free slots, the longest unused first.
        self._free = list(range(num_slots))

    @property
    def num_free(self) -> int:
        """Slots that can be taken now."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Slots taken."""
        return len(self._occupants) - len(self._free)

    def occupants(self) -> list[Sequence]:
        """Sequences in slot order."""
        return [sequence for sequence in self._occupants if sequence is not None]

    def place(self, sequence: Sequence) -> Placement:
        """Give a sequence a slot and as much of a known prefix as may be reused. Needs a free slot."""
        # Rows taken over have no logits, so a request that scores its prompt computes all of it.
        is_scored = sequence.request.wants_prompt_logprobs
        placement = self._choose(() if is_scored else sequence.request.prompt_ids, sequence.adapter)
        self._free.remove(placement.slot)
        self._occupants[placement.slot] = sequence
        self._prefixes[placement.slot] = sequence.request.prompt_ids[: placement.num_reused]
        self._adapters[placement.slot] = sequence.adapter
        sequence.slot = placement.slot
        sequence.num_computed = placement.num_reused
        return placement

    def _choose(self, prompt_ids: tuple[int, ...], adapter: int) -> Placement:
        source, reused = self._longest_prefix(prompt_ids, adapter)
        slot = source if reused and source in self._free else self._free[0]
        return Placement(slot, source, reused)

    def _longest_prefix(self, prompt_ids: tuple[int, ...], adapter: int) -> tuple[int, int]:
        """The slot that holds most of the prompt, if possible a free one, and how many tokens, in whole blocks."""
        if not self._block:
            return 0, 0
        # Two tokens at least are left to compute: a lone one would go through the decode kernel.
        limit = max(0, len(prompt_ids) - 2) // self._block * self._block
        lengths = [
            _common_blocks(prefix[:limit], prompt_ids, self._block) if owner == adapter else 0
            for prefix, owner in zip(self._prefixes, self._adapters, strict=True)
        ]
        best = max(range(len(lengths)), key=lambda slot: (lengths[slot], slot in self._free))
        return best, lengths[best]

    def remember(self, sequence: Sequence) -> None:
        """Note the prompt rows that a step has just computed for a sequence."""
        if self._block and not sequence.num_generated:
            whole = sequence.num_computed // self._block * self._block
            self._prefixes[sequence.slot] = sequence.request.prompt_ids[:whole]

    def release(self, sequence: Sequence, *, keep_prefix: bool = True) -> None:
        """Free a sequence's slot; its prompt rows stay known until they are overwritten."""
        self._occupants[sequence.slot] = None
        self._free.append(sequence.slot)
        if not keep_prefix:
            self._prefixes[sequence.slot] = ()

    def check(self) -> None:
        """Assert that every slot is either free or taken by the sequence that names it."""
        for slot, sequence in enumerate(self._occupants):
            assert (sequence is None) == (slot in self._free), f"slot {slot} is both free and taken, or neither"
            assert sequence is None or sequence.slot == slot, f"slot {slot} holds a sequence of slot {sequence.slot}"
        assert len(set(self._free)) == len(self._free), "a slot is free twice"


def _common_blocks(prefix: ReadOnlySequence[int], prompt_ids: tuple[int, ...], block: int) -> int:
    """Tokens that agree from the start, in whole blocks."""
    matched = 0
    while matched + block <= len(prefix) and prefix[matched : matched + block] == prompt_ids[matched : matched + block]:
        matched += block
    return matched
