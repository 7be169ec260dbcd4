"""Rows of logits a step asks for: those that choose a token first, then those that score a prompt.

Shapes: `R` rows, `V` vocabulary, `N` scored tokens of all chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ranvier.core import StepPlan

Ints = npt.NDArray[np.int32]


def wanted_rows(plan: StepPlan, begins: Ints) -> Ints:
    """Indices of flat tokens, `[R]`. Two at least: a lone row goes through kernels that round differently."""
    last = [begins[index + 1] - 1 for index, chunk in enumerate(plan.chunks) if chunk.wants_logits]
    scored = [
        begins[index] + offset for index, chunk in enumerate(plan.chunks) for offset in range(len(chunk.scored_ids))
    ]
    rows = last + scored
    return np.array((rows + [0, 0])[: max(2, len(rows))], np.int32)


def scores(
    plan: StepPlan, logits_RV: npt.NDArray[np.float32], log_sums_R: npt.NDArray[np.float32]
) -> tuple[tuple[float, ...], ...]:
    """Log-probabilities for each chunk with `scored_ids`, from the rows of `wanted_rows`."""
    parts: list[Sequence[int]] = [chunk.scored_ids for chunk in plan.chunks if chunk.scored_ids]
    if not parts:
        return ()
    ids_N = np.concatenate([np.asarray(part, np.int64) for part in parts])
    first = len(plan.rows)
    rows_N = np.arange(first, first + ids_N.size)
    logprobs = (logits_RV[rows_N, ids_N] - log_sums_R[rows_N]).tolist()
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return tuple(tuple(logprobs[end - len(part) : end]) for part, end in zip(parts, ends, strict=True))
