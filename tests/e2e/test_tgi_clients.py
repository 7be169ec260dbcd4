"""`huggingface_hub.InferenceClient` and the `text-generation` package against SmolLM2."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import InferenceClient
from server import Server
from text_generation import Client
from text_generation.errors import ValidationError
from text_generation.types import Grammar, GrammarType

from smollm2 import needs_smollm2

# The client speaks to pydantic 2 as to its first version.
pytestmark = [needs_smollm2, pytest.mark.filterwarnings("ignore:The `.*` method is deprecated:DeprecationWarning")]

PROMPT = "What is Deep Learning?"
START = "\n\nDeep Learning is a subfield of artificial"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": SCHEMA}}


@pytest.fixture
def hub(smollm2_server: Server) -> InferenceClient:
    return InferenceClient(smollm2_server.url)


@pytest.fixture
def client(smollm2_server: Server) -> Client:
    return Client(smollm2_server.url)


def test_the_hub_client_sees_the_prompts_log_probabilities(hub: InferenceClient) -> None:
    reply = hub.text_generation(PROMPT, max_new_tokens=9, details=True, decoder_input_details=True)
    details = reply.details
    assert details is not None
    assert "".join(token.text for token in details.prefill) == PROMPT
    assert details.prefill[0].logprob is None
    assert all(token.logprob < 0 for token in details.prefill[1:])


def test_the_hub_client_constrains_text(hub: InferenceClient) -> None:
    text = hub.text_generation(
        "Bob is 5 years old.", max_new_tokens=60, grammar={"type": "json", "value": SCHEMA}, return_full_text=False
    )
    assert set(json.loads(text)) == {"name", "age"}


def test_the_hub_client_chats(hub: InferenceClient) -> None:
    messages = [{"role": "user", "content": "What is 2+2?"}]
    reply = hub.chat_completion(messages, max_tokens=40, temperature=0)
    assert reply.choices[0].message.content == "The answer to this classic math problem is 4."
    pieces = hub.chat_completion(messages, max_tokens=40, temperature=0, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == reply.choices[0].message.content


def test_the_hub_client_calls_tools(hub: InferenceClient) -> None:
    reply = hub.chat_completion(
        [{"role": "user", "content": "Bob is 5."}], max_tokens=80, temperature=0, tools=[TOOL], tool_choice="required"
    )
    calls = reply.choices[0].message.tool_calls
    assert calls is not None and calls[0].function.name == "get_weather"
    assert set(json.loads(calls[0].function.arguments)) == {"name", "age"}


@pytest.mark.parametrize(
    "response_format",
    [{"type": "json", "value": SCHEMA}, {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}],
    ids=["tgi", "openai"],
)
def test_the_hub_client_gets_the_format_it_asks_for(hub: InferenceClient, response_format: dict[str, object]) -> None:
    reply = hub.chat_completion(
        [{"role": "user", "content": "Bob is 5."}], max_tokens=80, temperature=0, response_format=response_format
    )
    assert set(json.loads(reply.choices[0].message.content or "")) == {"name", "age"}


def test_the_text_generation_client_generates_and_streams(client: Client) -> None:
    reply = client.generate(PROMPT, max_new_tokens=9, return_full_text=False, top_n_tokens=2)
    assert reply.generated_text == START
    assert [len(tops) for tops in reply.details.top_tokens] == [2] * 9
    pieces = list(client.generate_stream(PROMPT, max_new_tokens=9))
    assert "".join(piece.token.text for piece in pieces) == START
    assert pieces[-1].details is not None and pieces[-1].details.finish_reason.value == "length"


def test_the_text_generation_client_picks_the_best_of_two(client: Client) -> None:
    reply = client.generate(PROMPT, max_new_tokens=5, best_of=2, do_sample=True)
    assert reply.details.best_of_sequences is not None and len(reply.details.best_of_sequences) == 1
    others = reply.details.best_of_sequences[0]
    best = sum(token.logprob for token in reply.details.tokens) / len(reply.details.tokens)
    assert best >= sum(token.logprob for token in others.tokens) / len(others.tokens)


def test_the_text_generation_client_constrains_and_chats(client: Client) -> None:
    grammar = Grammar(type=GrammarType.Regex, value="[0-9]{3}-[0-9]{2}")
    reply = client.generate("Call me at", max_new_tokens=10, grammar=grammar, return_full_text=False)
    assert len(reply.generated_text) == 6 and reply.generated_text[3] == "-"
    chat = client.chat([{"role": "user", "content": "What is 2+2?"}], max_tokens=40, temperature=0.01, seed=1)
    assert chat.choices[0].message.content == "The answer to this classic math problem is 4."


def test_the_text_generation_client_knows_our_errors(client: Client) -> None:
    with pytest.raises(ValidationError, match="`max_new_tokens` must be"):
        client.generate("a", max_new_tokens=5000)
