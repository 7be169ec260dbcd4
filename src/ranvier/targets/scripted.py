"""A target whose tokens follow from arithmetic that a reader can do by hand. For tests.

After a prefill that ends the prompt, with S the sum of the prompt's ids:   token = (3 * S + 1) mod V
After a decode of the token t at position p:                               token = (t + 2 * p + S) mod V

S here is the sum of the ids that the slot's KV rows hold, prompt and output. So a row written to the wrong slot, a
wrong position, a token put in twice or a stale prefix each change every later token. With adapter number a each id
counts 7a more in the row that it is put into, so a prefix of another adapter does, too. The chosen token has logit 8,
all others 0. A prompt is scored as if it ended at each of its tokens in turn. Example with V = 100, prompt
[5, 6, 7] (S = 18): first token 55; then the decode of 55 at position 3 gives (55 + 6 + 73) mod 100 = 34. The same with
the second adapter (S = 18 + 3 * 14 = 60): first token 81; then (81 + 6 + 60 + 81 + 14) mod 100 = 42.
"""

from __future__ import annotations

import math

import numpy as np

from ranvier.core import Capabilities, Chunk, SamplingRow, StepPlan, StepResult, TokenChoice
from ranvier.sampling import HostSampler

NO_FAULT = -1
_LOGIT = 8.0
_ADAPTER_STEP = 7


class ScriptedPrograms:
    """`num_slots x sequence_length` KV rows that hold the token ids themselves.

    `vocab_size` V; `chunk_multiple`, `prefix_sharing` and `adapters` as in `Capabilities`. A token id equal to
    `fault_token` makes the step raise, as a device fault would.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        sequence_length: int,
        vocab_size: int = 100,
        chunk_multiple: int = 4,
        mixed_steps: bool = True,
        prefix_sharing: bool = True,
        fault_token: int = NO_FAULT,
        adapters: tuple[str, ...] = (),
    ) -> None:
        self._rows_SC = np.full((num_slots, sequence_length), -1, np.int64)
        self._vocab_size = vocab_size
        self._fault_token = fault_token
        self._sampler = HostSampler()
        self._capabilities = Capabilities(
            mixed_steps=mixed_steps, chunk_multiple=chunk_multiple, prefix_sharing=prefix_sharing, adapters=adapters
        )

    @property
    def capabilities(self) -> Capabilities:
        """As configured."""
        return self._capabilities

    @property
    def details(self) -> dict[str, str]:
        """Only the vocabulary size."""
        return {"vocab_size": str(self._vocab_size)}

    def run(self, plan: StepPlan) -> StepResult:
        """Write the ids, then choose by the arithmetic above: its token has logit 8, all others 0."""
        for share in plan.shares:
            self._rows_SC[share.target, : share.num_tokens] = self._rows_SC[share.source, : share.num_tokens]
        wanted = [self._advance(chunk) for chunk in plan.chunks]
        tokens = [token for chunk, token in zip(plan.chunks, wanted, strict=True) if chunk.wants_logits]
        choices = tuple(self._choose(token, row) for token, row in zip(tokens, plan.rows, strict=True))
        return StepResult(choices, tuple(self._scores(chunk) for chunk in plan.chunks if chunk.scored_ids))

    def _scores(self, chunk: Chunk) -> tuple[float, ...]:
        log_mass = math.log(math.exp(_LOGIT) + self._vocab_size - 1)
        sums = np.cumsum(self._rows_SC[chunk.slot])[chunk.start :]
        return tuple(
            (_LOGIT if token_id == (3 * total + 1) % self._vocab_size else 0.0) - log_mass
            for token_id, total in zip(chunk.scored_ids, sums.tolist(), strict=False)
        )

    def _advance(self, chunk: Chunk) -> int:
        if self._fault_token in chunk.token_ids:
            raise RuntimeError(f"scripted fault at token {self._fault_token}")
        end = chunk.start + len(chunk.token_ids)
        row = self._rows_SC[chunk.slot]
        assert chunk.start == 0 or (row[: chunk.start] >= 0).all(), "a chunk starts behind rows never written"
        row[chunk.start : end] = [token_id + _ADAPTER_STEP * chunk.adapter for token_id in chunk.token_ids]
        total = int(row[:end].sum())
        is_decode = chunk.start > 0 and len(chunk.token_ids) == 1
        token = chunk.token_ids[0] + 2 * chunk.start + total if is_decode else 3 * total + 1
        return int(token % self._vocab_size)

    def _choose(self, token: int, row: SamplingRow) -> TokenChoice | None:
        logits_V = np.zeros((1, self._vocab_size), np.float32)
        logits_V[0, token] = _LOGIT
        return self._sampler.choose(logits_V, None, [row])[0]

    def release(self) -> None:
        """Nothing to let go of."""
