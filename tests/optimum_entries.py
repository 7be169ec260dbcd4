"""Registry entries and repositories of them on disk."""

from __future__ import annotations

from pathlib import Path

from optimum_configs import CASES, NEURON
from ranvier.artifacts.optimum import (
    CacheEntry,
    arch_digest,
    architecture,
    entry_digest,
    entry_text,
    name_folder,
    parse_entry,
)

COMPILER = "2.21.33363.0+82129205"
REGISTRY = f"neuronxcc-{COMPILER}/0_REGISTRY/0.4.5"
LLAMA = CASES["llama"]
MODEL = "meta-llama/Llama-3.2-1B-Instruct"


def neuron(**changes: object) -> dict[str, object]:
    """A neuron_config.json: batch 4, sequence 4096, tp 2, bfloat16, trn1. `max_context_length` follows the sequence."""
    changes.setdefault("max_context_length", changes.get("sequence_length", NEURON["max_context_length"]))
    return {**NEURON, **changes}


def text_of(config: dict[str, object] = LLAMA, task: str = "text-generation", **changes: object) -> str:
    """An entry's text, in the type that the config has."""
    return entry_text(architecture(config), neuron(**changes), MODEL, task)


def entry(config: dict[str, object] = LLAMA, task: str = "text-generation", **changes: object) -> CacheEntry:
    """An entry that was read from the registry of a repository `cache`."""
    text = text_of(config, task, **changes)
    found = parse_entry(text.encode(), f"{REGISTRY}/folder/{entry_digest(text)}.json", "cache")
    assert isinstance(found, CacheEntry)
    return found


def put_entry(root: Path, config: dict[str, object] = LLAMA, registry: str = REGISTRY, **changes: object) -> str:
    """Write an entry as an export does, below the digest and, as a link, below the name; return its path."""
    text, fields = text_of(config, **changes), architecture(config)
    name = f"{entry_digest(text)}.json"
    path = f"{registry}/{arch_digest(fields)}/{name}"
    put(root, path, text)
    link = root / registry / name_folder(fields, MODEL) / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(root / path)
    return path


def put(root: Path, path: str, text: str = "") -> Path:
    """Write a file and the folders above it."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file
