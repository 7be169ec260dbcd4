"""Logits processors that look at the tokens so far.

Shapes: `V` vocabulary, `U` distinct tokens of the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# From about here on counting over the vocabulary is faster than sorting the history.
_MANY = 8192


def penalized(
    logits_V: npt.NDArray[np.float32],
    history: Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    repetition_penalty: float,
    frequency_penalty: float,
    presence_penalty: float = 0.0,
    num_generated: int = 0,
) -> npt.NDArray[np.float32]:
    """A copy of the row with the logits of the tokens in `history` lowered (or raised).

    First the repetition penalty p, once for each distinct token: logit x p if negative, else logit / p (Keskar et al.
    2019, https://arxiv.org/abs/1909.05858, as Hugging Face applies it). Then the frequency penalty p, in
    Text Generation Inference's form: logit - p x (occurrences / `len(history)`). Last the presence penalty p, as the
    OpenAI API defines it: logit - p for each distinct token among the last `num_generated`, the output so far.

    `history` holds ids in [0, V) and may be empty. An array (`array.array`, numpy) is read without a copy; a list of
    100,000 costs about 2 ms to convert.
    """
    penalized_V: npt.NDArray[np.float32] = logits_V.copy()
    ids_U, counts_U = _counted(np.asarray(history, dtype=np.int64))
    # In float64, so that penalties outside float32's range do not turn into 0 or infinity before they are used.
    logits_U = logits_V[ids_U].astype(np.float64)
    logits_U = np.where(logits_U < 0, logits_U * repetition_penalty, logits_U / repetition_penalty)
    logits_U -= frequency_penalty * (counts_U / max(len(history), 1))
    penalized_V[ids_U] = logits_U
    if presence_penalty and num_generated:
        generated_U = np.unique(np.asarray(history[-num_generated:], dtype=np.int64))
        penalized_V[generated_U] -= np.float32(presence_penalty)
    return penalized_V


def _counted(history: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The distinct ids, ascending, and how often each occurs."""
    if history.size < _MANY:
        return np.unique(history, return_counts=True)
    counts = np.bincount(history)
    ids_U = np.flatnonzero(counts > 0)
    return ids_U, counts[ids_U]
