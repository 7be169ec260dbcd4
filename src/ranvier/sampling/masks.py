"""Bit masks over the vocabulary, `V` tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def masked(logits_V: npt.NDArray[np.float32], allowed: bytes) -> npt.NDArray[np.float32]:
    """A copy of the row with -inf for every token t whose bit t % 8 of byte t // 8 is 0, or that has no byte."""
    # Never empty: numpy pads what is too short with zeros, but leaves the rest of nothing as it finds it.
    bits_V = np.unpackbits(np.frombuffer(allowed or b"\0", np.uint8), bitorder="little", count=logits_V.size)
    return np.where(bits_V.view(np.bool_), logits_V, np.float32(-np.inf))
