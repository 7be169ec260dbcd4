"""The CPU target: one OpenVINO model over the flat tokens of all chunks, paged attention, sampling on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import Type

from ranvier.core import Capabilities, Limits, StepPlan, StepResult
from ranvier.errors import SetupError
from ranvier.models import Adapter, DecoderSpec, PackedWeights
from ranvier.sampling import HostSampler
from ranvier.targets.cpu.adapters import ADAPTERS_INPUT
from ranvier.targets.cpu.blocks import BlockTable
from ranvier.targets.cpu.graph import build_decoder, step_inputs
from ranvier.targets.cpu.memory import Arena, Bytes, require_memory
from ranvier.targets.cpu.ops import BLOCK_TOKENS, Constants
from ranvier.targets.cpu.precision import Precision, resolve_precision
from ranvier.targets.cpu.scores import scores, wanted_rows

OPENVINO_RELEASE = "2026.4.1"
_HINTS = {"float32": "f32", "bfloat16": "bf16", "u8": "u8"}
_ELEMENT_BYTES = {Type.f32: 4, Type.bf16: 2, Type.u8: 1, Type.f16: 2}
_U8_EXTRA = 8
"""Rows or columns by which 8-bit caches are larger: the scales live in them."""
CAPABILITIES = Capabilities(mixed_steps=True, chunk_multiple=BLOCK_TOKENS, prefix_sharing=True)

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuOptions:
    """What the user may choose; `auto` is settled from the processor, `num_threads` 0 means one for each core."""

    dtype: str
    kv_cache_dtype: str
    num_threads: int


def load_cpu(
    spec: DecoderSpec, weights_path: Path, limits: Limits, options: CpuOptions, adapters: Sequence[Adapter] = ()
) -> CpuPrograms:
    """Compile the model and claim its KV memory; requests may use one of the `adapters` each.

    Raises `SetupError` when OpenVINO has another version than the graph is written for, or memory does not suffice.
    """

    def build() -> tuple[ov.Model, Constants]:
        is_bfloat16 = resolve_precision(ov.Core(), options.dtype, options.kv_cache_dtype).inference == "bfloat16"
        weights = PackedWeights(weights_path)
        return build_decoder(spec, weights, limits.sequence_length, adapters, is_bfloat16=is_bfloat16)

    return compile_cpu(spec, build, limits, options, tuple(each.name for each in adapters))


def compile_cpu(
    spec: DecoderSpec,
    build: Callable[[], tuple[ov.Model, Constants]],
    limits: Limits,
    options: CpuOptions,
    adapters: tuple[str, ...] = (),
) -> CpuPrograms:
    """Programs of the model that `build` makes, which may have further outputs. Raises as `load_cpu` does.

    `adapters` names those in the model.
    """
    if not ov.__version__.startswith(OPENVINO_RELEASE):
        raise SetupError(f"the cpu target is written for openvino {OPENVINO_RELEASE}; {ov.__version__} is installed")
    core = ov.Core()
    precision = resolve_precision(core, options.dtype, options.kv_cache_dtype)
    kv_bytes = _expected_kv_bytes(spec, limits, precision)
    require_memory(kv_bytes, limits.batch_size * limits.sequence_length)
    arena = Arena(kv_bytes)
    model, constants = build()
    config: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[precision.inference],
        "KV_CACHE_PRECISION": _HINTS[precision.kv],
    }
    if precision.inference == "float32":
        # Whoever asks for float32 wants no activations rounded to int8. Under bfloat16 the plugin's default stays: it
        # takes a quarter less time at 16 slots, and without it the kernels of different batch sizes round differently.
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    if options.num_threads:
        config["INFERENCE_NUM_THREADS"] = options.num_threads
    compiled = core.compile_model(model, "CPU", config)
    return CpuPrograms(compiled, limits, precision, arena, constants, adapters)


class CpuPrograms:
    """A compiled decoder with its KV cache. Owned by one thread."""

    def __init__(
        self,
        compiled: ov.CompiledModel,
        limits: Limits,
        precision: Precision,
        arena: Arena,
        constants: Constants,
        adapters: tuple[str, ...] = (),
    ) -> None:
        self._capabilities = replace(CAPABILITIES, adapters=adapters)
        self._constants = constants
        self._precision = precision
        self._spare_block = _num_blocks(limits) - 1
        self._blocks = BlockTable(limits.batch_size, self._spare_block // limits.batch_size)
        self._threads = compiled.get_property("INFERENCE_NUM_THREADS")
        self._request = compiled.create_infer_request()
        names = step_inputs(adapters)
        self._ports = {name: compiled.input(name) for name in names}
        cache_ports = compiled.inputs[len(names) :]
        self._caches = _claim_caches(cache_ports, self._request, self._spare_block + 1, arena)
        self._num_outputs = len(compiled.outputs)
        self._sampler = HostSampler()

    @property
    def capabilities(self) -> Capabilities:
        """Mixed steps, cuts at block borders, shared prefixes, every sampling parameter, the adapters loaded."""
        return self._capabilities

    @property
    def details(self) -> dict[str, str]:
        """Precisions, threads, library version, KV memory."""
        return {
            "dtype": self._precision.inference,
            "kv_cache_dtype": self._precision.kv,
            "threads": str(self._threads),
            "openvino": str(ov.__version__),
            "kv_cache_mb": str(sum(cache.nbytes for cache in self._caches) // 2**20),
        }

    def run(self, plan: StepPlan) -> StepResult:
        """See `Programs.run`. Time grows with the tokens of the plan; the GIL is released while the model runs."""
        for share in plan.shares:
            self._blocks.share(share.source, share.target, share.num_tokens // BLOCK_TOKENS)
        inputs = self._step_inputs(plan)
        tensors = {name: ov.Tensor(values, shared_memory=True) for name, values in inputs.items()}
        for name, tensor in tensors.items():
            self._request.set_tensor(self._ports[name], tensor)
        self._request.infer()
        began = time.monotonic()
        num_rows = len(plan.rows)
        logits_RV = self._request.get_output_tensor(0).data
        log_sums_R = self._request.get_output_tensor(1).data[:, 0]
        choices = self._sampler.choose(logits_RV[:num_rows], log_sums_R[:num_rows], plan.rows)
        num_padded = len(inputs["ids"]) - sum(len(chunk.token_ids) for chunk in plan.chunks)
        return StepResult(
            choices,
            scores(plan, logits_RV, log_sums_R),
            choosing_s=time.monotonic() - began,
            num_padded_tokens=num_padded,
        )

    def further_outputs(self) -> list[npt.NDArray[np.float32]]:
        """Copies of what the last step gave behind logits and their normalisers, where the model has more outputs."""
        return [self._request.get_output_tensor(index).data.copy() for index in range(2, self._num_outputs)]

    def _step_inputs(self, plan: StepPlan) -> dict[str, Ints]:
        chunks = plan.chunks
        lengths = [len(chunk.token_ids) for chunk in chunks]
        tables = []
        for chunk, length in zip(chunks, lengths, strict=True):
            end = -(-(chunk.start + length) // BLOCK_TOKENS)
            self._blocks.own(chunk.slot, chunk.start // BLOCK_TOKENS, end)
            tables.append(self._blocks.row(chunk.slot, end))
        ids = [np.asarray(chunk.token_ids, np.int32) for chunk in chunks]
        positions = [
            np.arange(chunk.start, chunk.start + n, dtype=np.int32) for chunk, n in zip(chunks, lengths, strict=True)
        ]
        starts = [chunk.start for chunk in chunks]
        if sum(lengths) == 1:
            # A lone token goes through other kernels, which round differently now and then; a second one, whose
            # result nobody reads, keeps it company, so that a text does not depend on who else is served.
            tables.append(np.array([self._spare_block], np.int32))
            ids.append(ids[0])
            positions.append(np.zeros(1, np.int32))
            starts.append(0)
            lengths.append(1)
        begins = _offsets(lengths)
        inputs = {
            "ids": np.concatenate(ids),
            "positions": np.concatenate(positions),
            "past_lens": np.array(starts, np.int32),
            "begins": begins,
            "blocks": np.concatenate(tables),
            "block_begins": _offsets([len(table) for table in tables]),
            "max_context": np.array(max(s + n for s, n in zip(starts, lengths, strict=True)), np.int32),
            "rows": wanted_rows(plan, begins),
        }
        if self._capabilities.adapters:
            # The token that keeps a lone one company has no adapter.
            chosen = [chunk.adapter for chunk in chunks] + [0] * (len(lengths) - len(chunks))
            inputs[ADAPTERS_INPUT] = np.repeat(np.array(chosen, np.int32), lengths)
        return inputs

    def release(self) -> None:
        """Drop the model and the KV cache."""
        del self._request, self._constants
        self._caches.clear()

    def check(self) -> None:
        """Assert the block table's invariant."""
        self._blocks.check()


def _offsets(lengths: list[int]) -> Ints:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _expected_kv_bytes(spec: DecoderSpec, limits: Limits, precision: Precision) -> int:
    """What the cache will take by the shapes seen so far; the compiled model has the last word."""
    rows, width, extra = BLOCK_TOKENS, spec.head_dim, _U8_EXTRA if precision.kv == "u8" else 0
    values = (rows + extra) * width + rows * (width + extra)
    num_bytes = {"u8": 1, "bfloat16": 2, "float32": 4}[precision.kv]
    return spec.num_layers * _num_blocks(limits) * spec.num_kv_heads * values * num_bytes


def _num_blocks(limits: Limits) -> int:
    """Blocks of all slots, and one for the token that keeps a lone one company."""
    return limits.batch_size * -(-limits.sequence_length // BLOCK_TOKENS) + 1


def _claim_caches(
    ports: Sequence[ov.ConstOutput], request: ov.InferRequest, num_blocks: int, arena: Arena
) -> list[Bytes]:
    """Set a piece of the arena on the request for each cache port; the request keeps them for good."""
    caches = []
    for port in ports:
        shape = [num_blocks, *(dim.get_length() for dim in list(port.partial_shape)[1:])]
        memory = arena.take(int(np.prod(shape)) * _ELEMENT_BYTES[port.element_type])
        request.set_tensor(port, ov.Tensor(memory, ov.Shape(shape), port.element_type))
        caches.append(memory)
    return caches
