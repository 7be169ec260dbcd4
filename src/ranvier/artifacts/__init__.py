"""Artifact directories: manifest, local store, and what a model id names."""

from ranvier.artifacts.adapters import AdapterSource, locate_adapters
from ranvier.artifacts.manifest import (
    COMPILED,
    DTYPES,
    FORMAT,
    WEIGHTS_NAME,
    Artifact,
    Compiled,
    Manifest,
    NeuronManifest,
    StoredFile,
    is_artifact,
    open_artifact,
    write_manifest,
)
from ranvier.artifacts.request import ExportRequest, NeuronWish
from ranvier.artifacts.source import ModelSource, found_in, locate
from ranvier.artifacts.store import Store, digest, publish

__all__ = [
    "COMPILED",
    "DTYPES",
    "FORMAT",
    "WEIGHTS_NAME",
    "AdapterSource",
    "Artifact",
    "Compiled",
    "ExportRequest",
    "Manifest",
    "ModelSource",
    "NeuronManifest",
    "NeuronWish",
    "Store",
    "StoredFile",
    "digest",
    "found_in",
    "is_artifact",
    "locate",
    "locate_adapters",
    "open_artifact",
    "publish",
    "write_manifest",
]
