"""The three ways to name a Neuron model, served by real processes on a stand-in for the devices.

A server on the loopback interface is the hub: it has checkpoints, an exported model, and a cache with entries.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from server import Server, launch_and_fail, serving

from neuron_hub import CACHE, CHECKPOINT, EXPORTED, MODEL, WITHOUT_TEXTS, NeuronHub
from neuron_models import write_neuron_model
from tiny_checkpoints import write_checkpoint

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: it has no release for this Python"
)

PROMPTS = ("hello world", "the rain in the hills", "a")
Serve = Callable[..., Any]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Texts of the CPU target in float32."""
    place = tmp_path_factory.mktemp("cpu")
    checkpoint = write_checkpoint(place / "checkpoint", MODEL)
    shape = ("--dtype", "float32", "--quantize", "none", "--max-batch-size", "2", "--max-total-tokens", "64")
    with serving(place, str(checkpoint), *shape) as cpu:
        return texts(cpu)


def texts(server: Server) -> list[str]:
    """Greedy texts, two requests at a time."""
    with ThreadPoolExecutor(2) as pool:
        replies = pool.map(lambda prompt: server.generate(prompt, max_new_tokens=24), PROMPTS)
        return [reply["generated_text"] for reply in replies]


def info(server: Server) -> dict[str, Any]:
    return dict(httpx.get(f"{server.url}/info", timeout=10).json())


def check(server: Server, expected: list[str], model_id: str, *, total: int, longest: int) -> None:
    """Texts, one of them streamed, and what the server says of itself."""
    assert texts(server) == expected
    events = list(server.events(PROMPTS[0], max_new_tokens=24))
    assert len(events) == 24 and events[-1]["generated_text"] == expected[0]
    said = info(server)
    assert (said["model_id"], said["emulated"]) == (model_id, True)
    assert (said["max_total_tokens"], said["max_input_tokens"]) == (total, longest)


# The three ways


def test_a_neuron_model_in_a_directory(tmp_path: Path, local_hub: NeuronHub, expected: list[str]) -> None:
    directory = write_neuron_model(tmp_path / "model", MODEL, with_weights=True, max_context_length=48)
    with serving(tmp_path, str(directory), **local_hub.environ) as server:
        check(server, expected, str(directory), total=64, longest=48)
        assert "target = " not in server.log, "no option says that this is a Neuron model"


def test_a_neuron_model_on_the_hub_whose_weights_are_in_another_repository(
    tmp_path: Path, local_hub: NeuronHub, expected: list[str]
) -> None:
    before = len(local_hub.requests)
    with serving(tmp_path, EXPORTED, MAX_BATCH_SIZE="1", MAX_TOTAL_TOKENS="40", **local_hub.environ) as server:
        check(server, expected, EXPORTED, total=40, longest=39)
    asked = local_hub.requests[before:]
    assert any(request.startswith(f"GET {EXPORTED}/resolve/") for request in asked)
    assert [request for request in asked if request.endswith("model.safetensors")][-1].startswith(f"GET {CHECKPOINT}")


def test_a_neuron_model_without_a_tokenizer_takes_that_of_its_checkpoint(
    tmp_path: Path, local_hub: NeuronHub, expected: list[str]
) -> None:
    with serving(tmp_path, WITHOUT_TEXTS, **local_hub.environ) as server:
        check(server, expected, WITHOUT_TEXTS, total=64, longest=63)


def test_a_standard_model_takes_the_smallest_entry_of_the_cache(
    tmp_path: Path, local_hub: NeuronHub, expected: list[str]
) -> None:
    with serving(tmp_path, CHECKPOINT, TARGET="nxd", HF_AUTO_CAST_TYPE="float32", **local_hub.environ) as server:
        check(server, expected, CHECKPOINT, total=64, longest=63)
        assert "taken from the Neuron Model Cache" in server.log and f"repository={CACHE}" in server.log
        assert "batch_size=2 sequence_length=64" in server.log


def test_a_standard_model_takes_the_entry_that_satisfies_its_variables(
    tmp_path: Path, local_hub: NeuronHub, expected: list[str]
) -> None:
    asked = {"HF_NUM_CORES": "3", "HF_BATCH_SIZE": "3", "MAX_INPUT_TOKENS": "80", "HF_AUTO_CAST_TYPE": "fp32"}
    with serving(tmp_path, CHECKPOINT, "--target", "nxd", **asked, **local_hub.environ) as server:
        check(server, expected, CHECKPOINT, total=128, longest=80)
        assert "batch_size=3 sequence_length=128 max_input_tokens=80" in server.log
        assert "num_cores=4" in server.log, "what the entry has, which is more than was asked for"


# Sampling on the device


@pytest.fixture(scope="module")
def on_device(tmp_path_factory: pytest.TempPathFactory, local_hub: NeuronHub) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("device")
    directory = write_neuron_model(place / "model", MODEL, with_weights=True, on_device_sampling=True)
    recommended = {"temperature": 0.7, "repetition_penalty": 1.3, "eos_token_id": [1, 3]}
    (directory / "generation_config.json").write_text(json.dumps(recommended))
    with serving(place, str(directory), SAMPLING_DEFAULTS="model", **local_hub.environ) as running:
        yield running


def test_greedy_texts_are_the_same_where_the_device_samples(on_device: Server, expected: list[str]) -> None:
    assert texts(on_device) == expected
    assert len(list(on_device.events(PROMPTS[0], max_new_tokens=5))) == 5


def test_what_a_device_draws_from_is_taken(on_device: Server) -> None:
    reply = on_device.generate("hello", do_sample=True, temperature=0.9, top_k=20, top_p=0.9, max_new_tokens=5)
    assert reply["generated_text"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"seed": 7, "do_sample": True}, "`seed` is not supported by this server (target nxd)"),
        ({"typical_p": 0.5, "do_sample": True}, "`typical_p` is not supported by this server (target nxd)"),
        ({"repetition_penalty": 1.2}, "`repetition_penalty` is not supported by this server (target nxd)"),
        ({"frequency_penalty": 0.2}, "`frequency_penalty` is not supported by this server (target nxd)"),
        ({"top_n_tokens": 2}, "`top_n_tokens` is not supported by this server (target nxd)"),
        ({"decoder_input_details": True, "details": True}, "`decoder_input_details` is not supported by this server"),
        ({"best_of": 2, "do_sample": True}, "`best_of` is not supported by this server (target nxd)"),
        ({"grammar": {"type": "regex", "value": "a+"}}, "grammar is not supported"),
        ({"top_k": 257, "do_sample": True}, "`top_k` must be > 0 and <= 256. Given: 257"),
        ({"watermark": True}, "`watermark` is not supported by this server"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_needs_logits_is_refused_by_name(on_device: Server, parameters: dict[str, Any], message: str) -> None:
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 3, **parameters}}
    reply = httpx.post(f"{on_device.url}/generate", json=body, timeout=30)
    assert reply.status_code == 422
    assert message in reply.json()["error"]


def test_chat_logprobs_are_refused_by_name(on_device: Server) -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "max_tokens": 3}
    reply = httpx.post(f"{on_device.url}/v1/chat/completions", json=body, timeout=30)
    assert reply.status_code == 422
    assert "`logprobs` is not supported by this server" in reply.text


def test_details_come_without_what_the_device_does_not_tell(on_device: Server) -> None:
    details = on_device.generate("hello", details=True, max_new_tokens=3)["details"]
    assert [token["logprob"] for token in details["tokens"]] == [0.0, 0.0, 0.0]


def test_a_recommended_penalty_that_the_device_cannot_do_refuses_no_request(on_device: Server) -> None:
    assert on_device.log.count("not taken from the model's generation_config.json") == 1
    assert "the target cannot do it: repetition_penalty" in on_device.log
    assert on_device.generate("hello", do_sample=True, max_new_tokens=3)["generated_text"]


# What cannot start


def refusal(tmp_path: Path, hub: NeuronHub, *arguments: str, **extra: str) -> str:
    code, error = launch_and_fail(tmp_path, *arguments, "--port", "0", **{**hub.environ, **extra})
    assert code == 1
    return error[error.index("Error: ") :]


def test_what_contradicts_an_exported_model_does_not_start(tmp_path: Path, local_hub: NeuronHub) -> None:
    error = refusal(tmp_path, local_hub, "--model-id", EXPORTED, MAX_BATCH_SIZE="8")
    assert error == (
        "Error: environment variable `MAX_BATCH_SIZE` is 8, and `batch_size` of the exported model is 2; lower it to 2 "
        "or less, or export the model for 8\n"
    )


def test_a_model_that_the_cache_lacks_does_not_start_and_says_what_would(tmp_path: Path, local_hub: NeuronHub) -> None:
    error = refusal(tmp_path, local_hub, "--model-id", CHECKPOINT, TARGET="nxd", MAX_TOTAL_TOKENS="100000")
    assert error.startswith(f"Error: `model_id` {CHECKPOINT}: the Neuron Model Cache has no entry for what was asked")
    assert "would hit MAX_BATCH_SIZE=" in error and "nearest   " in error


def test_without_a_device_or_a_stand_in_nothing_starts(tmp_path: Path, local_hub: NeuronHub) -> None:
    for model in (EXPORTED, CHECKPOINT):
        error = refusal(tmp_path, local_hub, "--model-id", model, TARGET="nxd", EMULATE_NEURON="false")
        assert "needs a Neuron device" in error


def test_weights_that_cannot_be_fetched_end_the_server_with_the_reason(tmp_path: Path, local_hub: NeuronHub) -> None:
    directory = write_neuron_model(tmp_path / "model", MODEL, checkpoint_id="org/nowhere")
    code, error = launch_and_fail(tmp_path, "--model-id", str(directory), "--port", "0", **local_hub.environ)
    assert code == 1
    assert "`checkpoint_id` of its neuron_config.json is org/nowhere: " in error
    assert "no such repository on the hub" in error
