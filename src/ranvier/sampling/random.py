"""Random numbers that are a function of a seed and a counter.

Philox 4x64-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011
(https://doi.org/10.1145/2063384.2063405). It has no state: the draws of a request do not depend on what else is in
the batch, and any target can compute the same ones. In plain integers, since making a `numpy.random.Philox` for
every draw takes three times as long.
"""

from __future__ import annotations

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_MULTIPLIERS = (0xD2E7_470E_E14C_6C93, 0xCA5A_8263_9512_1157)
_KEY_STEPS = (0x9E37_79B9_7F4A_7C15, 0xBB67_AE85_84CA_A73B)
_ROUNDS = 10


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four random words for four counter words and two key words, all in [0, 2**64)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        low, high = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (high >> 64) ^ c1 ^ k0, high & _MASK, (low >> 64) ^ c3 ^ k1, low & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1), a multiple of 2**-53: the upper 53 bits of Philox's first word.

    The key is `(seed, 0)` and the counter `(counter, 0, 0, 0)`, both in [0, 2**64).
    """
    return (philox((counter, 0, 0, 0), (seed, 0))[0] >> 11) * 2.0**-53
