"""From a source to an artifact: what it holds, when it is made again, what it shares, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_requests import MODEL, quiet, request

from ranvier import __version__
from ranvier.artifacts import Artifact, ModelSource, open_artifact
from ranvier.errors import ArtifactError, ModelError, OptionError
from ranvier.export import export
from ranvier.models import PackedWeights, spec_of
from ranvier.models.families import family_of
from ranvier.models.weights import dequantize
from tiny_checkpoints import TOKENS, TinyModel, gguf_weights, tokenizer_document, write_checkpoint, write_gguf


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", MODEL)


def exported(folder: Path, path: Path, **changes: Any) -> Artifact:
    return export(request(path, **changes), folder / "artifact", quiet)


def values_of(artifact: Artifact, model: TinyModel) -> dict[str, np.ndarray[Any, Any]]:
    """Dequantized weights under the checkpoint's names."""
    names = family_of(model.config()).weight_names(spec_of(model.config()))
    packed = PackedWeights(artifact.weights_path)
    return {theirs.name: dequantize(packed.read(ours)) for ours, theirs in names.items()}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# What an artifact holds


def test_a_checkpoint_becomes_an_artifact(tmp_path: Path, checkpoint: Path) -> None:
    artifact = exported(tmp_path, checkpoint, revision="v1", batch_size=3, sequence_length=64, kv_cache_dtype="u8")
    manifest = artifact.manifest

    assert sorted(path.name for path in artifact.directory.iterdir()) == [
        "config.json",
        "generation_config.json",
        "ranvier.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "weights.safetensors",
    ]
    assert open_artifact(tmp_path / "artifact") == artifact
    assert (manifest.model_id, manifest.revision, manifest.target) == (str(checkpoint), "v1", "cpu")
    assert (manifest.batch_size, manifest.sequence_length) == (3, 64)
    assert (manifest.quantize, manifest.dtype, manifest.kv_cache_dtype) == ("none", "float32", "u8")
    assert manifest.weights_bytes == artifact.weights_path.stat().st_size
    assert manifest.ranvier_version == __version__
    assert sorted(manifest.key) == [
        "batch_size",
        "dtype",
        "kv_cache_dtype",
        "packing",
        "quantize",
        "sequence_length",
        "source",
        "target",
    ]


def test_text_files_are_copied_byte_for_byte(tmp_path: Path, checkpoint: Path) -> None:
    names = {"special_tokens_map.json", "chat_template.jinja", "chat_template.json", "processor_config.json"}
    for name in names:
        (checkpoint / name).write_text(f'{{"{name}": "\u00e9"}}', encoding="utf-8")
    (checkpoint / "README.md").write_text("words")
    artifact = exported(tmp_path, checkpoint)
    copied = sorted(path.name for path in artifact.directory.iterdir())

    assert "README.md" not in copied
    assert names <= set(copied)
    for name in set(copied) - {"config.json", "ranvier.json", "weights.safetensors"}:
        assert (artifact.directory / name).read_bytes() == (checkpoint / name).read_bytes()
    assert read(artifact.directory / "config.json") == MODEL.config()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_weights_are_those_of_the_checkpoint(tmp_path: Path, dtype: Any, num_shards: int) -> None:
    model = TinyModel(dtype=dtype, num_shards=num_shards, is_tied=False, has_attention_bias=True, has_mlp_bias=True)
    artifact = exported(tmp_path, write_checkpoint(tmp_path / "c", model))
    held = values_of(artifact, model)

    assert all(np.array_equal(held[name], values) for name, values in model.weights().items())


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q6_K"])
@pytest.mark.parametrize(("quantize", "dtype"), [("none", "float32"), ("none", "bfloat16"), ("int8", "float32")])
@pytest.mark.parametrize("rope", ["none", "llama3"])
def test_a_gguf_file_and_a_checkpoint_of_the_same_weights_become_the_same_model(
    tmp_path: Path, kind: str, quantize: str, dtype: str, rope: Any
) -> None:
    model = TinyModel(num_layers=1, hidden_size=256, intermediate_size=256, head_dim=64, is_tied=False, rope=rope)
    same = write_checkpoint(tmp_path / "checkpoint", model, gguf_weights(model, kind))
    one = export(request(same, quantize=quantize, dtype=dtype), tmp_path / "one", quiet)
    file = write_gguf(tmp_path / "model.gguf", model, kind)
    other = export(request(file, quantize=quantize, dtype=dtype), tmp_path / "other", quiet)
    # Blocks that are kept as codes do not go through bfloat16; Q4_1 rounds its zero point, which may tip a code.
    tolerance = 2.0**-8 if quantize == "none" and dtype == "bfloat16" and kind.startswith("Q") else 0.0
    tolerance = max(tolerance, {"Q4_1": 1 / 100 if quantize == "int8" else 1e-6}.get(kind, 0.0))

    theirs = values_of(other, model)
    for name, values in values_of(one, model).items():
        np.testing.assert_allclose(theirs[name], values, rtol=0, atol=tolerance * float(np.abs(values).max()))
    specs = [spec_of(read(artifact.directory / "config.json")) for artifact in (one, other)]
    ropes = [layer.rope for spec in specs for layer in spec.layers if layer.rope]
    frequencies = [rope.inverse_frequencies(256) for rope in ropes]
    assert frequencies[0] == pytest.approx(frequencies[1], rel=1e-6)
    assert [spec.num_parameters for spec in specs] == [specs[0].num_parameters] * 2


def test_a_gguf_file_brings_its_tokenizer(tmp_path: Path) -> None:
    directory = exported(tmp_path, write_gguf(tmp_path / "model.gguf", MODEL)).directory
    tokenizer = read(directory / "tokenizer.json")

    assert tokenizer["model"]["vocab"] == {token: n for n, token in enumerate(TOKENS)}
    assert tokenizer["model"]["merges"] == tokenizer_document()["model"]["merges"]
    assert read(directory / "tokenizer_config.json")["eos_token"] == "<|end|>"
    assert "chat_template" in read(directory / "tokenizer_config.json")
    assert read(directory / "generation_config.json") == {"eos_token_id": [1, 3]}
    assert read(directory / "config.json")["model_type"] == "llama"


def test_progress_ends_with_all_tensors(tmp_path: Path, checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    export(request(checkpoint), tmp_path / "artifact", lambda *counts: seen.append(counts))

    assert seen[0] == (1, 11)
    assert seen[-1] == (11, 11)


# Limits


@pytest.mark.parametrize(
    ("positions", "asked", "wanted"), [(256, None, 256), (131072, None, 2048), (131072, 4096, 4096), (256, 256, 256)]
)
def test_the_sequence_length_is_what_was_asked_or_fits(
    tmp_path: Path, positions: int, asked: int | None, wanted: int
) -> None:
    path = write_checkpoint(tmp_path / "c", TinyModel(num_layers=1, max_positions=positions))
    manifest = exported(tmp_path, path, sequence_length=asked).manifest

    assert (manifest.batch_size, manifest.sequence_length) == (16, wanted)


def test_more_positions_than_the_model_has_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(OptionError) as caught:
        exported(tmp_path, checkpoint, sequence_length=257)
    assert str(caught.value) == (
        "`max_total_tokens` (`sequence_length` of an export) must be <= 256, the positions the model was made for. "
        "Given: 257"
    )
    assert not (tmp_path / "artifact").exists()


# What is refused


FULL_DISK = """
import resource, sys
from ranvier.launcher.main import ranvier
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.argv = ["ranvier", "export", "--model-id", sys.argv[1], sys.argv[2]]
ranvier()
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, checkpoint: Path) -> None:
    arguments = [sys.executable, "-c", FULL_DISK, str(checkpoint), str(tmp_path / "artifact")]
    done = subprocess.run(arguments, text=True, capture_output=True, check=False, timeout=60)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {tmp_path}/artifact: cannot be written: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    exported(tmp_path, checkpoint)
    with pytest.raises(ArtifactError) as caught:
        exported(tmp_path, checkpoint)
    assert str(caught.value) == (f"{tmp_path}/artifact: exists and is not empty; choose another directory or remove it")
    assert open_artifact(tmp_path / "artifact").manifest.batch_size == 16


def test_an_artifact_is_not_exported(tmp_path: Path, checkpoint: Path) -> None:
    exported(tmp_path, checkpoint)
    with pytest.raises(ModelError) as caught:
        export(request(tmp_path / "artifact"), tmp_path / "second", quiet)
    assert str(caught.value) == (
        f"`model_id` {tmp_path}/artifact: is an exported artifact already; give the checkpoint"
    )


def test_a_missing_tokenizer_is_named_where_the_user_has_it(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ModelError) as caught:
        exported(tmp_path, checkpoint)
    assert str(caught.value) == (
        f"{checkpoint}/tokenizer.json does not exist: `tokenizer.json` is needed to serve this model; "
        "download it with the model or copy it from the original checkpoint"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_gguf_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", MODEL, metadata={"tokenizer.ggml.model": None})
    with pytest.raises(ModelError) as caught:
        exported(tmp_path, path)
    assert str(caught.value) == (
        "`tokenizer.ggml.model` is missing: the file holds no tokenizer; put `tokenizer.json` beside it"
    )


def test_a_model_that_cannot_be_packed_leaves_nothing(tmp_path: Path) -> None:
    weights = MODEL.weights()
    del weights["model.norm.weight"]
    path = write_checkpoint(tmp_path / "checkpoint", MODEL, weights)
    with pytest.raises(ModelError, match="^the checkpoint lacks 1 tensors: model.norm.weight$"):
        exported(tmp_path, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_export_that_is_interrupted_leaves_nothing(
    tmp_path: Path, checkpoint: Path, error: type[BaseException]
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise error

    with pytest.raises(error):
        export(request(checkpoint), tmp_path / "artifact", stop)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_a_checkpoint_that_vanished_is_refused_in_one_line(tmp_path: Path) -> None:
    gone = ModelSource("checkpoint", tmp_path / "gone", "gone")
    with pytest.raises(ModelError) as caught:
        export(request(gone), tmp_path / "artifact", quiet)
    assert str(caught.value) == f"{tmp_path}/gone: `config.json` is missing"
