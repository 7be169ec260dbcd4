"""The README's model over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server import Server, serving

from smollm2 import MODEL_ID, needs_smollm2

pytestmark = needs_smollm2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = ("--quantize", "none", "--dtype", "float32", "--max-batch-size", "4", "--max-total-tokens", "256")
    with serving(tmp_path_factory.mktemp("smollm2"), MODEL_ID, *arguments) as running:
        yield running


def test_the_text_is_the_float32_reference(server: Server) -> None:
    reply = server.generate("What is Deep Learning?", max_new_tokens=20, details=True)
    assert reply["generated_text"] == (
        "\n\nDeep Learning is a subfield of artificial intelligence that focuses on the manipulation of complex data "
        "using algorithms"
    )
    assert reply["details"]["finish_reason"] == "length"
    assert all(token["logprob"] < 0 for token in reply["details"]["tokens"])


def test_a_chat_turn_ends_with_the_end_token(server: Server) -> None:
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    turn = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
    prompt = turn + "<|im_start|>assistant\n"
    reply = server.generate(prompt, max_new_tokens=60, details=True)
    assert reply["details"]["finish_reason"] == "eos_token"
    assert reply["details"]["tokens"][-1]["text"] == "<|im_end|>"
    assert reply["generated_text"] == "The answer to this classic math problem is 4."


def test_a_stop_string_across_tokens_stops_and_stays(server: Server) -> None:
    reply = server.generate(
        "What is Deep Learning?", max_new_tokens=40, stop=["artificial intel", "gence that"], details=True
    )
    assert reply["details"]["finish_reason"] == "stop_sequence"
    assert reply["generated_text"].endswith("intelligence that")


def test_emoji_and_other_scripts_stream_whole_characters(server: Server) -> None:
    for prompt in ("🙂🙃👩‍👩‍👧", "深度学习是", "التعلم العميق"):
        events = list(server.events(prompt, max_new_tokens=24, do_sample=True, temperature=1.5, seed=3))
        visible = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
        assert visible == events[-1]["generated_text"]
