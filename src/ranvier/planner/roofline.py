"""Upper bounds on speed: the roofline (Williams, Waterman, Patterson 2009) of one core of the group.

A step can be no faster than its bytes over the bandwidth, nor than its operations over the peak. All cores do the same,
so one core's time is the group's. Not counted, hence these are bounds and no forecasts: sums over the cores, the
sampler's passes over the vocabulary, launches, and everything on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ranvier.models.spec import DecoderSpec
from ranvier.neuron_host import CastType, Chip
from ranvier.planner.buckets import PlannedBuckets
from ranvier.planner.memory import kv_bytes_per_token
from ranvier.planner.sharding import CoreShare, share_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The least time a program can take, `seconds`, and which of the two roofs it hits."""

    seconds: float
    limit: Literal["memory", "compute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Bounds for one model on `num_cores` logical cores of a chip."""

    spec: DecoderSpec
    chip: Chip
    lnc: int
    num_cores: int
    cast_type: CastType

    def decode(self, batch_size: int, context: int) -> Bound:
        """One token for each of `batch_size` rows whose program reads `context` rows of KV cache.

        bytes = weights read once + batch * context * KV bytes of a token;
        operations = batch * (2 * matrix elements + 4 * layers * heads * head_dim * context).
        """
        share = self.share
        kv_cache = batch_size * context * kv_bytes_per_token(self.spec, share, self.cast_type)
        matrices = 2 * (share.layer_matrices + share.table)
        operations = batch_size * (matrices + self._attention(context))
        return self._bound(share.read_bytes(self.cast_type) + kv_cache, operations)

    def tokens_per_second(self, batch_size: int, context: int) -> float:
        """Of all rows together."""
        return batch_size / self.decode(batch_size, context).seconds

    def prefill(self, num_tokens: int, context: int | None = None) -> Bound:
        """A call on `num_tokens` prompt tokens and one row of logits.

        They see each other, or, as a chunk, all `context` rows of their slot; what the mask hides is computed too.
        bytes = weights read once + KV rows of the slot; operations = tokens * (2 * layers' matrix elements + attention)
        + 2 * head.
        """
        share = self.share
        kv_cache = (context or 0) * kv_bytes_per_token(self.spec, share, self.cast_type)
        a_token = 2 * share.layer_matrices + self._attention(context or num_tokens)
        return self._bound(share.read_bytes(self.cast_type) + kv_cache, num_tokens * a_token + 2 * share.table)

    def first_token(self, num_tokens: int, buckets: PlannedBuckets) -> tuple[int, float]:
        """Calls and seconds until a prompt has its first token: a prefill, then chunks where it is longer."""
        first = next((bucket for bucket in buckets.prefill if bucket >= num_tokens), buckets.prefill[-1])
        calls, seconds, left = 1, self.prefill(first).seconds, num_tokens - first
        while left > 0:
            piece = next((bucket for bucket in buckets.chunk if bucket >= left), buckets.chunk[-1])
            calls, left = calls + 1, left - piece
            seconds += self.prefill(piece, buckets.decode[-1]).seconds
        return calls, seconds

    @property
    def share(self) -> CoreShare:
        """What one core has."""
        return share_of(self.spec, self.num_cores)

    def _attention(self, context: int) -> float:
        """Operations of a token over `context` rows: scores and their mix, a multiplication and an addition each."""
        return 4 * self.spec.num_layers * self.share.heads * self.spec.head_dim * context

    def _bound(self, num_bytes: float, operations: float) -> Bound:
        memory = num_bytes / self.chip.core_bandwidth(self.lnc)
        compute = operations / self.chip.core_flops(self.cast_type, self.lnc)
        return Bound(seconds=max(memory, compute), limit="memory" if memory >= compute else "compute")
