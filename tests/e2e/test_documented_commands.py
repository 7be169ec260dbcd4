"""The commands that documents show, word for word after the image's name, on a stand-in for Neuron devices.

The entry point of the containers runs with the variables of the image for exported models and a file system of its
own; the hub is on this machine, and has a tiny model under each name.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
import pytest
from server import ENTRY, Server, free_port, until_stopped

from documented_commands import EXAMPLES, SAGEMAKER_EXAMPLES, split_command
from neuron_hub import CHECKPOINT, DOCUMENTED_CACHE, MODEL, NeuronHub
from neuron_models import write_neuron_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: it has no release for this Python"
)

DOCKER = Path(__file__).resolve().parents[2] / "docker"
Container = Callable[[Sequence[str], Mapping[str, str]], Server]


def image_variables() -> dict[str, str]:
    """What `ENV` says in the image, but for places that only the image has."""
    [block] = re.findall(r"^ENV ((?:.*\\\n)*.*)$", (DOCKER / "Dockerfile.nxd").read_text(), re.MULTILINE)
    pairs = dict(pair.split("=", 1) for pair in shlex.split(block.replace("\\\n", " ")))
    return {name: value for name, value in pairs.items() if "/" not in value}


def mounted(root: Path, text: str) -> str:
    """A path in the container as it is called outside; any other text as it is."""
    return f"{root}{text}" if text.startswith("/") else text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container's file system with exported models where the commands expect them."""
    root = tmp_path / "root"
    for name in ("data", "tmp", "opt/aws/neuron"):
        (root / name).mkdir(parents=True)
    for name in ("data/exported", "repository"):
        write_neuron_model(root / name, MODEL, checkpoint_id=CHECKPOINT)
    return root


@pytest.fixture
def run(root: Path, tmp_path: Path, local_hub: NeuronHub) -> Container:
    """Start the entry point; the server is not ready yet."""
    launcher = tmp_path / "bin/text-generation-launcher"
    launcher.parent.mkdir()
    launcher.write_text(f"#!{sys.executable}\n{ENTRY}\n")
    launcher.chmod(0o755)
    outside = {"PATH": f"{launcher.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "RANVIER_CONTAINER_ROOT": str(root)}
    # Caches are where the entry point puts them.
    places = ("HF_HOME", "NEURON_COMPILE_CACHE_URL")
    hub = {name: value for name, value in local_hub.environ.items() if name not in places}

    def started(arguments: Sequence[str], environ: Mapping[str, str]) -> Server:
        port = free_port()
        log_path = tmp_path / "log.txt"
        variables = image_variables() | outside | hub | {"CUSTOM_CACHE_REPO": DOCUMENTED_CACHE, "PORT": str(port)}
        variables |= {"SAGEMAKER_BIND_TO_PORT": str(port)} if "serve" in arguments else {}
        variables |= {name: mounted(root, value) for name, value in environ.items()}
        command = [str(DOCKER / "entrypoint"), *(mounted(root, argument) for argument in arguments)]
        with log_path.open("wb") as log:
            return Server(subprocess.Popen(command, env=variables, stdout=log, stderr=log), port, log_path)

    return started


def check(server: Server, asked: Mapping[str, object], root: Path) -> None:
    """A request is answered, and the limits are what was asked for."""
    assert server.generate("hello world", max_new_tokens=4)["generated_text"]
    said = httpx.get(f"{server.url}/info", timeout=10).json()
    assert said["emulated"] is True
    assert said["model_id"] == mounted(root, str(asked["model_id"]))
    limits = {name: value for name, value in asked.items() if name in ("max_input_tokens", "max_total_tokens")}
    assert {name: said[name] for name in limits} == limits


@pytest.mark.parametrize(("command", "expected"), EXAMPLES)
def test_a_documented_docker_command_serves(
    command: str, expected: dict[str, object], run: Container, root: Path
) -> None:
    arguments, environ = split_command(command)
    with until_stopped(run(arguments, environ)) as server:
        check(server, {"model_id": arguments[-1] if arguments else "", **expected}, root)


@pytest.mark.parametrize(("environ", "expected"), SAGEMAKER_EXAMPLES)
def test_a_documented_sagemaker_environment_serves(
    environ: dict[str, str], expected: dict[str, object], run: Container, root: Path
) -> None:
    with until_stopped(run(["serve"], environ)) as server:
        check(server, {"model_id": environ["HF_MODEL_ID"], **expected}, root)
        reply = httpx.post(f"{server.url}/invocations", json={"inputs": "hello", "parameters": {"max_new_tokens": 3}})
        assert reply.status_code == 200 and httpx.get(f"{server.url}/ping").status_code == 200
        assert (root / "data" / f"models--{environ['HF_MODEL_ID'].replace('/', '--')}").is_dir()
