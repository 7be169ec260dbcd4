"""What a model says about the columns of its matrices, against sums over what the plain NumPy decoder computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ranvier.models import SafetensorsCheckpoint, WeightPlan, spec_of, write_weights
from ranvier.targets.cpu.importance import measure_importance
from tiny_checkpoints import TinyModel, write_checkpoint

MODEL = TinyModel(num_layers=1)
IDS = [int(token) for token in np.random.default_rng(5).integers(4, 280, 60)]


def measured(folder: Path, ids: list[int], model: TinyModel = MODEL) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    checkpoint = SafetensorsCheckpoint(write_checkpoint(folder / "checkpoint", model))
    path = folder / "weights.safetensors"
    write_weights(checkpoint, WeightPlan(quantize="none", dtype="float32"), path, lambda done, total: None)
    return measure_importance(spec_of(checkpoint.config), path, ids)


def normalized(x: np.ndarray, weight: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * weight


def test_every_matrix_of_a_layer_is_measured_by_its_columns(tmp_path: Path) -> None:
    found = measured(tmp_path, IDS, TinyModel(num_layers=2))
    parts = {"q": 64, "k": 64, "v": 64, "o": 64, "gate": 64, "up": 64, "down": 96}

    assert {name: values.shape for name, values in found.items()} == {
        f"layers.{layer}.{part}": (width,) for layer in (0, 1) for part, width in parts.items()
    }


def test_the_first_product_sees_the_normalized_embeddings(tmp_path: Path) -> None:
    weights = MODEL.weights()
    x = normalized(weights["model.embed_tokens.weight"][IDS], weights["model.layers.0.input_layernorm.weight"])
    found = measured(tmp_path, IDS)

    # The target may run in bfloat16.
    assert found["layers.0.q"] == pytest.approx(np.mean(x**2, axis=0), rel=0.02)
    assert np.array_equal(found["layers.0.q"], found["layers.0.v"])


def test_windows_are_as_long_as_the_model_can_see_and_all_count(tmp_path: Path) -> None:
    model = TinyModel(num_layers=1, max_positions=32)
    weights = model.weights()
    x = normalized(weights["model.embed_tokens.weight"][IDS], weights["model.layers.0.input_layernorm.weight"])
    found = measured(tmp_path, IDS, model)["layers.0.q"]

    assert found == pytest.approx(np.mean(x[:30] ** 2, axis=0) + np.mean(x[30:] ** 2, axis=0), rel=0.02)


def test_no_tokens_tell_nothing(tmp_path: Path) -> None:
    assert measured(tmp_path, []) == {}
