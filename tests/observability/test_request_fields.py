"""What the log line of a request holds, and what it keeps to itself."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import Any

from some_moments import some_moments

from ranvier.observability import request_fields, shown_parameters
from ranvier.observability.logs import JsonFormatter, PlainFormatter

SECRET = "ThePromptThatNobodyShallRead"


@dataclass(frozen=True, kw_only=True)
class Pattern:
    value: str


@dataclass(frozen=True, kw_only=True)
class Parameters:
    best_of: int | None = None
    temperature: float | None = None
    do_sample: bool = False
    stop: tuple[str, ...] = ()
    grammar: Pattern | None = None
    adapter_id: str | None = None
    biases: dict[str, float] = field(default_factory=dict)


def fields_of(parameters: Parameters | None = None, **more: Any) -> dict[str, object]:
    given: dict[str, Any] = {
        "request_id": "ab12-0",
        "parameters": parameters or Parameters(),
        "moments": some_moments(0.0),
        "num_input": 6,
        "num_generated": 4,
        "num_reused": 2,
        "finish_reason": "length",
        "seed": 2**64 - 1,
        **more,
    }
    return request_fields(**given)


def test_a_line_has_tgis_fields_and_ours() -> None:
    assert fields_of(Parameters(best_of=2, temperature=0.5, do_sample=True)) == {
        "request_id": "ab12-0",
        "parameters": {"best_of": 2, "temperature": 0.5, "do_sample": True},
        "total_time": "15ms",
        "validation_time": "1ms",
        "queue_time": "2ms",
        "inference_time": "12ms",
        "time_per_token": "3ms",
        "seed": 2**64 - 1,
        "input_tokens": 6,
        "output_tokens": 4,
        "reused_tokens": 2,
        "finish_reason": "length",
    }


def test_the_trace_and_the_prompt_are_there_when_they_are_known() -> None:
    fields = fields_of(trace_id="0af7", inputs="a prompt", seed=None)
    assert (fields["trace_id"], fields["inputs"], fields["seed"]) == ("0af7", "a prompt", None)


def test_texts_among_the_parameters_are_told_by_their_length() -> None:
    parameters = Parameters(stop=(SECRET, "ab"), grammar=Pattern(value=SECRET), adapter_id=SECRET, biases={SECRET: 1.0})
    assert shown_parameters(parameters, with_texts=False) == {
        "stop": ["<28 characters>", "<2 characters>"],
        "grammar": "<Pattern>",
        "adapter_id": "<28 characters>",
        "biases": "<dict>",
    }


def test_with_prompts_asked_for_the_parameters_are_told_as_they_are() -> None:
    parameters = Parameters(stop=(SECRET,), grammar=Pattern(value=SECRET))
    assert shown_parameters(parameters, with_texts=True) == {"stop": (SECRET,), "grammar": Pattern(value=SECRET)}
    assert fields_of(parameters, inputs="a")["parameters"] == {"stop": (SECRET,), "grammar": Pattern(value=SECRET)}


def test_parameters_at_their_defaults_are_not_told() -> None:
    assert shown_parameters(Parameters(), with_texts=False) == {}


def lines_of(fields: dict[str, object]) -> tuple[str, str]:
    record = logging.makeLogRecord({"name": "ranvier.x", "levelname": "INFO", "msg": "request done", **fields})
    return JsonFormatter("router").format(record), PlainFormatter("router").format(record)


def test_both_formats_can_write_the_fields() -> None:
    in_json, plain = lines_of(fields_of(Parameters(stop=("ab",)), trace_id="0af7"))
    assert json.loads(in_json)["parameters"] == {"stop": ["<2 characters>"]}
    assert json.loads(in_json)["seed"] == 2**64 - 1
    assert " request_id=ab12-0 trace_id=0af7 parameters=" in plain
    assert " total_time=15ms validation_time=1ms queue_time=2ms inference_time=12ms time_per_token=3ms " in plain


def test_no_line_holds_a_text_of_the_client_unless_asked() -> None:
    parameters = Parameters(stop=(SECRET,), grammar=Pattern(value=SECRET), adapter_id=SECRET)
    for line in lines_of(fields_of(parameters)):
        assert SECRET not in line
    for line in lines_of(fields_of(parameters, inputs=SECRET)):
        assert line.count(SECRET) == 4
