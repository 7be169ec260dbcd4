"""The Neuron target's programs behind the real server, run by XLA on this machine's processor."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from server import Server, launch_and_fail, serving

from tiny_checkpoints import TinyModel, write_checkpoint

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: it has no release for this Python"
)

SHAPE = ("--dtype", "float32", "--quantize", "none", "--max-batch-size", "2", "--max-total-tokens", "64")
PROMPTS = ("hello world", "the rain in the hills", "a")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("neuron")
    write_checkpoint(directory / "checkpoint", TinyModel())
    return directory / "checkpoint"


@pytest.fixture(scope="module")
def emulated(checkpoint: Path) -> Iterator[Server]:
    arguments = (*SHAPE, "--target", "neuron", "--emulate-neuron")
    with serving(checkpoint.parent, str(checkpoint), *arguments) as running:
        yield running


def texts(server: Server) -> list[str]:
    """Greedy texts, two requests at a time."""
    with ThreadPoolExecutor(2) as pool:
        replies = pool.map(lambda prompt: server.generate(prompt, max_new_tokens=24), PROMPTS)
        return [reply["generated_text"] for reply in replies]


def test_the_texts_are_those_of_the_cpu_target(emulated: Server, checkpoint: Path) -> None:
    with serving(checkpoint.parent, str(checkpoint), *SHAPE) as cpu:
        expected = texts(cpu)
    assert texts(emulated) == expected
    streamed = list(emulated.events(PROMPTS[0], max_new_tokens=24))
    assert streamed[-1]["generated_text"] == expected[0]


def test_the_log_says_that_it_is_emulated(emulated: Server) -> None:
    assert "the Neuron target is emulated on this machine's processor" in emulated.log


def test_without_a_device_the_target_is_refused_with_the_reason(checkpoint: Path, tmp_path: Path) -> None:
    code, error = launch_and_fail(tmp_path, "--model-id", str(checkpoint), *SHAPE, "--target", "neuron", "--port", "0")
    assert code == 1
    assert "`target` neuron needs a Neuron device" in error


def test_a_cache_type_that_it_does_not_have_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    arguments = (*SHAPE, "--target", "neuron", "--emulate-neuron", "--kv-cache-dtype", "u8", "--port", "0")
    code, error = launch_and_fail(tmp_path, "--model-id", str(checkpoint), *arguments)
    assert code == 1
    assert "`kv_cache_dtype` u8 is not served by target neuron" in error
