"""A stand-in for a loaded optimum-neuron artifact: a real decoder on the CPU behind the library's own rules.

What the library does, this does, harm included: it routes by width and smallest position, pads prompts on the right
and crops them at the end, fills missing rows with copies of the first, and writes a KV row for every row of a call.
Rules and order are those of optimum-neuron 0.4.5 and, for chunks, of its repository in August 2026, as read and as run
on a CPU: wrappers `ModelWrapper` and `DecoderModelInstance`, KV cache manager, `NxDModelForCausalLM.forward`. Not like
a device: nothing is rounded to bfloat16, drawn tokens come from NumPy, and what a device does undefined raises here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranvier.models import DecoderSpec
from ranvier.targets.nxd.cores import CoreRegistry
from ranvier.targets.nxd.model import Floats, Ints, NxdShape, Output

_PAD_ID, _PAD_POSITION = 0, 1
_MASKED = -3000.0
"""What the device's sampler adds up for candidates that are out, as the library has it."""

Rows = npt.NDArray[np.int32]


class FakeNxdModel:
    """See `NxdModel`. Needs JAX, which has Python 3.11 and later.

    * `cores`: where `shape.tp_degree` cores are claimed from `first_core` on; they stay taken until `release`.
    * `seed`: of the tokens that are drawn "on the device", which has no seed that a caller could set.

    Raises `RuntimeError`, with the runtime's text, where cores are taken or the registry has been told to fail.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        weights_path: Path,
        shape: NxdShape,
        cores: CoreRegistry | None = None,
        *,
        first_core: int = 0,
        seed: int = 0,
    ) -> None:
        self._shape, self._registry = shape, cores
        self._claimed = range(first_core, first_core + shape.tp_degree)
        if cores is not None:
            cores.claim(self._claimed)
        # JAX comes with the package: it is imported only where a model is wanted.
        from ranvier.targets.neuron.static_rows import StaticRows

        self._graphs = StaticRows(
            spec,
            weights_path,
            batch_size=shape.batch_size,
            sequence_length=shape.sequence_length,
            chunk_size=shape.prefill_chunk_size,
        )
        self._random = np.random.default_rng(seed)

    @property
    def shape(self) -> NxdShape:
        """As given."""
        return self._shape

    @property
    def details(self) -> Mapping[str, str]:
        """That it is a stand-in."""
        return {"platform": "fake-neuron"}

    def release(self) -> None:
        """Free the cores."""
        self._graphs.release()
        if self._registry is not None:
            self._registry.free(self._claimed)

    def kv_rows(self) -> Floats:
        """A copy of all keys and values `[2 * layers, B, K, C, E]`."""
        return self._graphs.rows()

    def forward(self, input_ids: Ints, position_ids: Ints, seq_ids: Ints, sampling_params: Floats) -> Output:
        """See `NxdModel.forward`. Raises `ValueError` where the library does or the graphs have no such shape."""
        ids, positions, slots, sampling = self._cast(input_ids, position_ids, seq_ids, sampling_params)
        is_prompt = ids.shape[1] > 1 and int(positions.min()) == 0
        if is_prompt and self._shape.prefill_chunk_size:
            raise ValueError("the model was compiled for chunked prefill: call prefill_chunk instead")
        if is_prompt:
            return self._prompts(ids, positions, slots, sampling)
        return self._next_tokens(ids, positions, slots, sampling)

    def prefill_chunk(self, input_ids: Ints, position_ids: Ints, seq_ids: Ints, sampling_params: Floats) -> Floats:
        """See `NxdModel.prefill_chunk`: a short chunk is filled with its last token at its last position."""
        ids, positions, slots, _ = self._cast(input_ids, position_ids, seq_ids, sampling_params)
        size, width = self._shape.prefill_chunk_size, ids.shape[1]
        if not size:
            raise ValueError("the model was not compiled for chunked prefill")
        if len(ids) != 1 or width > size:
            raise ValueError(f"no graph for input shape {ids.shape}, only [1, {size}]")
        filled = np.minimum(np.arange(size), width - 1)
        ids, positions = ids[0, filled], positions[0, filled]
        start = int(positions[0])
        num_real = int(positions[-1]) - start + 1
        expected = start + np.minimum(np.arange(size), num_real - 1)
        if not np.array_equal(positions, expected):
            # A scatter would take any; no caller has a use for it.
            raise ValueError(f"positions of a chunk must count up and then repeat the last. Given: {positions}")
        self._require_inside(positions)
        return self._graphs.chunk(int(slots[0]), ids, positions, num_real)[None, None]

    def _cast(self, ids: Ints, positions: Ints, slots: Ints, sampling: Floats) -> tuple[Rows, Rows, Rows, Floats]:
        """All as 32-bit, as the library casts them, and the checks that come before any routing."""
        num_rows = len(ids)
        if num_rows > self._shape.batch_size:
            raise ValueError(f"input batch size {num_rows} exceeds the maximum batch size {self._shape.batch_size}")
        if positions.shape != ids.shape or slots.shape != (num_rows,) or sampling.shape != (num_rows, 3):
            shapes = [ids.shape, positions.shape, slots.shape, sampling.shape]
            raise ValueError(f"no graph for input shapes {shapes}")
        if num_rows and not (0 <= int(slots.min()) and int(slots.max()) < self._shape.batch_size):
            raise ValueError(f"seq_ids must lie within 0 … {self._shape.batch_size - 1}. Given: {slots}")
        if self._shape.on_device_sampling:
            _check_sampling(sampling, self._shape.max_topk)
        return ids.astype(np.int32), positions.astype(np.int32), slots.astype(np.int32), sampling.astype(np.float32)

    def _prompts(self, ids: Rows, positions: Rows, slots: Rows, sampling: Floats) -> Output:
        """The context graph, which has one row, for each prompt in turn."""
        width = self._shape.max_context_length
        ids, positions = _fitted(ids, width, _PAD_ID), _fitted(positions, width, _PAD_POSITION)
        logits = [
            # The last token is where the position is largest, whatever stands there.
            self._graphs.prefill(int(slot), ids[row], positions[row], int(positions[row].argmax()))
            for row, slot in enumerate(slots)
        ]
        return self._output(np.stack(logits), sampling)

    def _next_tokens(self, ids: Rows, positions: Rows, slots: Rows, sampling: Floats) -> Output:
        """The decode graph, in which row i is slot i whatever `seq_ids` say."""
        num_rows, size = len(ids), self._shape.batch_size
        if ids.shape[1] != 1:
            raise ValueError(f"no graph for input shape {ids.shape}, only [{size}, 1]")
        unused = [slot for slot in range(size) if slot not in slots.tolist()]
        filled = np.minimum(np.arange(size), num_rows) % num_rows
        ids, positions, sampling = ids[filled, 0], positions[filled, 0], sampling[filled]
        slots = np.concatenate([slots, np.array(unused, np.int32)])[:size]
        if self._shape.continuous_batching:
            order = slots.argsort(kind="stable")
            ids, positions, sampling = ids[order], positions[order], sampling[order]
        self._require_inside(positions)
        output = self._output(self._graphs.decode(ids, positions), sampling)
        return (output[slots] if self._shape.continuous_batching else output)[:num_rows]

    def _require_inside(self, positions: Rows) -> None:
        if int(positions.min()) < 0 or int(positions.max()) >= self._shape.sequence_length:
            raise RuntimeError(
                f"nrt_execute failed: NRT_EXEC_OOB (1006), scatter to {int(positions.max())} in a KV cache of "
                f"{self._shape.sequence_length} rows"
            )

    def _output(self, logits_NV: Floats, sampling: Floats) -> Output:
        if not self._shape.on_device_sampling:
            return logits_NV[:, None]
        draws = self._random.random(len(logits_NV))
        pairs = zip(logits_NV, sampling.tolist(), draws.tolist(), strict=True)
        return np.array([_drawn(row, tuple(three), u, self._shape.max_topk) for row, three, u in pairs], np.int32)


def _fitted(rows: Rows, width: int, fill: int) -> Rows:
    """Rows padded on the right, or cut off at the end: the library's padding primitive takes a negative length."""
    missing = max(0, width - rows.shape[1])
    return np.pad(rows, ((0, 0), (0, missing)), constant_values=fill)[:, :width]


def _check_sampling(sampling: Floats, max_topk: int) -> None:
    for top_k, top_p, temperature in sampling.tolist():
        if top_k != -1 and not (top_k == int(top_k) and 1 <= top_k <= max_topk):
            raise ValueError(f"Invalid top-k values: -1 or 1 … {max_topk}. Given: {top_k}")
        if not 0 < top_p <= 1:
            raise ValueError(f"Invalid top-p values: > 0 and <= 1. Given: {top_p}")
        if not temperature > 0:
            raise ValueError(f"Invalid temperature values: > 0. Given: {temperature}")


def _drawn(logits_V: Floats, sampling: Iterable[float], uniform: float, max_topk: int) -> int:
    """Top-k of the `max_topk` largest, then temperature, then top-p, then a uniform against the cumulative sum."""
    top_k, top_p, temperature = sampling
    candidates = np.argsort(-logits_V, kind="stable")[:max_topk]
    values = logits_V[candidates].astype(np.float64)
    if top_k != -1:
        values[int(top_k) :] = _MASKED
    values = values / temperature
    weights = np.exp(values - values.max())
    cumulative = np.cumsum(weights / weights.sum())
    # The first candidate always stays.
    kept = np.concatenate([[True], cumulative[:-1] < top_p])
    cumulative = np.cumsum(np.where(kept, weights, 0.0))
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return int(candidates[min(index, int(kept.sum()) - 1)])
