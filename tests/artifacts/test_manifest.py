"""`ranvier.json`: what is written is read, and a directory that is not a whole artifact is refused with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ranvier.artifacts import FORMAT, Artifact, Manifest, open_artifact, write_manifest
from ranvier.errors import ArtifactError

MANIFEST = Manifest(
    format=FORMAT,
    model_id="org/model \u00e9",
    revision=None,
    target="cpu",
    batch_size=4,
    sequence_length=256,
    quantize="auto",
    dtype="bfloat16",
    kv_cache_dtype="auto",
    weights_bytes=5,
    key={"source": "here", "quantize": "auto"},
    weights_key="0123456789abcdef",
    ranvier_version="0.1.0",
)

NEURON: dict[str, Any] = {
    "num_cores": 2,
    "auto_cast_type": "bf16",
    "num_top": 8,
    "prefill": [32],
    "chunk": [32],
    "decode": [32],
    "score": 32,
    "programs": ["decode_32"],
    "files": [],
    "jax": "0.10.2",
}
"""What the target's part of a manifest looks like in the file."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A whole artifact, as far as opening it looks."""
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(bytes(5))
    write_manifest(tmp_path, MANIFEST)
    return tmp_path


def refused(directory: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        open_artifact(directory)
    return str(caught.value)


def change(directory: Path, **values: Any) -> None:
    """Change fields of the manifest; those given as `...` are removed."""
    path = directory / "ranvier.json"
    fields = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))


def test_what_is_written_is_read(directory: Path) -> None:
    artifact = open_artifact(directory)

    assert artifact == Artifact(directory, MANIFEST)
    assert artifact.weights_path == directory / "weights.safetensors"


def test_the_file_is_readable_by_people(directory: Path) -> None:
    text = (directory / "ranvier.json").read_text(encoding="utf-8")

    assert text.startswith('{\n  "format": 1,\n  "model_id": "org/model \u00e9",\n')
    assert text.endswith("}\n")


def test_fields_of_later_versions_are_passed_over(directory: Path) -> None:
    change(directory, later="x")
    assert open_artifact(directory).manifest == MANIFEST


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"cannot read {tmp_path}/ranvier.json: No such file or directory"


def test_a_manifest_that_is_not_json_is_refused(directory: Path) -> None:
    (directory / "ranvier.json").write_bytes(b"{")
    assert refused(directory) == (
        f"{directory}/ranvier.json: not a manifest of this version (Input data was truncated); export the model again"
    )


def test_a_manifest_that_is_not_text_is_refused(directory: Path) -> None:
    (directory / "ranvier.json").write_bytes(b'{"model_id": "\xff"}')
    assert refused(directory).startswith(f"{directory}/ranvier.json: not a manifest of this version (")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"batch_size": ...}, "Object missing required field `batch_size`"),
        ({"batch_size": "4"}, "Expected `int`, got `str` - at `$.batch_size`"),
        ({"key": {"source": 1}}, "Expected `str`, got `int` - at `$.key[...]`"),
        ({"revision": 3}, "Expected `str | null`, got `int` - at `$.revision`"),
        ({"batch_size": 0}, "Expected `int` >= 1 - at `$.batch_size`"),
        ({"sequence_length": -5}, "Expected `int` >= 1 - at `$.sequence_length`"),
        ({"neuron": NEURON | {"num_cores": 0}}, "Expected `int` >= 1 - at `$.neuron.num_cores`"),
        ({"neuron": NEURON | {"num_cores": 10**6}}, "Expected `int` <= 1024 - at `$.neuron.num_cores`"),
        (
            {"neuron": NEURON | {"auto_cast_type": "int3"}},
            "Expected `str` matching regex '^(bf16|fp16|fp32)$' - at `$.neuron.auto_cast_type`",
        ),
        ({"neuron": NEURON | {"decode": [0]}}, "Expected `int` >= 1 - at `$.neuron.decode[0]`"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_refused_with_its_path(
    directory: Path, values: dict[str, Any], reason: str
) -> None:
    change(directory, **values)
    assert refused(directory) == (
        f"{directory}/ranvier.json: not a manifest of this version ({reason}); export the model again"
    )


@pytest.mark.parametrize("number", [0, 2])
def test_another_format_is_refused(directory: Path, number: int) -> None:
    change(directory, format=number)
    assert refused(directory) == (
        f"{directory}/ranvier.json: `format` is {number}, this version reads 1; export it again"
    )


@pytest.mark.parametrize("size", [0, 4, 6])
def test_weights_of_another_size_are_refused(directory: Path, size: int) -> None:
    (directory / "weights.safetensors").write_bytes(bytes(size))
    assert refused(directory) == (
        f"{directory}/weights.safetensors: {size} bytes, the manifest says 5; export the model again"
    )


def test_missing_weights_are_refused(directory: Path) -> None:
    (directory / "weights.safetensors").unlink()
    assert refused(directory) == (
        f"{directory}/weights.safetensors: 0 bytes, the manifest says 5; export the model again"
    )


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_or_empty_file_that_serving_needs_is_refused(directory: Path, name: str) -> None:
    message = f"{directory}: `{name}` is missing or empty; export the model again"
    (directory / name).write_bytes(b"")
    assert refused(directory) == message
    (directory / name).unlink()
    assert refused(directory) == message
