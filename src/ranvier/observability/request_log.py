"""What is told about a request, in its log line and in its span. Texts of clients are left out unless asked for."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

from ranvier.observability.moments import Moments, timing_fields

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def request_fields(
    *,
    request_id: str,
    parameters: DataclassInstance,
    moments: Moments,
    num_input: int,
    num_generated: int,
    num_reused: int,
    finish_reason: str,
    seed: int | None,
    trace_id: str | None = None,
    inputs: str | None = None,
) -> dict[str, object]:
    """The `extra` of the line about a request that ended well; counts are tokens, `num_generated` >= 1.

    `inputs` is the prompt: give it only where the operator asked for prompts (`--log-prompts`). It also decides
    whether texts among the parameters are shown.
    """
    shown = shown_parameters(parameters, with_texts=inputs is not None)
    line: dict[str, object] = {
        "request_id": request_id,
        "trace_id": trace_id,
        "parameters": shown,
        **timing_fields(moments, num_generated),
        "seed": seed,
        "input_tokens": num_input,
        "output_tokens": num_generated,
        "reused_tokens": num_reused,
        "finish_reason": finish_reason,
        "inputs": inputs,
    }
    absent = {name for name in ("trace_id", "inputs") if line[name] is None}
    return {name: value for name, value in line.items() if name not in absent}


def shown_parameters(parameters: DataclassInstance, *, with_texts: bool) -> dict[str, object]:
    """The fields that differ from their defaults, by name.

    Without `with_texts`, a text is told as its number of characters, `"<11 characters>"`, in lists too, and any other
    value that is no number as its type, `"<Grammar>"`: it may hold text of the client.
    """
    given = {each.name: getattr(parameters, each.name) for each in fields(parameters)}
    defaults = {each.name: _default(each) for each in fields(parameters)}
    changed = {name: value for name, value in given.items() if value != defaults[name]}
    return {name: value if with_texts else _without_text(value) for name, value in changed.items()}


def _default(field: Field[Any]) -> object:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _without_text(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return f"<{len(value)} characters>"
    if isinstance(value, (tuple, list)):
        return [_without_text(item) for item in value]
    return f"<{type(value).__name__}>"
