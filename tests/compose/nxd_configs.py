"""Configs and exported directories for tests of the wiring, away from the caches of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuron_models import write_neuron_model
from ranvier.artifacts import Artifact, found_in
from ranvier.compose.nxd_directory import optimum_artifact
from ranvier.config import LauncherConfig, load_config
from tiny_checkpoints import TinyModel

MODEL = TinyModel(num_layers=1)


@pytest.fixture
def own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache of this machine, no variable of the runtime; the cache repository is an empty directory."""
    for name in ("NEURON_CC_FLAGS", "NEURON_RT_NUM_CORES", "NEURON_RT_VISIBLE_CORES"):
        # Set first: so it is put back whatever a test sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "cache-repository").mkdir()
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", str(tmp_path / "compiled"))
    monkeypatch.setenv("CUSTOM_CACHE_REPO", str(tmp_path / "cache-repository"))


def configured(tmp_path: Path, *flags: str, emulates: bool = True, **environ: str) -> LauncherConfig:
    """The launcher's config, with a store of its own."""
    base = {"RANVIER_CACHE": str(tmp_path / "store"), "HOME": str(tmp_path)}
    base |= {"EMULATE_NEURON": "true"} if emulates else {}
    return load_config(flags, base | environ, prog="text-generation-launcher")


def exported(tmp_path: Path, **changes: object) -> Artifact:
    """Two slots of 64 tokens, float32, two cores, but for `changes`."""
    directory = write_neuron_model(tmp_path / "model", MODEL, **changes)
    return optimum_artifact(found_in(directory, "mine"))
