"""LoRA adapters with random weights in directories as PEFT writes them, and what each adds to a checkpoint.

`write_adapter` follows the paper (arXiv 2106.09685), not the code under test: it returns `scale * B @ A` for each
checkpoint tensor, so that a test can merge by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_checkpoints import write_safetensors

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyAdapter:
    """What to write. `targets` are ends of module names; `ranks` and `alphas` are exceptions by such an end.

    `config` is put over what PEFT would write, `tensors` over the tensors; None leaves one out.
    """

    seed: int
    targets: tuple[str, ...]
    rank: int = 4
    alpha: float = 8.0
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False
    layers: tuple[int, ...] | None = None
    is_conv1d: bool = False
    dtype: str = "float32"
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, FloatArray | None] = field(default_factory=dict)

    def scale(self, module: str) -> float:
        """The factor on B A."""
        rank, end = self.rank_of(module), module.rsplit(".", 1)[-1]
        alpha = self.alphas.get(end, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def rank_of(self, module: str) -> int:
        """The rank of a module."""
        return self.ranks.get(module.rsplit(".", 1)[-1], self.rank)

    def is_for(self, module: str) -> bool:
        """Whether the module is adapted."""
        numbers = [int(part) for part in module.split(".") if part.isdigit()]
        is_layer = self.layers is None or bool(numbers and numbers[0] in self.layers)
        return is_layer and any(module.endswith(f".{target}") for target in self.targets)

    def document(self) -> dict[str, Any]:
        """The `adapter_config.json`."""
        return {
            "auto_mapping": None,
            "base_model_name_or_path": "org/base",
            "bias": "none",
            "fan_in_fan_out": self.is_conv1d,
            "inference_mode": True,
            "init_lora_weights": True,
            "layers_pattern": None,
            "layers_to_transform": None if self.layers is None else list(self.layers),
            "loftq_config": {},
            "lora_alpha": self.alpha,
            "lora_dropout": 0.05,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": dict(self.ranks),
            "alpha_pattern": dict(self.alphas),
            "revision": None,
            "target_modules": list(self.targets),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": self.is_rank_stabilized,
            **self.config,
        }


def write_adapter(
    directory: Path, adapter: TinyAdapter, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, FloatArray]:
    """Write the directory for a checkpoint with tensors of these shapes.

    Returns what the adapter adds to each of the checkpoint's tensors, stored as they are.
    """
    random = np.random.default_rng(adapter.seed)
    tensors: dict[str, FloatArray] = {}
    added: dict[str, FloatArray] = {}
    for name in sorted(shapes):
        module = name.removesuffix(".weight")
        if len(shapes[name]) != 2 or not adapter.is_for(module):
            continue
        out, width = shapes[name][::-1] if adapter.is_conv1d else shapes[name]
        rank = adapter.rank_of(module)
        down = (random.standard_normal((rank, width)) / math.sqrt(width)).astype(np.float32)
        up = (random.standard_normal((out, rank)) / 4).astype(np.float32)
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
        delta: FloatArray = (adapter.scale(module) * up.astype(np.float64) @ down).astype(np.float32)
        added[name] = np.ascontiguousarray(delta.T) if adapter.is_conv1d else delta
    assert tensors, "the adapter is for nothing in this checkpoint"
    changed = {name: values for name, values in {**tensors, **adapter.tensors}.items() if values is not None}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(adapter.document()), encoding="utf-8")
    write_safetensors(directory / "adapter_model.safetensors", changed, adapter.dtype)
    return added


def merged(weights: Mapping[str, FloatArray], added: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The checkpoint's tensors with what an adapter adds to them."""
    return {name: values + added[name] if name in added else values for name, values in weights.items()}
