"""Entries of the registry and directories as cache repositories."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from optimum_configs import CASES
from optimum_entries import COMPILER, LLAMA, MODEL, REGISTRY, entry, neuron, put, put_entry, text_of
from ranvier.artifacts.optimum import (
    BadEntry,
    CacheEntry,
    LocalRepository,
    cached_models,
    compiler_folders,
    entry_digest,
    export_digests,
    find_entries,
    lookup_digest,
    parse_entry,
    registries,
    repository_name,
)
from ranvier.errors import ArtifactError


def test_an_entry_says_whose_it_is_and_what_it_was_exported_with() -> None:
    found = entry(batch_size=16)
    assert (found.model_id, found.task, found.config.batch_size) == (MODEL, "text-generation", 16)
    assert found.architecture["model_type"] == "llama" and "neuron" not in found.architecture
    assert found.arch_digest == lookup_digest(LLAMA)
    assert found.is_intact and found.path.endswith(f"/{found.digest}.json")


def test_an_entry_that_was_edited_is_not_intact() -> None:
    text = text_of()
    found = parse_entry(text.replace("4096", "8192").encode(), f"{entry_digest(text)}.json", "cache")
    assert isinstance(found, CacheEntry) and not found.is_intact


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "no registry entry (JSONDecodeError"),
        (b"\xff", "no registry entry (UnicodeDecodeError"),
        (b"[]", "no registry entry (TypeError: no object)"),
        (b"{}", "no registry entry (KeyError: '_entry_class')"),
        (b"[" * 100_000, "no registry entry (RecursionError"),
        (
            json.dumps({"_entry_class": "MultiModelCacheEntry", "_model_id": "a/b", "_task": None, "neuron": None}),
            "an entry of the kind MultiModelCacheEntry, which is no language model",
        ),
        (
            json.dumps({**json.loads(text_of()), "neuron": None}),
            "`neuron`: no JSON object; export the model again",
        ),
        (
            json.dumps({**json.loads(text_of()), "neuron": neuron(batch_size=0)}),
            "`neuron`: `batch_size` must be a whole number from 1 to 2147483647. Given: 0; export the model again",
        ),
    ],
)
def test_a_file_that_is_no_entry_is_kept_with_the_reason(data: bytes | str, reason: str) -> None:
    found = parse_entry(data.encode() if isinstance(data, str) else data, "a.json", "cache")
    assert isinstance(found, BadEntry)
    assert found.reason.startswith(reason)


def test_entries_are_found_by_digest_and_by_name_and_read_once(tmp_path: Path) -> None:
    paths = {put_entry(tmp_path, batch_size=size) for size in (1, 4)}
    folders = [*export_digests(LLAMA), f"llama/{MODEL}"]
    found = find_entries(LocalRepository(tmp_path), [REGISTRY], folders)
    assert {each.path for each in found} == paths
    by_name = find_entries(LocalRepository(tmp_path), [REGISTRY], [f"llama/{MODEL}"])
    assert len(by_name) == 2 and all(f"/llama/{MODEL}/" in each.path for each in by_name)


def test_another_models_entries_are_not_found(tmp_path: Path) -> None:
    put_entry(tmp_path, CASES["qwen3"])
    assert find_entries(LocalRepository(tmp_path), [REGISTRY], export_digests(LLAMA)) == ()


def test_registries_are_found_by_version(tmp_path: Path) -> None:
    old = "neuronxcc-2.19.8089.0+8ab9f450/0_REGISTRY/0.3.0"
    for registry in (REGISTRY, REGISTRY.replace("0.4.5", "0.4.4"), old):
        put_entry(tmp_path, registry=registry)
    put(tmp_path, "inference-cache-config/llama.json")
    repository = LocalRepository(tmp_path)
    assert registries(repository, "2.21.33363.0", "0.4.5") == (REGISTRY,)
    assert registries(repository, COMPILER, None) == (REGISTRY.replace("0.4.5", "0.4.4"), REGISTRY)
    assert len(registries(repository)) == 3
    assert registries(repository, "2.21.3") == ()
    assert compiler_folders(repository) == ("neuronxcc-2.19.8089.0+8ab9f450", f"neuronxcc-{COMPILER}")


def test_models_are_listed_by_name(tmp_path: Path) -> None:
    for size in (1, 4):
        put_entry(tmp_path, batch_size=size)
    assert cached_models(LocalRepository(tmp_path), REGISTRY) == {("llama", MODEL): 2}


def test_what_is_absent_is_empty(tmp_path: Path) -> None:
    repository = LocalRepository(tmp_path / "nowhere")
    assert (repository.list_folders("a"), repository.list_files("a")) == ((), ())
    put(tmp_path, "file")
    assert LocalRepository(tmp_path).list_folders("file") == ()
    with pytest.raises(ArtifactError, match="no such file"):
        repository.read("a/b.json")


def test_a_link_that_leads_nowhere_is_no_file(tmp_path: Path) -> None:
    """Names in a registry are links to absolute paths; a copied cache has such."""
    path = put_entry(tmp_path / "a")
    (tmp_path / "a" / path).unlink()
    assert LocalRepository(tmp_path / "a").list_files("") == ()


def test_folders_are_copied_with_links_as_files(tmp_path: Path) -> None:
    put_entry(tmp_path / "a")
    put(tmp_path / "a", "neuronxcc-1/MODULE_1/model.neff", "graph")
    put(tmp_path / "a", "other/file", "not asked for")
    count = LocalRepository(tmp_path / "a").download([f"neuronxcc-{COMPILER}", "neuronxcc-1"], tmp_path / "b")
    assert count == 3
    assert (tmp_path / "b/neuronxcc-1/MODULE_1/model.neff").read_text() == "graph"
    assert not (tmp_path / "b/other").exists()
    copied = list((tmp_path / "b" / REGISTRY).rglob("*.json"))
    assert len(copied) == 2 and not any(path.is_symlink() for path in copied)


def test_copying_again_replaces_only_what_changed(tmp_path: Path) -> None:
    same, changed = (put(tmp_path / "a", f"x/{name}", "one") for name in ("same", "changed"))
    repository = LocalRepository(tmp_path / "a")
    repository.download(["x"], tmp_path / "b")
    before = (tmp_path / "b/x/same").stat().st_ino
    os.utime(changed, ns=(1, 1))
    changed.write_text("two, longer")
    assert repository.download(["x"], tmp_path / "b") == 2
    assert (tmp_path / "b/x/changed").read_text() == "two, longer"
    assert (tmp_path / "b/x/same").stat().st_ino == before
    assert same.read_text() == "one"


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a", "x/file", "text")

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ArtifactError, match=r"b/x/file: cannot be written: No space left on device"):
        LocalRepository(tmp_path / "a").download(["x"], tmp_path / "b")
    assert list((tmp_path / "b/x").iterdir()) == []


def test_the_mark_of_a_finished_module_is_copied_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model.done", "model.neff", "model.hlo_module.pb", "model.hlo_module.pb.lock"):
        put(tmp_path / "a", f"neuronxcc-1/MODULE_1/{name}")
    order = []
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda source, target: (order.append(Path(target).name), replace(source, target))
    )
    LocalRepository(tmp_path / "b").upload(tmp_path / "a", ["neuronxcc-1"])
    assert order == ["model.hlo_module.pb", "model.neff", "model.done"]


@pytest.mark.parametrize(
    ("environ", "saved", "name", "source"),
    [
        ({}, None, "aws-neuron/optimum-neuron-cache", "default"),
        ({}, "mine/cache\n", "mine/cache", "optimum_neuron_custom_cache"),
        ({"CUSTOM_CACHE_REPO": "ours/cache"}, "mine/cache", "ours/cache", "CUSTOM_CACHE_REPO"),
        ({"CUSTOM_CACHE_REPO": ""}, "", "aws-neuron/optimum-neuron-cache", "default"),
    ],
)
@pytest.mark.parametrize("variable", ["HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_the_repository_is_what_the_variable_the_file_or_the_default_says(
    tmp_path: Path, variable: str, environ: dict[str, str], saved: str | None, name: str, source: str
) -> None:
    below = {"HF_HOME": "", "XDG_CACHE_HOME": "huggingface/", "HOME": ".cache/huggingface/"}[variable]
    if saved is not None:
        put(tmp_path, f"{below}optimum_neuron_custom_cache", saved)
    found, said = repository_name({**environ, variable: str(tmp_path)})
    assert (found, Path(said).name) == (name, source)
