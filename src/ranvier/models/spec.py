"""`DecoderSpec`: what a decoder-only transformer is, in numbers. Both graph builders read it and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Positions divided by `factor` (config `rope_scaling.rope_type` = `linear`)."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1 scaling: low frequencies divided by `factor`, high ones kept, a smooth ramp between.

    Fields as in the checkpoint's `rope_scaling`; the formula is that of the Llama 3.1 reference code.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorScaling:
    """Each frequency divided by its own factor (`rope_freqs.weight` of a GGUF file); `head_dim / 2` factors."""

    factors: tuple[float, ...]


RopeScaling = LinearScaling | Llama3Scaling | FactorScaling


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary position embedding over all `head_dim` dimensions, halves rotated (the Hugging Face layout)."""

    theta: float
    scaling: RopeScaling | None = None

    def inverse_frequencies(self, head_dim: int) -> npt.NDArray[np.float64]:
        """Radians per position of each dimension pair, shape `[head_dim / 2]`."""
        plain = 1.0 / self.theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        if self.scaling is None:
            return plain
        if isinstance(self.scaling, LinearScaling):
            return plain / self.scaling.factor
        if isinstance(self.scaling, FactorScaling):
            return plain / np.asarray(self.scaling.factors, dtype=np.float64)
        return _llama3_frequencies(plain, self.scaling)


def _llama3_frequencies(plain: npt.NDArray[np.float64], scaling: Llama3Scaling) -> npt.NDArray[np.float64]:
    turns = scaling.original_max_positions * plain / (2.0 * np.pi)
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = np.clip(ramp, 0.0, 1.0)
    return plain * keep + plain / scaling.factor * (1.0 - keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A pre-norm decoder with rotary grouped-query attention and a gated SiLU MLP.

    Sizes in elements. `num_heads` is a multiple of `num_kv_heads`. `max_positions` is the longest sequence the model
    was made for. With `has_tied_head` the output projection is the embedding table.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    max_positions: int
    rope: RopeSpec
    has_tied_head: bool
    has_attention_bias: bool
    has_mlp_bias: bool

    @property
    def num_parameters(self) -> int:
        """Trainable values, the tied head counted once."""
        width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (2 * width + 2 * kv_width)
        mlp = 3 * self.hidden_size * self.intermediate_size
        biases = self.has_attention_bias * (width + 2 * kv_width + self.hidden_size)
        biases += self.has_mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        layer = attention + mlp + biases + 2 * self.hidden_size
        tables = self.vocab_size * self.hidden_size * (1 if self.has_tied_head else 2)
        return self.num_layers * layer + tables + self.hidden_size

    def kv_bytes_per_token(self, bytes_per_value: float) -> int:
        """KV cache bytes that one token takes over all layers."""
        return int(2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value)
