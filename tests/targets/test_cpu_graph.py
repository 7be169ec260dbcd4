"""The compiled graph has the fused operations that its speed rests on, and settings are refused where they must be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import openvino as ov
import pytest
from cpu_helpers import limits, load_tiny

from ranvier.errors import OptionError
from ranvier.models import PackedWeights, SafetensorsCheckpoint, WeightPlan, spec_of, write_weights
from ranvier.targets.cpu.graph import build_decoder
from ranvier.targets.cpu.precision import has_bfloat16, resolve_precision
from tiny_checkpoints import TinyModel, write_checkpoint


def compiled_nodes(tmp_path: Path, model: TinyModel) -> Counter[str]:
    write_checkpoint(tmp_path / "checkpoint", model)
    checkpoint = SafetensorsCheckpoint(tmp_path / "checkpoint")
    plan = WeightPlan(quantize="int8", dtype="bfloat16")
    write_weights(checkpoint, plan, tmp_path / "weights", lambda done, total: None)
    graph, constants = build_decoder(spec_of(checkpoint.config), PackedWeights(tmp_path / "weights"), 128)
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    nodes = Counter(str(node.get_rt_info()["layerType"].value) for node in compiled.get_runtime_model().get_ops())
    del constants
    return nodes


def test_norms_rotary_and_attention_are_one_operation_each(tmp_path: Path) -> None:
    nodes = compiled_nodes(tmp_path, TinyModel(num_layers=3))
    assert nodes["RMS"] == 2 * 3 + 1
    assert nodes["RoPE"] == 2 * 3
    assert nodes["PagedAttention"] == 3
    products = sum(count for name, count in nodes.items() if name.startswith("FullyConnected"))
    assert products == 4 * 3 + 1, "q, k, v and gate, up are one product each"


def test_auto_follows_the_processor() -> None:
    core = ov.Core()
    settled = resolve_precision(core, "auto", "auto")
    assert settled.inference == settled.kv == ("bfloat16" if has_bfloat16(core) else "float32")


def test_a_kv_precision_that_attention_has_no_kernel_for_is_refused() -> None:
    message = "`kv_cache_dtype` must be float32 or u8 where `dtype` is float32. Given: bfloat16"
    with pytest.raises(OptionError) as caught:
        resolve_precision(ov.Core(), "float32", "bfloat16")
    assert str(caught.value) == message


def test_every_kv_precision_that_is_accepted_loads(tmp_path: Path) -> None:
    for kv in ("float32", "u8"):
        programs = load_tiny(tmp_path, TinyModel(), kv=kv)
        assert programs.details["kv_cache_dtype"] == kv


def test_a_kv_cache_that_does_not_fit_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ranvier.errors import SetupError
    from ranvier.targets.cpu import memory

    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(SetupError, match=r"the KV cache needs .* lower `--max-batch-size`"):
        load_tiny(tmp_path, TinyModel())


@pytest.mark.parametrize("kv", ["float32", "u8"])
def test_the_memory_claimed_beforehand_is_what_the_compiled_model_asks_for(tmp_path: Path, kv: str) -> None:
    """Were it less, pieces of it would be claimed late; were it more, they would be wasted."""
    from ranvier.targets.cpu.programs import _expected_kv_bytes

    model = TinyModel()
    programs = load_tiny(tmp_path, model, kv=kv)
    spec = spec_of(SafetensorsCheckpoint(tmp_path / "checkpoint").config)
    precision = resolve_precision(ov.Core(), "float32", kv)
    claimed = sum(cache.nbytes for cache in programs._caches)
    assert claimed == _expected_kv_bytes(spec, limits(), precision)
