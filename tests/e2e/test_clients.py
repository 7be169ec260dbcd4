"""Clients that people use, against a real server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from server import Server, serving

from tiny_checkpoints import TinyModel, write_checkpoint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("clients")
    write_checkpoint(directory / "checkpoint", TinyModel())
    with serving(directory, str(directory / "checkpoint"), "--api-key", "secret") as running:
        yield running


@pytest.fixture
def client(server: Server) -> InferenceClient:
    return InferenceClient(server.url, token="secret")


def test_the_hub_client_generates_text(client: InferenceClient, server: Server) -> None:
    text = client.text_generation("hello world", max_new_tokens=8, return_full_text=False)
    details = client.text_generation(
        "hello world", max_new_tokens=8, return_full_text=False, details=True, decoder_input_details=False
    )
    assert details.generated_text == text
    assert details.details is not None and details.details.generated_tokens == len(details.details.tokens)


def test_the_hub_client_gets_the_prompt_unless_it_refuses_it(client: InferenceClient) -> None:
    without = client.text_generation("hello world", max_new_tokens=8, return_full_text=False)
    assert client.text_generation("hello world", max_new_tokens=8, return_full_text=True) == "hello world" + without


def test_the_hub_client_streams(client: InferenceClient) -> None:
    whole = client.text_generation("hello world", max_new_tokens=8, return_full_text=False)
    pieces = list(client.text_generation("hello world", max_new_tokens=8, stream=True, details=True))
    assert "".join(piece.token.text for piece in pieces if not piece.token.special) == whole
    assert pieces[-1].details is not None and pieces[-1].details.finish_reason in ("length", "eos_token")


def test_the_hub_client_is_told_what_is_wrong(client: InferenceClient) -> None:
    with pytest.raises(Exception, match="`top_p` must be > 0.0 and < 1.0"):
        client.text_generation("hello", top_p=1.5, max_new_tokens=2)


def test_a_wrong_key_is_refused(server: Server) -> None:
    with pytest.raises(HfHubHTTPError, match="401"):
        InferenceClient(server.url, token="wrong").text_generation("hello", max_new_tokens=2)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
def test_curl_as_the_readme_has_it(server: Server) -> None:
    body = '{"inputs":"What is Deep Learning?","parameters":{"max_new_tokens":4}}'
    for path, start in (("generate", '{"generated_text":"'), ("generate_stream", 'data: {"index":1,"token":{"id":')):
        command = ["curl", "-sN", f"{server.url}/{path}", "-d", body]
        headers = ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer secret"]
        reply = subprocess.run([*command, *headers], capture_output=True, text=True, check=True, timeout=30).stdout
        assert reply.startswith(start)
