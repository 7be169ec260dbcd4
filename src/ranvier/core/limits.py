"""The static limits of an artifact."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The static shape `[batch_size, sequence_length]` and what may be put into it.

    * `batch_size`: number of slots, 1 or more.
    * `sequence_length`: cache length of a slot in tokens, prompt and output together (`max_total_tokens`).
    * `max_input_tokens`: longest prompt, 1 … `sequence_length - 1`.
    * `max_batch_prefill_tokens`: most prompt tokens that one step may prefill.
    """

    batch_size: int
    sequence_length: int
    max_input_tokens: int
    max_batch_prefill_tokens: int
