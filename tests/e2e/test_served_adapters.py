"""The launcher with a tiny random model and two LoRA adapters: each request gets its adapter's text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server import Server, launch_and_fail, serving

from tiny_adapters import FloatArray, TinyAdapter, merged, write_adapter
from tiny_checkpoints import TinyModel, write_checkpoint

MODEL = TinyModel(max_positions=256)
ADAPTERS = {
    "query": TinyAdapter(seed=1, targets=("q_proj", "v_proj"), rank=8, alpha=32.0),
    "org/all": TinyAdapter(seed=2, targets=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")),
}
PROMPTS = ("hello world", "the world in the other", "hello hello hello hello world and on and on to the end of it")
OPTIONS = ("--dtype", "float32", "--max-batch-size", "4", "--max-batch-prefill-tokens", "64")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def added(directory: Path) -> dict[str, dict[str, FloatArray]]:
    """What each adapter adds to the checkpoint, both of which are written."""
    write_checkpoint(directory / "model", MODEL)
    return {
        name: write_adapter(directory / "adapters" / name, adapter, MODEL.shapes())
        for name, adapter in ADAPTERS.items()
    }


@pytest.fixture(scope="module")
def expected(directory: Path, added: dict[str, dict[str, FloatArray]]) -> dict[str | None, list[str]]:
    """Texts of the model itself, and of each adapter merged into it by hand, from servers without adapters."""
    texts: dict[str | None, list[str]] = {}
    for number, name in enumerate((None, *ADAPTERS)):
        weights = MODEL.weights() if name is None else merged(MODEL.weights(), added[name])
        write_checkpoint(directory / f"merged-{number}", MODEL, weights)
        with serving(directory, str(directory / f"merged-{number}"), *OPTIONS) as server:
            texts[name] = [text_of(server, prompt) for prompt in PROMPTS]
    return texts


@pytest.fixture(scope="module", params=[(), ("--single-process",)], ids=["processes", "single process"])
def server(
    request: pytest.FixtureRequest, directory: Path, added: dict[str, dict[str, FloatArray]]
) -> Iterator[Server]:
    entries = ",".join(f"{name}={directory}/adapters/{name}" for name in added)
    with serving(directory, str(directory / "model"), *OPTIONS, *request.param, LORA_ADAPTERS=entries) as running:
        yield running


def text_of(server: Server, prompt: str, **parameters: Any) -> str:
    return str(server.generate(prompt, max_new_tokens=16, **parameters)["generated_text"])


def test_each_request_gets_the_text_of_its_adapter(server: Server, expected: dict[str | None, list[str]]) -> None:
    assert len({tuple(texts) for texts in expected.values()}) == 3, "the adapters make no difference"
    for name, texts in expected.items():
        assert [text_of(server, prompt, adapter_id=name) for prompt in PROMPTS] == texts


def test_requests_with_different_adapters_run_together(server: Server, expected: dict[str | None, list[str]]) -> None:
    """The prompts are the same for all, so that any row shared between adapters would show."""
    found: dict[tuple[str | None, int], str] = {}

    def ask(name: str | None, number: int) -> None:
        found[name, number] = text_of(server, PROMPTS[number], adapter_id=name)

    threads = [threading.Thread(target=ask, args=(name, n)) for n in range(len(PROMPTS)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {(name, n): text for name, texts in expected.items() for n, text in enumerate(texts)}


def test_the_openai_routes_and_the_listing_know_the_adapters_by_name(
    server: Server, directory: Path, expected: dict[str | None, list[str]]
) -> None:
    body = {"model": "org/all", "prompt": PROMPTS[0], "max_tokens": 16, "temperature": 0}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    assert (reply["model"], reply["choices"][0]["text"]) == ("org/all", expected["org/all"][0])
    base = str(directory / "model")
    models = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert [(each["id"], each.get("parent")) for each in models] == [(base, None), ("query", base), ("org/all", base)]
    assert httpx.get(f"{server.url}/info").json()["adapters"] == ["query", "org/all"]


def test_an_adapter_that_is_not_loaded_is_a_422_that_names_those_that_are(server: Server) -> None:
    parameters = {"adapter_id": "other"}
    reply = httpx.post(f"{server.url}/generate", json={"inputs": "hello", "parameters": parameters}, timeout=60)
    text = "`adapter_id` must be one of the adapters loaded: `query`, `org/all`; or leave it out"
    assert (reply.status_code, reply.json()["error"]) == (422, f"Input validation error: {text}")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("a=/no/such/place", "adapter `a`: /no/such/place: no such directory, and no hub id"),
        ("tgi=x", "an adapter called 'tgi', by which clients ask for the model itself"),
        ("a={0}/broken", "adapter `a` ({0}/broken): `r` must be a whole number of 1 or more. Given: 0"),
    ],
)
def test_a_start_with_a_wrong_adapter_ends_with_one_line(tmp_path: Path, entry: str, words: str) -> None:
    write_checkpoint(tmp_path / "model", MODEL)
    write_adapter(tmp_path / "broken", TinyAdapter(seed=1, targets=("q_proj",), config={"r": 0}), MODEL.shapes())
    arguments = ("--model-id", str(tmp_path / "model"), "--lora-adapters", entry.format(tmp_path))
    code, output = launch_and_fail(tmp_path, *arguments)
    assert code == 1, output
    assert "Traceback" not in output
    (error,) = [line for line in output.splitlines() if "Error:" in line or "ERROR" in line]
    assert words.format(tmp_path) in error
