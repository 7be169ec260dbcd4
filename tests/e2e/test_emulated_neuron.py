"""The Neuron target's programs behind the real server, run by XLA on this machine's processor."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from server import Server, environment, launch_and_fail, serving

from ranvier.artifacts import open_artifact
from smollm2 import MODEL_ID, needs_smollm2
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


def exported(model: str, output: Path, *arguments: str) -> Path:
    """An artifact from the command line, its programs compiled for emulation."""
    entry = "from ranvier.launcher.main import ranvier as main; main()"
    argv = ("export", "--target", "neuron", "--emulate-neuron", "--model-id", model, *arguments, str(output))
    command = [sys.executable, "-c", entry, *argv]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment(output.parent)
    )
    assert done.returncode == 0, done.stderr
    return output


def texts(server: Server, prompts: Sequence[str] = PROMPTS) -> list[str]:
    """Greedy texts, two requests at a time."""
    with ThreadPoolExecutor(2) as pool:
        replies = pool.map(lambda prompt: server.generate(prompt, max_new_tokens=24), prompts)
        return [reply["generated_text"] for reply in replies]


def streamed(server: Server, prompts: Sequence[str] = PROMPTS) -> list[str]:
    """The same as streams, two at a time; each ends with what it said token by token."""

    def whole(prompt: str) -> str:
        events = list(server.events(prompt, max_new_tokens=24))
        text = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
        assert text == events[-1]["generated_text"]
        return text

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(whole, prompts))


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[str]:
    """What the CPU target says."""
    with serving(checkpoint.parent, str(checkpoint), *SHAPE) as cpu:
        return texts(cpu)


def test_the_texts_are_those_of_the_cpu_target(emulated: Server, expected: list[str]) -> None:
    assert texts(emulated) == expected
    assert streamed(emulated) == expected


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    """For two cores."""
    limits = ("--batch-size", "2", "--sequence-length", "64", "--num-cores", "2", "--auto-cast-type", "fp32")
    return exported(str(checkpoint), checkpoint.parent / "artifact", *limits)


def files(artifact: Path) -> dict[str, int]:
    return {str(path.relative_to(artifact)): path.stat().st_size for path in artifact.rglob("*") if path.is_file()}


def test_an_exported_artifact_is_served_as_it_is(artifact: Path, expected: list[str], tmp_path: Path) -> None:
    before = files(artifact)
    with serving(tmp_path, str(artifact), "--emulate-neuron") as server:
        assert texts(server) == expected
        assert streamed(server) == expected
    programs = {name for name in files(artifact) if name.endswith("-cache")}
    assert programs == {name for name in before if name.endswith("-cache")}
    assert before.items() <= files(artifact).items()
    assert not (tmp_path / "cache" / "artifacts").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "`target` neuron needs a Neuron device: "),
        (("--emulate-neuron", "--num-cores", "1"), "`num_cores` is 1 by flag `--num-cores`, but the artifact was "),
        (("--emulate-neuron", "--target", "cpu"), "`target` is cpu by flag `--target`, but the artifact was exported"),
        (("--emulate-neuron", "--max-batch-size", "4"), "`max_batch_size` is 4 by flag `--max-batch-size`, but the "),
    ],
    ids=["device", "cores", "target", "batch"],
)
def test_an_artifact_is_refused_with_what_differs(
    artifact: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    code, error = launch_and_fail(tmp_path, "--model-id", str(artifact), *arguments, "--port", "0")
    assert code == 1
    assert reason in error


SMOL_PROMPTS = ("What is Deep Learning?", "The capital of France is", "def fibonacci(n):", "Once upon a time")


@needs_smollm2
def test_a_real_model_says_what_the_cpu_target_says(smollm2_server: Server, tmp_path: Path) -> None:
    limits = ("--batch-size", "2", "--sequence-length", "256", "--num-cores", "1", "--auto-cast-type", "fp32")
    artifact = exported(MODEL_ID, tmp_path / "artifact", *limits)
    manifest = open_artifact(artifact).manifest.neuron
    assert manifest is not None and manifest.compiled is not None
    assert (manifest.decode, manifest.compiled.platform) == ((128, 256), "cpu")
    with serving(tmp_path, str(artifact), "--emulate-neuron") as server:
        found = texts(server, SMOL_PROMPTS)
        assert found == texts(smollm2_server, SMOL_PROMPTS)
        assert streamed(server, SMOL_PROMPTS) == found
        # Beyond the first decode bucket, and a prompt in several pieces.
        long = " ".join(SMOL_PROMPTS) * 8
        assert texts(server, [long]) == texts(smollm2_server, [long])
    assert found[0].startswith("\n\nDeep Learning is a subfield of artificial intelligence")


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
