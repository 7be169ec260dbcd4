"""Rotary position embedding, in numbers: base, rotated part, and the scalings that lengthen a context."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Frequencies = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Positions divided by `factor` (config `rope_scaling.rope_type` = `linear`)."""

    factor: float

    def scale(self, plain: Frequencies, rope: RopeSpec, sequence_length: int) -> Frequencies:
        """The frequencies to use instead of `plain`."""
        return plain / self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1 scaling: low frequencies divided by `factor`, high ones kept, a smooth ramp between.

    Fields as in the checkpoint's `rope_scaling`; the formula is that of the Llama 3.1 reference code.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def scale(self, plain: Frequencies, rope: RopeSpec, sequence_length: int) -> Frequencies:
        """The frequencies to use instead of `plain`."""
        turns = self.original_max_positions * plain / (2.0 * np.pi)
        ramp = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        keep = np.clip(ramp, 0.0, 1.0)
        return plain * keep + plain / self.factor * (1.0 - keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorScaling:
    """Each frequency divided by its own factor (`rope_freqs.weight` of a GGUF file); `rotary_dim / 2` factors."""

    factors: tuple[float, ...]

    def scale(self, plain: Frequencies, rope: RopeSpec, sequence_length: int) -> Frequencies:
        """The frequencies to use instead of `plain`."""
        return plain / np.asarray(self.factors, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongScaling:
    """LongRoPE: one set of factors up to `original_max_positions`, another beyond (arXiv:2402.13753).

    Which set is used follows from the longest sequence that is served, not from each request's length: cached keys
    were rotated with one set, and a sequence that grows past the border cannot be rotated anew. `magnitude`
    multiplies cosines and sines in both cases.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_positions: int
    magnitude: float

    def scale(self, plain: Frequencies, rope: RopeSpec, sequence_length: int) -> Frequencies:
        """The frequencies to use instead of `plain`."""
        is_long = sequence_length > self.original_max_positions
        return plain / np.asarray(self.long_factors if is_long else self.short_factors, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """YaRN: frequencies between `beta_fast` and `beta_slow` turns over the original context blend into divided ones.

    arXiv:2309.00071; the borders are rounded outwards where `is_truncated`. `magnitude` multiplies cosines and sines.
    """

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_positions: int
    is_truncated: bool
    magnitude: float

    def scale(self, plain: Frequencies, rope: RopeSpec, sequence_length: int) -> Frequencies:
        """The frequencies to use instead of `plain`."""
        low, high = self._border(rope, self.beta_fast), self._border(rope, self.beta_slow)
        if self.is_truncated:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rope.rotary_dim - 1)
        high = high if high != low else high + 0.001
        divide: Frequencies = np.clip((np.arange(len(plain)) - low) / (high - low), 0.0, 1.0)
        return plain / self.factor * divide + plain * (1.0 - divide)

    def _border(self, rope: RopeSpec, turns: float) -> float:
        """The pair of dimensions that makes so many turns over the original context."""
        wavelengths = self.original_max_positions / (turns * 2 * math.pi)
        return rope.rotary_dim * math.log(wavelengths) / (2 * math.log(rope.theta))


RopeScaling = LinearScaling | Llama3Scaling | FactorScaling | LongScaling | YarnScaling


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary position embedding over the first `rotary_dim` dimensions of a head, halves rotated.

    "Halves" is the Hugging Face layout: dimension i pairs with i + rotary_dim / 2.
    """

    theta: float
    rotary_dim: int
    scaling: RopeScaling | None = None

    def inverse_frequencies(self, sequence_length: int) -> Frequencies:
        """Radians per position of each dimension pair, shape `[rotary_dim / 2]`.

        `sequence_length` is the longest sequence that will be served.
        """
        plain = 1.0 / self.theta ** (np.arange(0, self.rotary_dim, 2, dtype=np.float64) / self.rotary_dim)
        return plain if self.scaling is None else self.scaling.scale(plain, self, sequence_length)

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by; 1 but for LongRoPE and YaRN."""
        return self.scaling.magnitude if isinstance(self.scaling, (LongScaling, YarnScaling)) else 1.0
