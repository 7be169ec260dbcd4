"""Export to int4: the model reads the sample text first, and nothing of that is left in the artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from export_requests import MODEL, quiet, request

from ranvier.errors import ModelError
from ranvier.export import export, open_checkpoint
from ranvier.models import PackedWeights
from ranvier.models.quantize import quantize_int4
from ranvier.models.weights import Int4, dequantize
from tiny_checkpoints import write_checkpoint


def error_of(up: np.ndarray, held: Int4) -> float:  # type: ignore[type-arg]
    return float(np.sum((dequantize(held) - up) ** 2))


def test_columns_are_weighted_by_what_the_model_does_with_them(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", MODEL)
    artifact = export(request(checkpoint, quantize="int4"), tmp_path / "artifact", quiet)
    held = PackedWeights(artifact.weights_path).read("layers.0.up")
    up = MODEL.weights()["model.layers.0.mlp.up_proj.weight"]

    assert isinstance(held, Int4)
    assert error_of(up, held) > error_of(up, quantize_int4(up))
    assert error_of(up, held) < 2 * error_of(up, quantize_int4(up))
    assert not list(artifact.directory.glob("rough*"))


def test_a_target_that_computes_nothing_weighs_columns_alike(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", MODEL)
    artifact = export(request(checkpoint, quantize="int4", target="scripted"), tmp_path / "artifact", quiet)
    up = MODEL.weights()["model.layers.0.mlp.up_proj.weight"]

    held = PackedWeights(artifact.weights_path).read("layers.0.up")
    assert np.array_equal(dequantize(held), dequantize(quantize_int4(up)))


def test_an_artifact_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", MODEL)
    artifact = export(request(checkpoint), tmp_path / "artifact", quiet)
    with pytest.raises(ModelError) as caught:
        open_checkpoint(request(artifact.directory).source)
    assert str(caught.value) == (
        f"`model_id` {artifact.directory}: is an exported artifact already; give the checkpoint"
    )
