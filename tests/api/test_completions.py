"""Whole replies of `/v1/completions`: prompts, choices, usage, log-probabilities, headers, errors, counts.

The engine is played: its tokens have the log-probability -0.5. Bodies to the byte are in `golden/`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai_requests import COMPLETIONS, HI, Played, play, script

from http_driver import AsgiCall, client_of
from ranvier.core import FailEvent, PromptEvent, SamplingParams, TokenChoice, TokenLogprob
from ranvier.service import ServiceLimits
from serving import END, LIMITS, HandEngine, Script, byte_tokenizer, make_service, scripted_service, until

TIMES = {"x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token"}


def complete(prompt: Any, *scripts: Script, **fields: Any) -> Played:
    return play(COMPLETIONS, {"prompt": prompt, **fields}, *scripts)


def texts(found: Played) -> list[str]:
    assert [choice["index"] for choice in found.json["choices"]] == list(range(len(found.json["choices"])))
    return [choice["text"] for choice in found.json["choices"]]


# The reply


def test_a_reply_has_a_choice_for_the_prompt_and_its_usage() -> None:
    reply = complete("Yo", model="mine").json
    assert list(reply) == ["object", "id", "created", "model", "system_fingerprint", "choices", "usage"]
    # The server's own model, whatever was named.
    assert (reply["object"], reply["id"], reply["model"]) == ("text_completion", "", "ranvier/scripted")
    assert reply["choices"] == [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "stop"}]
    assert list(reply["choices"][0]) == ["index", "text", "logprobs", "finish_reason"]
    assert reply["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


@pytest.mark.parametrize(
    ("fields", "reason"), [({}, "stop"), ({"max_tokens": 2}, "length"), ({"stop": "i"}, "stop_sequence")]
)
def test_finish_reasons(fields: dict[str, Any], reason: str) -> None:
    assert complete("Yo", **fields).json["choices"][0]["finish_reason"] == reason


def test_four_prompts_are_four_choices_in_their_order_and_usage_is_their_sum() -> None:
    """The golden case."""
    found = complete(["a", "bb", "ccc", "dddd"], script("1"), script("22"), script("333"), HI)
    assert texts(found) == ["1", "22", "333", "Hi"]
    assert found.json["usage"] == {"prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22}
    # Once on entry and once for each prompt.
    assert found.counts == {"requests": 5, "success": 4}


def test_choices_come_in_the_order_of_their_prompts_whichever_ends_first() -> None:
    async def main() -> None:
        engine = HandEngine()
        call = AsgiCall(make_service(engine), COMPLETIONS, {"prompt": ["a", "b"]})
        await until(lambda: len(engine.requests) == 2, "both are with the engine")
        for index, text in ((1, "second"), (0, "first")):
            engine.say(index, text)
            engine.end(index)
        (_, body) = await call.done()
        choices = json.loads(body["body"])["choices"]
        assert [(choice["index"], choice["text"]) for choice in choices] == [(0, "first"), (1, "second")]

    asyncio.run(main())


def test_five_prompts_are_more_than_a_batch() -> None:
    """The golden case."""
    text = "Number of prompts exceeds the maximum allowed batch size of 4"
    for fields in ({}, {"stream": True}):
        found = complete(list("abcde"), **fields)
        assert found.refusal == (422, "batch size exceeded", text)
        assert found.counts == {"requests": 1}
    one = ServiceLimits(max_client_batch_size=1)
    refused = play(COMPLETIONS, {"prompt": ["a", "b"]}, service_limits=one)
    assert refused.refusal[2] == "Number of prompts exceeds the maximum allowed batch size of 1"
    assert play(COMPLETIONS, {"prompt": ["a"]}, service_limits=one).reply.status_code == 200


@pytest.mark.parametrize("suffix", ["", "a"])
@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"prompt": list("abcde")}])
def test_a_suffix_is_refused(suffix: str, fields: dict[str, Any]) -> None:
    found = play(COMPLETIONS, {"prompt": "a", "suffix": suffix, **fields})
    text = "Suffix is not supported and can be achieved by preprocessing the prompt."
    assert found.refusal == (422, "suffix not supported", text)
    assert found.counts == {"requests": 1}


@pytest.mark.parametrize(
    ("prompt", "n", "num_characters", "num_prompt"), [("é", 1, 1, 2), (["é", "ab"], 1, 3, 4), ("é", 3, 1, 2)]
)
def test_headers_are_sums_without_a_compute_time(prompt: Any, n: int, num_characters: int, num_prompt: int) -> None:
    found = complete(prompt, HI, n=n)
    headers = {name: value for name, value in found.reply.headers.items() if name.startswith("x-")}
    assert headers.keys() == TIMES | {
        "x-compute-type",
        "x-compute-characters",
        "x-prompt-tokens",
        "x-generated-tokens",
    }
    assert headers["x-compute-characters"] == str(num_characters)
    assert headers["x-prompt-tokens"] == str(num_prompt)
    assert headers["x-generated-tokens"] == str(3 * len(found.json["choices"]))


# Prompts


def test_texts_get_special_tokens_and_token_ids_are_taken_as_they_are() -> None:
    def ids(prompt: Any) -> list[tuple[int, ...]]:
        found = play(COMPLETIONS, {"prompt": prompt}, tokenizer=byte_tokenizer(adds_mark=True))
        return [request.prompt_ids for request in found.engine.requests]

    assert ids("ab") == ids(["ab"]) == [(257, 97, 98)]
    assert ids([97, 98]) == ids([[97, 98]]) == [(97, 98)]
    assert ids([[97], [258, 256]]) == [(97,), (258, 256)]


def test_token_ids_count_and_echo_as_the_text_they_stand_for() -> None:
    found = complete([258, 195, 169], echo=True)
    assert texts(found) == ["one. twoéHi"]
    assert found.reply.headers["x-compute-characters"] == str(len("one. twoé"))
    assert found.json["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    "prompt",
    [
        *(
            None,
            1,
            {},
            [],
            [[]],
            [[], [1]],
            [None],
            [True],
            [1.0],
            ["a", 1],
            [1, "a"],
            ["a", [1]],
            [[1], "a"],
            [1, [1]],
        ),
        *([-1], [2**32], [[-1]], [[2**32]], [["a"]], [[[1]]], [{}]),
    ],
)
def test_prompts_of_other_shapes_and_mixed_lists_are_refused(prompt: Any) -> None:
    assert complete(prompt).shape_error.startswith("prompt")


@pytest.mark.parametrize("token_id", [259, 2**32 - 1])
def test_token_ids_outside_the_vocabulary_are_refused(token_id: int) -> None:
    text = f"Input validation error: `prompt` token ids must be >= 0 and < 259. Given: {token_id}"
    assert complete([97, token_id]).refusal == (422, "validation", text)


@pytest.mark.parametrize("prompt", ["", ["a", ""]])
def test_an_empty_prompt_is_a_validation_error(prompt: Any) -> None:
    assert complete(prompt).refusal == (422, "validation", "Input validation error: `inputs` cannot be empty")


# What the engine is asked for


def test_sampling_parameters_reach_the_engine() -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "frequency_penalty": -1, "repetition_penalty": 1.5}
    (request,) = complete("Yo", **given, presence_penalty=2, logprobs=3, max_tokens=9).engine.requests
    assert request.sampling == SamplingParams(do_sample=True, presence_penalty=2, top_n_tokens=3, **given)  # type: ignore[arg-type]  # mixed values
    assert request.max_new_tokens == 9


@pytest.mark.parametrize(
    ("fields", "do_sample"),
    [({}, True), ({"temperature": 1}, True), ({"temperature": 0}, False), ({"temperature": 0, "top_p": 0.5}, False)],
)
def test_tokens_are_drawn_unless_the_temperature_is_zero(fields: dict[str, Any], do_sample: bool) -> None:
    assert complete("Yo", **fields).engine.requests[0].sampling.do_sample is do_sample


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"temperature": -1}, "`temperature` must be strictly positive"),
        ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"logprobs": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"n": 0}, "`n` must be strictly positive"),
        ({"n": 129}, "`n` must be <= 128, the `max_concurrent_requests`. Given: 129"),
        ({"best_of": 3}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"n": 2, "best_of": 1}, "`best_of` must be >= `n`, 2. Given: 1"),
        ({"best_of": 0}, "`best_of` must be >= `n`, 1. Given: 0"),
        ({"best_of": 2, "stream": True}, "`best_of` > `n` is not supported when streaming tokens"),
        (
            {"echo": True, "logprobs": 1, "stream": True},
            "`echo` with `logprobs` is not supported when streaming tokens",
        ),
        ({"n": 2**32 - 1, "stream": True}, "`n` must be <= 128, the `max_concurrent_requests`. Given: 4294967295"),
        ({"logit_bias": {"5": 1}}, "`logit_bias` is not supported; leave it out"),
    ],
)
def test_a_value_outside_its_limits_is_refused(fields: dict[str, Any], text: str) -> None:
    found = complete("Yo", **fields)
    assert found.refusal == (422, "validation", f"Input validation error: {text}")
    assert found.engine.requests == []


U32 = [-1, 2**32, 1.5, "1", True]
WRONG: dict[str, list[Any]] = {
    **dict.fromkeys(("max_tokens", "logprobs", "n", "best_of"), U32),
    **{name: ["1", True, []] for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty")},
    **{name: [1, "true"] for name in ("echo", "stream")},
    "repetition_penalty": ["1"],
    "model": [1],
    "seed": [-1, 2**64, "1"],
    "stop": [1, [1]],
    "stream_options": [True, {"include_usage": 1}],
    "suffix": [1, []],
    "logit_bias": [1, "a"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_field_of_the_wrong_shape_is_refused_by_its_path(name: str, value: Any) -> None:
    assert complete("Yo", **{name: value}).shape_error.lstrip("`").startswith(name)


def test_every_field_but_the_prompt_may_be_null_and_unknown_ones_are_ignored() -> None:
    assert texts(complete("Yo", **dict.fromkeys(WRONG), user=1, top_k="x")) == ["Hi"]
    assert play(COMPLETIONS, {}).shape_error == "Object missing required field `prompt`"


@pytest.mark.parametrize("prompt", ["a\\ud800", "\\udfff"])
def test_half_of_a_surrogate_pair_is_told_as_a_mistake(prompt: str) -> None:
    for place in ('{"prompt":"HERE"}', '{"prompt":["a","HERE"]}', '{"prompt":"a","stop":["HERE"]}'):
        reply = play(COMPLETIONS, place.replace("HERE", prompt).encode()).reply
        assert (reply.status_code, reply.headers["content-type"]) == (400, "text/plain; charset=utf-8")


# Several answers


def test_n_answers_to_each_prompt_follow_each_other_and_count_the_prompt_once() -> None:
    found = complete(["a", "bb"], script("1"), script("22"), script("333"), HI, n=2, seed=9)
    assert texts(found) == ["1", "22", "333", "Hi"]
    assert found.json["usage"] == {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}
    assert [request.sampling.seed for request in found.engine.requests] == [9, 10, 9, 10]


def test_of_the_best_of_answers_the_likeliest_are_told_best_first() -> None:
    def played(logprob: float, text: str) -> Script:
        return [TokenChoice(byte, logprob) for byte in text.encode()] + [TokenChoice(END, logprob)]

    found = complete("Yo", played(-3.0, "bad"), played(-1.0, "good"), best_of=2, seed=4)
    assert texts(found) == ["good"]
    assert [request.sampling.seed for request in found.engine.requests] == [4, 5]
    wide = ServiceLimits(max_best_of=3)
    body = {"prompt": "Yo", "best_of": 3, "n": 2}
    scripts = (played(-2.0, "so"), played(-3.0, "bad"), played(-1.0, "good"))
    assert texts(play(COMPLETIONS, body, *scripts, service_limits=wide)) == ["good", "so"]
    assert texts(complete("Yo", script("1"), script("2"), n=2, best_of=2)) == ["1", "2"]


# Echo and log-probabilities


def test_the_echo_is_the_prompt_before_each_text() -> None:
    assert texts(complete(["a ", "b "], echo=True, n=2)) == ["a Hi", "a Hi", "b Hi", "b Hi"]
    assert texts(complete("a ", echo=False)) == ["Hi"]


def test_log_probabilities_are_in_the_shape_of_the_older_api() -> None:
    top = (TokenLogprob(72, -0.25), TokenLogprob(END, -2.0))
    played: Script = [TokenChoice(72, -0.25, top), *"é".encode(), END]
    (choice,) = complete("Yo", played, logprobs=2).json["choices"]
    assert choice["logprobs"] == {
        "tokens": ["H", "", "é", "<|end|>"],
        "token_logprobs": [-0.25, -0.5, -0.5, -0.5],
        "top_logprobs": [{"H": -0.25, "<|end|>": -2.0}, {}, {}, {}],
        "text_offset": [0, 1, 1, 2],
    }
    assert list(choice["logprobs"]) == ["tokens", "token_logprobs", "top_logprobs", "text_offset"]


def test_no_top_tokens_may_be_wanted() -> None:
    (choice,) = complete("Yo", logprobs=0).json["choices"]
    assert (choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]) == ([-0.5] * 3, None)
    assert complete("Yo").json["choices"][0]["logprobs"] is None


def test_an_echo_with_log_probabilities_has_those_of_the_prompt() -> None:
    """After `!`, id 33, the scripted target gives 3 * 33 + 1 = 100, `d`: -0.084549; all else is 8 less likely."""

    async def main() -> Any:
        async with scripted_service() as service, client_of(service) as client:
            body = {"prompt": "!d!", "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0}
            return (await client.post(COMPLETIONS, json=body)).json()

    (choice,) = asyncio.run(main())["choices"]
    found = choice["logprobs"]
    assert (found["tokens"][:3], found["text_offset"]) == (["!", "d", "!"], [0, 1, 2, 3])
    assert found["token_logprobs"][0] is None
    assert found["token_logprobs"][1:] == pytest.approx([-0.084549, -8.084549, -0.084549], abs=1e-6)


# Failures


def test_one_failing_prompt_fails_the_whole_request_and_frees_the_others() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        call = AsgiCall(service, COMPLETIONS, {"prompt": ["a", "b", "c"]})
        await until(lambda: len(engine.requests) == 3, "all are with the engine")
        engine.fail(1, "no")
        assert (await call.start())["status"] == 424
        await call.done()
        await until(lambda: engine.num_open == 0, "the others are cancelled")
        assert len(engine.cancelled) == 2
        assert service.num_in_flight == 0

    asyncio.run(main())


def test_one_prompt_too_long_fails_the_whole_request() -> None:
    found = play(COMPLETIONS, {"prompt": ["a", "x" * 33]}, limits=LIMITS)
    assert found.refusal[2] == "Input validation error: `inputs` must have less than 32 tokens. Given: 33"


def test_more_prompts_than_permits_are_overload_and_nothing_stays_behind() -> None:
    two = ServiceLimits(max_concurrent_requests=2)
    found = play(COMPLETIONS, {"prompt": ["a", "b", "c"]}, service_limits=two)
    assert found.refusal == (429, "overloaded", "Model is overloaded")
    assert found.counts["overloaded"] == 1
    assert play(COMPLETIONS, {"prompt": ["a", "b"], "n": 2}, service_limits=two).refusal[0] == 429


def test_a_client_that_leaves_frees_every_slot_and_permit() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        call = AsgiCall(service, COMPLETIONS, {"prompt": ["a", "b"], "n": 2})
        await until(lambda: len(engine.requests) == 4, "all are with the engine")
        call.leave()
        await call.done()
        await until(lambda: engine.num_open == 0, "all are cancelled")
        assert service.num_in_flight == 0

    asyncio.run(main())


def test_a_failure_is_told_as_by_generate() -> None:
    found = play(COMPLETIONS, {"prompt": "a"}, [72], ending=lambda request_id: FailEvent(request_id, "no"))
    assert found.refusal == (424, "generation", "Request failed during generation: Server error: no")
    assert found.counts == {"requests": 2, "generation": 1}


def test_scores_of_the_prompt_are_asked_for_only_with_echo_and_log_probabilities() -> None:
    def wants(**fields: Any) -> bool:
        return complete("Yo", **fields).engine.requests[0].wants_prompt_logprobs

    assert (wants(), wants(logprobs=1), wants(echo=True)) == (False, False, False)

    async def main() -> None:
        engine = HandEngine()
        call = AsgiCall(make_service(engine), COMPLETIONS, {"prompt": "Yo", "echo": True, "logprobs": 0, "n": 2})
        await until(lambda: len(engine.requests) == 2, "both are with the engine")
        for index, request in enumerate(engine.requests):
            assert request.wants_prompt_logprobs
            engine.emit(PromptEvent(request.request_id, (-1.5,)))
            engine.end(index)
        (_, body) = await call.done()
        choices = json.loads(body["body"])["choices"]
        assert [choice["logprobs"]["token_logprobs"] for choice in choices] == [[None, -1.5, -0.25]] * 2

    asyncio.run(main())
