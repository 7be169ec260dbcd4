"""Which libraries each process loads, and that importing changes nothing outside."""

from __future__ import annotations

import importlib.util
import pkgutil
import subprocess
import sys

import pytest

import ranvier

HTTP = {"starlette", "uvicorn", "httptools", "uvloop"}
DEVICE = {"openvino", "gguf", "numpy"}


def loaded_by(module: str) -> set[str]:
    """Top-level modules in memory after importing one module in a fresh interpreter."""
    code = f"import sys, {module}; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("ranvier.compose.router", DEVICE),
        ("ranvier.compose.nxd_directory", DEVICE),
        ("ranvier.ipc.client", DEVICE),
        ("ranvier.compose.engine", HTTP | {"tokenizers"}),
        ("ranvier.targets.cpu", HTTP | {"tokenizers"}),
        ("ranvier.launcher.supervisor", DEVICE | HTTP | {"tokenizers", "huggingface_hub"}),
        ("ranvier.launcher.main", DEVICE | HTTP | {"msgspec", "tokenizers", "huggingface_hub"}),
    ],
)
def test_a_process_does_not_load_the_other_half(module: str, forbidden: set[str]) -> None:
    assert not loaded_by(module) & forbidden


def test_an_engine_beside_optimum_neuron_needs_few_packages_of_ours() -> None:
    """Those of `ENGINE_PACKAGES` in docker/Dockerfile.nxd: its environment has a hub client and more of its own."""
    third_party = {
        "httptools",
        "huggingface_hub",
        "jax",
        "jinja2",
        "openvino",
        "safetensors",
        "starlette",
        "tokenizers",
    }
    for module in ("ranvier.launcher.child", "ranvier.compose.nxd", "ranvier.targets.nxd.optimum"):
        assert not loaded_by(module) & (third_party | {"gguf", "rich", "uvicorn", "uvloop"})


def test_the_base_install_needs_no_torch_jax_or_transformers() -> None:
    for module in ("ranvier.compose.router", "ranvier.compose.engine", "ranvier.export", "ranvier.artifacts.hub"):
        assert not loaded_by(module) & {"torch", "jax", "transformers"}


def test_no_library_reports_to_its_makers() -> None:
    """OpenVINO would send a message with each import; both ways to it go through the package that is its door."""
    for module in ("ranvier.targets.cpu", "ranvier.targets.cpu.ops"):
        code = f"import sys, {module}, openvino; print([n for n in sys.modules if n.startswith('openvino_telemetry')])"
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert output == "['openvino_telemetry']\n"
        code = f"import sys, {module}, openvino; assert sys.modules['openvino_telemetry'] is None"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_every_module_leaves_the_root_logger_alone() -> None:
    names = [
        module.name
        for module in pkgutil.walk_packages(ranvier.__path__, "ranvier.")
        if not module.name.endswith("__main__")
    ]
    if importlib.util.find_spec("jax") is None:
        # It has no release for this Python, and the Neuron target is nothing without it.
        names = [name for name in names if not name.startswith("ranvier.targets.neuron")]
    code = f"import {', '.join(names)}, logging; assert not logging.getLogger().handlers"
    subprocess.run([sys.executable, "-c", code], check=True)
