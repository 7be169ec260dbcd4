"""Whole replies of `/v1/chat/completions`: what is asked of the engine, choices, usage, headers, errors, counts.

The engine is played: its tokens have the log-probability -0.5. Bodies to the byte are in `golden/`.
"""

from __future__ import annotations

from typing import Any

import pytest
from openai_requests import CHAT, HI, Played, chat, play, said, script

from ranvier.core import Event, FailEvent, FinishEvent, SamplingParams, TokenChoice, TokenLogprob
from ranvier.service import ServiceLimits
from serving import END, LIMITS, Script, byte_tokenizer

ANSWER = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "logprobs": None, "finish_reason": "stop"}


def ask(*scripts: Script, **fields: Any) -> Played:
    return play(CHAT, chat(**fields), *scripts)


def sampling(**fields: Any) -> SamplingParams:
    (request,) = ask(**fields).engine.requests
    return request.sampling


# The reply


def test_a_reply_has_one_choice_and_its_usage() -> None:
    reply = ask().json
    assert list(reply) == ["object", "id", "created", "model", "system_fingerprint", "choices", "usage"]
    assert (reply["object"], reply["id"], reply["choices"]) == ("chat.completion", "", [ANSWER])
    assert list(reply["choices"][0]) == ["index", "message", "logprobs", "finish_reason"]
    assert reply["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


@pytest.mark.parametrize(
    ("given", "shown"),
    [({}, "ranvier/scripted"), ({"model": None}, "ranvier/scripted"), ({"model": "tgi"}, "ranvier/scripted")]
    + [({"model": name}, name) for name in ("mine", "", "TGI")],
)
def test_the_model_is_the_one_named_unless_that_is_tgi(given: dict[str, Any], shown: str) -> None:
    assert ask(**given).json["model"] == shown


@pytest.mark.parametrize(
    ("played", "fields", "reason", "text"),
    [
        (HI, {}, "stop", "Hi"),
        (HI, {"max_tokens": 2}, "length", "Hi"),
        (HI, {"stop": ["i"]}, "stop_sequence", "Hi"),
        (HI, {"stop": "H"}, "stop_sequence", "H"),
        ([END], {}, "stop", ""),
    ],
)
def test_finish_reasons(played: Script, fields: dict[str, Any], reason: str, text: str) -> None:
    (choice,) = ask(played, **fields).json["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == (reason, text)


def test_log_probabilities_come_for_every_token_the_end_included() -> None:
    top = (TokenLogprob(72, -0.25), TokenLogprob(END, -2.0))
    played: Script = [TokenChoice(72, -0.25, top), *"é".encode(), END]
    (choice,) = ask(played, logprobs=True, top_logprobs=2).json["choices"]
    shown = [{"token": "H", "logprob": -0.25}, {"token": "<|end|>", "logprob": -2.0}]
    assert choice["logprobs"] == {
        "content": [
            {"token": "H", "logprob": -0.25, "top_logprobs": shown},
            {"token": "", "logprob": -0.5, "top_logprobs": []},
            {"token": "é", "logprob": -0.5, "top_logprobs": []},
            {"token": "<|end|>", "logprob": -0.5, "top_logprobs": []},
        ]
    }


@pytest.mark.parametrize("fields", [{"logprobs": False}, {"logprobs": None}, {"top_logprobs": 1}])
def test_log_probabilities_come_only_when_asked_for(fields: dict[str, Any]) -> None:
    assert ask(**fields).json["choices"][0]["logprobs"] is None


def test_more_top_tokens_than_the_operator_allows_are_refused_even_without_logprobs() -> None:
    text = "Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: 6"
    assert ask(top_logprobs=6).refusal == (422, "validation", text)
    assert ask(top_logprobs=5).engine.requests[0].sampling.top_n_tokens == 5


def test_the_headers_are_those_of_generate() -> None:
    headers = ask().reply.headers
    found = {name: headers[name] for name in headers if name.startswith("x-")}
    times = {"x-compute-time", "x-total-time", "x-validation-time", "x-queue-time", "x-inference-time"}
    assert found.keys() - times - {"x-time-per-token"} == {
        "x-compute-type",
        "x-compute-characters",
        "x-prompt-tokens",
        "x-generated-tokens",
    }
    assert times | {"x-time-per-token"} < found.keys()
    assert (found["x-compute-characters"], found["x-prompt-tokens"], found["x-generated-tokens"]) == ("2", "2", "3")


def test_characters_are_those_of_the_templated_prompt() -> None:
    found = play(CHAT, chat(said("é", "system"), said("Yo")))
    assert found.reply.headers["x-compute-characters"] == str(len("system: éYo"))
    assert found.reply.headers["x-prompt-tokens"] == str(len("system: éYo".encode()))


# What the engine is asked for


def test_the_prompt_is_the_templates_text_without_special_tokens_around_it() -> None:
    found = play(CHAT, chat(said("be", "system"), said("Yo")), tokenizer=byte_tokenizer(adds_mark=True))
    assert found.engine.requests[0].prompt_ids == tuple(b"system: beYo")


@pytest.mark.parametrize(
    ("fields", "do_sample", "temperature"),
    [
        ({}, True, 1.0),
        ({"temperature": None}, True, 1.0),
        ({"temperature": 1}, True, 1.0),
        ({"temperature": 0.5}, True, 0.5),
        ({"temperature": 0}, False, 1.0),
        ({"temperature": 0.0}, False, 1.0),
        ({"temperature": -0.0}, False, 1.0),
        ({"temperature": 0, "top_p": 0.9, "top_k": 5, "typical_p": 0.5, "seed": 3}, False, 1.0),
    ],
)
def test_tokens_are_drawn_unless_the_temperature_is_zero(
    fields: dict[str, Any], do_sample: bool, temperature: float
) -> None:
    found = sampling(**fields)
    assert (found.do_sample, found.temperature) == (do_sample, temperature)


def test_sampling_parameters_reach_the_engine() -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "typical_p": 0.8, "seed": 2**64 - 1, "top_logprobs": 2}
    penalties = {"frequency_penalty": -1.5, "presence_penalty": 2, "repetition_penalty": 1.25}
    top_n = given["top_logprobs"]
    expected = {name: value for name, value in given.items() if name != "top_logprobs"} | penalties
    assert sampling(**given, **penalties) == SamplingParams(do_sample=True, top_n_tokens=int(top_n), **expected)  # type: ignore[arg-type]  # mixed values


@pytest.mark.parametrize("value", [1, 1.0])
def test_a_top_p_of_one_means_that_it_is_off(value: float) -> None:
    assert sampling(top_p=value).top_p == 1.0


@pytest.mark.parametrize("value", [0, 0.0, None])
def test_no_presence_penalty_is_none(value: float | None) -> None:
    """TGI makes 0 a strong repetition penalty of 2.0; ours is that of the OpenAI API."""
    found = sampling(presence_penalty=value)
    assert (found.presence_penalty, found.repetition_penalty) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"temperature": -1}, "`temperature` must be strictly positive"),
        ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 1.5}, "`top_p` must be > 0.0 and < 1.0"),
        ({"temperature": 0, "top_p": 1.5}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"presence_penalty": -2.5}, "`presence_penalty` must be >= -2.0 and <= 2.0"),
        ({"max_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"n": 0}, "`n` must be strictly positive"),
        ({"n": 129}, "`n` must be <= 128, the `max_concurrent_requests`. Given: 129"),
        ({"n": 2**32 - 1}, "`n` must be <= 128, the `max_concurrent_requests`. Given: 4294967295"),
        ({"logit_bias": {"5": 0.5}}, "`logit_bias` is not supported; leave it out"),
        ({"logit_bias": [0, -1]}, "`logit_bias` is not supported; leave it out"),
    ],
)
def test_a_value_outside_its_limits_is_refused_and_counted(fields: dict[str, Any], text: str) -> None:
    found = ask(**fields)
    assert found.refusal == (422, "validation", f"Input validation error: {text}")
    assert found.counts["validation"] == 1
    assert found.engine.requests == []


@pytest.mark.parametrize("bias", [None, {}, [], {"5": 0}, [0.0]])
def test_a_logit_bias_that_changes_nothing_is_accepted(bias: Any) -> None:
    assert ask(logit_bias=bias).json["choices"] == [ANSWER]


def test_max_tokens_has_two_names_and_by_default_fills_the_slot() -> None:
    assert ask(max_tokens=7).engine.requests[0].max_new_tokens == 7
    assert ask(max_completion_tokens=7, max_tokens=None).engine.requests[0].max_new_tokens == 7
    assert play(CHAT, chat(), limits=LIMITS).engine.requests[0].max_new_tokens == 64 - 2


def test_an_overlong_prompt_is_a_validation_error() -> None:
    found = play(CHAT, chat(said("x" * 33)), limits=LIMITS)
    assert found.refusal == (
        422,
        "validation",
        "Input validation error: `inputs` must have less than 32 tokens. Given: 33",
    )
    assert found.counts == {"requests": 2, "validation": 1}


# Several answers


def test_n_answers_count_the_prompt_once() -> None:
    found = ask(script("one"), script("two"), HI, n=3)
    choices, usage = found.json["choices"], found.json["usage"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in choices] == ["one", "two", "Hi"]
    assert usage == {"prompt_tokens": 2, "completion_tokens": 11, "total_tokens": 13}
    headers = found.reply.headers
    assert (headers["x-prompt-tokens"], headers["x-generated-tokens"]) == ("2", "11")
    assert headers["x-compute-characters"] == "2"
    assert found.counts["success"] == 3


def test_n_answers_have_seeds_of_their_own() -> None:
    seeds = [request.sampling.seed for request in ask(n=3, seed=2**64 - 2).engine.requests]
    assert seeds == [2**64 - 2, 2**64 - 1, 0]
    drawn = {request.sampling.seed for request in ask(n=3).engine.requests}
    assert len(drawn) == 3


def test_as_many_answers_as_permits_are_given_and_each_needs_one() -> None:
    two = ServiceLimits(max_concurrent_requests=2)
    assert len(play(CHAT, chat(n=2), service_limits=two).json["choices"]) == 2
    text = "Input validation error: `n` must be <= 2, the `max_concurrent_requests`. Given: 3"
    assert play(CHAT, chat(n=3), service_limits=two).refusal == (422, "validation", text)


# Errors and counts


@pytest.mark.parametrize(
    ("ending", "refusal", "err"),
    [
        (
            FailEvent("", "out of luck"),
            (424, "generation", "Request failed during generation: Server error: out of luck"),
            "generation",
        ),
        (FinishEvent("", "cancelled"), (500, "incomplete_generation", "Incomplete generation"), "incomplete"),
    ],
)
@pytest.mark.parametrize("n", [1, 3])
def test_a_reply_that_cannot_be_finished_is_an_error(
    ending: FailEvent | FinishEvent, refusal: tuple[int, str, str], err: str, n: int
) -> None:
    def end(request_id: str) -> Event:
        return type(ending)(request_id, ending.message if isinstance(ending, FailEvent) else ending.reason)  # type: ignore[arg-type]  # one of each

    found = play(CHAT, chat(n=n), list(b"H"), ending=end)
    assert found.refusal == refusal
    assert found.counts == {"requests": 2, err: 1}


def test_a_chat_counts_twice() -> None:
    """Once on entry and once for its generation, as in TGI."""
    assert ask().counts == {"requests": 2, "success": 1}


def test_a_model_without_a_template_cannot_chat() -> None:
    for fields in ({}, {"stream": True}, {"tools": []}):
        found = play(CHAT, chat(**fields), template=None)
        assert found.refusal == (422, "template_error", "Template error: template not found")
        # TGI counts no failure for it.
        assert found.counts == {"requests": 1}


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}])
def test_a_template_that_refuses_the_messages_is_a_template_error(fields: dict[str, Any]) -> None:
    found = play(CHAT, chat(**fields), template="\n{{ raise_exception('only system') }}")
    assert found.refusal == (422, "template_error", "Template error: syntax error: only system (in <string>:2)")
    assert found.counts == {"requests": 1, "template": 1}


def test_no_messages_are_left_to_the_template() -> None:
    nothing = {"messages": []}
    assert play(CHAT, nothing, template="{{ messages|length }}!").engine.requests[0].prompt_ids == tuple(b"0!")
    text = "Input validation error: `inputs` cannot be empty"
    assert play(CHAT, nothing).refusal == (422, "validation", text)
    assert play(CHAT, nothing, template="{{ messages[0].content }}").refusal[1] == "template_error"


@pytest.mark.parametrize("fields", [{}, {"n": 2}])
def test_the_last_message_of_the_assistant_is_continued(fields: dict[str, Any]) -> None:
    template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}</>{% endfor %}<assistant>"
    messages = [said("Count"), said("One, ", "assistant")]
    found = play(CHAT, chat(*messages, **fields), script("two"), template=template)
    assert found.engine.requests[0].prompt_ids == tuple(b"<user>Count</><assistant>One,")
    assert {choice["message"]["content"] for choice in found.json["choices"]} == {"two"}
