"""GGUF block kinds that are read as float32, against their definition in ggml, value by value.

Blocks are random bytes with scales that are ordinary numbers; each function below is the loop of ggml's
`dequantize_row_*` (https://github.com/ggml-org/ggml, `ggml-quants.c`) for one block.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import tiny_checkpoints
from ranvier.models.gguf_file import GgufCheckpoint
from ranvier.models.weights import Dense
from tiny_checkpoints import TinyModel, write_gguf

Bytes = npt.NDArray[np.uint8]
MODEL = TinyModel(num_layers=1, hidden_size=256, intermediate_size=256, num_heads=4, head_dim=64, vocab_size=300)
NAME = "model.layers.0.mlp.up_proj.weight"
NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def half(block: Bytes, at: int) -> float:
    return float(block[at : at + 2].copy().view(np.float16)[0])


def q5_0(b: Bytes) -> list[float]:
    d, high, q = half(b, 0), int(b[2:6].copy().view(np.uint32)[0]), [int(x) for x in b[6:]]
    low = [d * (((q[j] & 15) | ((high >> j) & 1) << 4) - 16) for j in range(16)]
    return low + [d * (((q[j] >> 4) | ((high >> (j + 16)) & 1) << 4) - 16) for j in range(16)]


def q5_1(b: Bytes) -> list[float]:
    d, m, high, q = half(b, 0), half(b, 2), int(b[4:8].copy().view(np.uint32)[0]), [int(x) for x in b[8:]]
    low = [d * ((q[j] & 15) | ((high >> j) & 1) << 4) + m for j in range(16)]
    return low + [d * ((q[j] >> 4) | ((high >> (j + 16)) & 1) << 4) + m for j in range(16)]


def q2_k(b: Bytes) -> list[float]:
    scales, q, d, least = [int(x) for x in b[:16]], [int(x) for x in b[16:80]], half(b, 80), half(b, 82)
    out = []
    for group in range(16):
        half_block, shift, part = group // 8, 2 * (group % 8 // 2), group % 2
        for index in range(16):
            code = (q[32 * half_block + 16 * part + index] >> shift) & 3
            out.append(d * (scales[group] & 15) * code - least * (scales[group] >> 4))
    return out


def q3_k(b: Bytes) -> list[float]:
    mask, q, packed, d = [int(x) for x in b[:32]], [int(x) for x in b[32:96]], [int(x) for x in b[96:108]], half(b, 108)
    out = []
    for group in range(16):
        low = (packed[group % 8] >> (4 * (group // 8))) & 15
        scale = (low | ((packed[8 + group % 4] >> (2 * (group // 4))) & 3) << 4) - 32
        half_block, step, part = group // 8, group % 8 // 2, group % 2
        for index in range(16):
            code = (q[32 * half_block + 16 * part + index] >> (2 * step)) & 3
            is_high = mask[16 * part + index] >> (4 * half_block + step) & 1
            out.append(d * scale * (code - (0 if is_high else 4)))
    return out


def scale_and_minimum(j: int, s: list[int]) -> tuple[int, int]:
    if j < 4:
        return s[j] & 63, s[j + 4] & 63
    return (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)


def q4_k(b: Bytes) -> list[float]:
    d, least, s, q = half(b, 0), half(b, 2), [int(x) for x in b[4:16]], [int(x) for x in b[16:]]
    out = []
    for j in range(8):
        scale, minimum = scale_and_minimum(j, s)
        out += [d * scale * ((q[32 * (j // 2) + i] >> (4 * (j % 2))) & 15) - least * minimum for i in range(32)]
    return out


def q5_k(b: Bytes) -> list[float]:
    d, least, s = half(b, 0), half(b, 2), [int(x) for x in b[4:16]]
    high, q = [int(x) for x in b[16:48]], [int(x) for x in b[48:]]
    out = []
    for j in range(8):
        scale, minimum = scale_and_minimum(j, s)
        for i in range(32):
            code = ((q[32 * (j // 2) + i] >> (4 * (j % 2))) & 15) + (16 if high[i] >> j & 1 else 0)
            out.append(d * scale * code - least * minimum)
    return out


def iq4_nl(b: Bytes) -> list[float]:
    d, q = half(b, 0), [int(x) for x in b[2:]]
    return [d * NONLINEAR[x & 15] for x in q] + [d * NONLINEAR[x >> 4] for x in q]


def iq4_xs(b: Bytes) -> list[float]:
    d, high, low, q = (
        half(b, 0),
        int(b[2:4].copy().view(np.uint16)[0]),
        [int(x) for x in b[4:8]],
        [int(x) for x in b[8:]],
    )
    out = []
    for group in range(8):
        scale = (((low[group // 2] >> (4 * (group % 2))) & 15) | ((high >> (2 * group)) & 3) << 4) - 32
        part = q[16 * group : 16 * group + 16]
        out += [d * scale * NONLINEAR[x & 15] for x in part] + [d * scale * NONLINEAR[x >> 4] for x in part]
    return out


KINDS: dict[str, tuple[Callable[[Bytes], list[float]], int, int, tuple[int, ...]]] = {
    # definition, values in a block, bytes of a block, where its float16 numbers are
    "Q5_0": (q5_0, 32, 22, (0,)),
    "Q5_1": (q5_1, 32, 24, (0, 2)),
    "Q2_K": (q2_k, 256, 84, (80, 82)),
    "Q3_K": (q3_k, 256, 110, (108,)),
    "Q4_K": (q4_k, 256, 144, (0, 2)),
    "Q5_K": (q5_k, 256, 176, (0, 2)),
    "IQ4_NL": (iq4_nl, 32, 18, (0,)),
    "IQ4_XS": (iq4_xs, 256, 136, (0,)),
}


def random_blocks(kind: str, rows: int, columns: int) -> Bytes:
    _, values, size, halves = KINDS[kind]
    random = np.random.default_rng(rows)
    blocks = random.integers(0, 256, (rows, columns // values, size)).astype(np.uint8)
    for at in halves:
        numbers = random.uniform(1e-3, 1e-2, blocks.shape[:2]).astype(np.float16)
        blocks[..., at : at + 2] = numbers[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_stand_for_what_ggml_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    plain = tiny_checkpoints.quantized
    blocks = random_blocks(kind, 256, 256)
    # The package cannot write most of these kinds.
    monkeypatch.setattr(
        tiny_checkpoints, "quantized", lambda values, chosen: blocks if chosen == kind else plain(values, chosen)
    )
    checkpoint = GgufCheckpoint(write_gguf(tmp_path / "model.gguf", MODEL, kinds={NAME: kind}))
    weight = checkpoint.read(NAME)
    define, _, size, _ = KINDS[kind]
    expected = [sum((define(block) for block in row.reshape(-1, size)), []) for row in blocks[:8]]

    assert isinstance(weight, Dense)
    assert weight.shape == (256, 256)
    assert checkpoint.was_quantized(NAME)
    np.testing.assert_allclose(weight.values[:8], np.array(expected), rtol=1e-5, atol=1e-6)
