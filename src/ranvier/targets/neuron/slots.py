"""What the host knows about the slots' state on the device."""

from __future__ import annotations

from ranvier.core import SamplingRow

_NONE = -1


class SlotNotes:
    """For each slot: up to which output token its counts are right, and whether something was not finite."""

    def __init__(self, num_slots: int) -> None:
        self._counted = [_NONE] * num_slots
        self._spoiled: set[int] = set()

    def has_counts(self, slot: int, num_generated: int) -> bool:
        """Whether the counts are those of the slot's request with so many output tokens."""
        return self._counted[slot] == num_generated

    def note_counts(self, slot: int, row: SamplingRow | None) -> None:
        """The counts are those that `row` is chosen with; worthless where it does not need them."""
        self._counted[slot] = row.token_index if row is not None and row.params.needs_history else _NONE

    def note_spoiled(self, slots: set[int]) -> None:
        """Rows of these slots may hold values that are not finite."""
        self._spoiled |= slots

    def take_spoiled(self, slot: int) -> bool:
        """Whether the slot's rows have to be cleared before they are used again; asked once."""
        is_spoiled = slot in self._spoiled
        self._spoiled.discard(slot)
        return is_spoiled
