"""`ranvier.json`: what an artifact directory holds and for which limits it was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from ranvier.errors import ArtifactError

MANIFEST_NAME = "ranvier.json"
WEIGHTS_NAME = "weights.safetensors"
COMPILED = "compiled"
"""The folder of an artifact that holds what compilers left."""
FORMAT = 1

Size = Annotated[int, msgspec.Meta(ge=1)]
NumCores = Annotated[int, msgspec.Meta(ge=1, le=1024)]
"""More than any host has; the bound keeps a damaged manifest from claiming devices without end."""

CastType = Annotated[str, msgspec.Meta(pattern="^(bf16|fp16|fp32)$")]

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""The types that `auto_cast_type` names."""

_NEEDED = ("config.json", "tokenizer.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of an artifact, relative to it, and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """For what the programs of an artifact have been compiled.

    * `platform`: `neuron`, or `cpu` where devices are emulated. `compiler`: its name and version.
    * `target`: the chip as the compiler calls it (`inf2` and `trn1` are one: `trn1`), or the processor.
    * `lnc`: physical cores that are used as one. `seconds`: what each program took.
    """

    platform: str
    compiler: str
    target: str
    lnc: int
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronManifest:
    """What the programs of the Neuron target were lowered with.

    * `auto_cast_type`: `bf16`, `fp16` or `fp32`. `num_top`: the most `top_n_tokens` of a request.
    * `prefill`, `chunk`, `decode`, `score`: padded lengths, see `targets.neuron.buckets`.
    * `programs`: names. `files`: theirs and those of the weights. `jax`: the version that lowered them.
    * `compiled`: None where no compiler was there: the first start compiles.
    """

    num_cores: NumCores
    auto_cast_type: CastType
    num_top: int
    prefill: tuple[Size, ...]
    chunk: tuple[Size, ...]
    decode: tuple[Size, ...]
    score: Size
    programs: tuple[str, ...]
    files: tuple[StoredFile, ...]
    jax: str
    compiled: Compiled | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest's fields, as they stand in the file.

    `key` lists everything the artifact was made from, so that a miss in the store can be explained field by field;
    `weights_key` is the part of it that the weights file depends on. `weights_bytes` is that file's size, or that of
    all files with weights. `neuron` is there for that target.
    """

    format: int
    model_id: str
    revision: str | None
    target: str
    batch_size: Size
    sequence_length: Size
    quantize: str
    dtype: str
    kv_cache_dtype: str
    weights_bytes: int
    key: dict[str, str]
    weights_key: str
    ranvier_version: str
    neuron: NeuronManifest | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact directory with its manifest read."""

    directory: Path
    manifest: Manifest

    @property
    def weights_path(self) -> Path:
        """The packed weights."""
        return self.directory / WEIGHTS_NAME


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest; the last file of an artifact to be written."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / MANIFEST_NAME).write_bytes(text + b"\n")


def is_artifact(directory: Path) -> bool:
    """Whether the directory says that it is an artifact."""
    return (directory / MANIFEST_NAME).is_file()


def open_artifact(directory: Path) -> Artifact:
    """Read and check an artifact directory. Raises `ArtifactError` when it is damaged or from another format."""
    path = directory / MANIFEST_NAME
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not a manifest of this version ({error}); export the model again") from None
    if manifest.format != FORMAT:
        raise ArtifactError(f"{path}: `format` is {manifest.format}, this version reads {FORMAT}; export it again")
    for name in _NEEDED:
        if not _size(directory / name):
            raise ArtifactError(f"{directory}: `{name}` is missing or empty; export the model again")
    for file in _files(manifest):
        size = _size(directory / file.path)
        if size != file.size:
            raise ArtifactError(
                f"{directory / file.path}: {size} bytes, the manifest says {file.size}; export the model again"
            )
    return Artifact(directory, manifest)


def _files(manifest: Manifest) -> tuple[StoredFile, ...]:
    if manifest.neuron is not None:
        return manifest.neuron.files
    return (StoredFile(path=WEIGHTS_NAME, size=manifest.weights_bytes),)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
