"""What each field of each request means, and its bounds: what the types of the wire cannot say.

Bounds stand here and not in the types because they are checked after the body is read, in TGI's order and with TGI's
texts. A bound that the operator sets is named by its option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

U64_MAX = 2**64 - 1

_ABOVE_ZERO = {"exclusiveMinimum": 0}
_OPEN_UNIT = {"exclusiveMinimum": 0, "exclusiveMaximum": 1}
_PENALTY = {"minimum": -2, "maximum": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Documentation of one field.

    * `text`: Markdown, whole sentences.
    * `rules`: keywords of JSON Schema that hold besides the type.
    * `options`: keyword of JSON Schema -> the operator's option that is its value.
    * `example`: a value that is accepted; None for none.
    * `capability`: name of the parameter in `ranvier.core.Capabilities` that a target needs for it.
    * `is_refused`: whether no target honours it.
    """

    text: str
    rules: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    example: Any = None
    capability: str | None = None
    is_refused: bool = False


_LOGIT_BIAS = Note(text="Refused unless empty or all zero.", is_refused=True)
_MODEL = "Any name is accepted: one server serves one model."
_SEED = Note(
    text="Seed of the random numbers: the same seed, prompt and settings give the same text. Random without it.",
    rules={"maximum": U64_MAX},
    example=42,
    capability="seed",
)
_STREAM = Note(text="Whether the reply is a stream of server-sent events.")
_TOP_P = "Sample from the smallest set of tokens whose probabilities sum to this."

_COMMON: dict[str, Note] = {
    "best_of": Note(
        text="Sequences to generate, of which the one with the highest mean log-probability is returned. "
        "0 stands for 1. More than 1 needs sampling and no `seed`, and cannot be streamed.",
        options={"maximum": "max_best_of"},
        example=1,
        capability="best_of",
    ),
    "chat_template_kwargs": Note(text="More variables for the chat template, such as `enable_thinking`."),
    "frequency_penalty": Note(
        text="Taken from a token's logit for each time it occurs, as a share of the text so far. 0 for none.",
        rules=_PENALTY,
        example=0.1,
        capability="frequency_penalty",
    ),
    "inputs": Note(text="The prompt. It must not be empty where text is generated.", example="What is Deep Learning?"),
    "instances": Note(text="Texts and chats. At least one."),
    "logit_bias": _LOGIT_BIAS,
    "presence_penalty": Note(
        text="Taken once from the logit of each token that was generated before, as the OpenAI API defines it. "
        "0 for none.",
        rules=_PENALTY,
        example=0.1,
        capability="presence_penalty",
    ),
    "repetition_penalty": Note(
        text="Divides positive and multiplies negative logits of tokens in the prompt and the text so far. 1 for none.",
        rules=_ABOVE_ZERO,
        example=1.03,
        capability="repetition_penalty",
    ),
    "seed": _SEED,
    "stream": _STREAM,
    "temperature": Note(
        text="Logits are divided by it: below 1 likely tokens get likelier. Other than 1 it implies sampling.",
        rules=_ABOVE_ZERO,
        example=0.5,
        capability="temperature",
    ),
    "top_k": Note(
        text="Sample from this many most likely tokens only.", rules={"minimum": 1}, example=10, capability="top_k"
    ),
    "top_p": Note(text=_TOP_P, rules=_OPEN_UNIT, example=0.95, capability="top_p"),
    "typical_p": Note(
        text="Sample from the tokens nearest the expected information that hold this much probability "
        "([locally typical sampling](https://arxiv.org/abs/2202.00666)).",
        rules=_OPEN_UNIT,
        example=0.95,
        capability="typical_p",
    ),
}

_GENERATE: dict[str, Note] = {
    "adapter_id": Note(
        text="Name of a LoRA adapter that is loaded (`--lora-adapters`, of target cpu); any other is refused."
    ),
    "decoder_input_details": Note(
        text="Whether `details` lists the prompt's tokens with their log-probabilities. Cannot be streamed.",
        capability="decoder_input_details",
    ),
    "details": Note(text="Whether the reply has `details`."),
    "do_sample": Note(
        text="Whether tokens are drawn by their probability; else the most likely one is taken. "
        "True when the whole `parameters` object is left out."
    ),
    "grammar": Note(text="What the output must match; it is enforced token by token.", capability="grammar"),
    "max_new_tokens": Note(
        text="Tokens to generate at most. Without it as many as fit. More than fit are accepted when at least "
        "1024 fit, and cut then.",
        rules={"minimum": 1},
        example=20,
    ),
    "return_full_text": Note(
        text="Whether the prompt stands before the text. Without it: no for `/generate` and `/generate_stream`, "
        "yes for POST `/` and `/invocations`."
    ),
    "stop": Note(
        text="The generation ends when the text ends with one of these. It stays in the text.",
        options={"maxItems": "max_stop_sequences"},
        example=["photographer"],
    ),
    "top_n_tokens": Note(
        text="List this many most likely tokens for each position, with their log-probabilities.",
        options={"maximum": "max_top_n_tokens"},
        example=2,
        capability="top_n_tokens",
    ),
    "truncate": Note(
        text="Keep only this many tokens of the prompt, the last ones.",
        rules={"minimum": 1, "maximum": U64_MAX},
        options={"maximum": "max_input_tokens"},
    ),
    "watermark": Note(text="Refused: no watermark is written.", is_refused=True),
}

_OPENAI: dict[str, Note] = {
    "max_tokens": Note(
        text="As `max_new_tokens` of `/generate`: without it as many as fit.", rules={"minimum": 1}, example=32
    ),
    "model": Note(text=f"{_MODEL} Another than `tgi` comes back in the reply.", example="tgi"),
    "n": Note(
        text="Answers to each prompt. Each takes a permit of `max_concurrent_requests`.",
        rules={"minimum": 1},
        options={"maximum": "max_concurrent_requests"},
    ),
    "stop": Note(
        text="A string, or several: the generation ends when the text ends with one. It stays in the text.",
        options={"maxItems": "max_stop_sequences"},
    ),
    "stream_options": Note(text="Only used in a stream."),
    "temperature": Note(
        text="0 takes the most likely token; else logits are divided by it and tokens are drawn.",
        rules={"minimum": 0},
        example=1.0,
        capability="temperature",
    ),
    "top_p": Note(
        text=f"{_TOP_P} 1 stands for all.",
        rules={"exclusiveMinimum": 0, "maximum": 1},
        example=0.95,
        capability="top_p",
    ),
}

_CHAT: dict[str, Note] = {
    **_OPENAI,
    "logprobs": Note(text="Whether each token comes with its log-probability.", capability="logprobs"),
    "max_completion_tokens": Note(text="Another name of `max_tokens`; not both.", rules={"minimum": 1}),
    "messages": Note(
        text="The conversation so far. One that ends with an assistant's message is continued.",
        example=[{"role": "user", "content": "What is Deep Learning?"}],
    ),
    "response_format": Note(text="What the answer must match. Not together with `tools`.", capability="grammar"),
    "tool_choice": Note(
        text="`auto` (the model may answer with text), `none`, `required`, or the name of a tool.",
        example="auto",
        capability="grammar",
    ),
    "tool_prompt": Note(text="Text put after the last message when tools are offered. Empty for the built-in one."),
    "tools": Note(text="Functions that the model may call; the answer is forced into one.", capability="grammar"),
    "top_logprobs": Note(
        text="List this many most likely tokens for each position. Shown with `logprobs`.",
        options={"maximum": "max_top_n_tokens"},
        example=2,
        capability="top_n_tokens",
    ),
}

_COMPLETION: dict[str, Note] = {
    **_OPENAI,
    "best_of": Note(
        text="Texts to generate for each prompt, of which the `n` with the highest mean log-probability are returned. "
        "At least `n`. More than `n` needs sampling and cannot be streamed.",
        rules={"minimum": 1},
        options={"maximum": "max_best_of"},
        capability="best_of",
    ),
    "echo": Note(text="Whether the prompt stands before the text. With `logprobs` it cannot be streamed."),
    "logprobs": Note(
        text="List the log-probability of each token, and this many most likely ones.",
        options={"maximum": "max_top_n_tokens"},
        capability="top_n_tokens",
    ),
    "model": Note(text=f"{_MODEL} The reply names the server's model.", example="tgi"),
    "prompt": Note(
        text="A text or a list of token ids, or several of either.",
        options={"maxItems": "max_client_batch_size"},
        example="What is Deep Learning?",
    ),
    "suffix": Note(text="Refused: a decoder cannot honour it.", is_refused=True),
}

_SCHEMA = Note(text="The JSON Schema, draft 2020-12, as an object or as its text.")
_TAG = Note(text="Which of the shapes this is.")
_FUNCTION = Note(text="Always `function` in the OpenAI API; not looked at.", example="function")
_PARTS: dict[str, dict[str, Note]] = {
    "FunctionDefinition": {
        "arguments": Note(text="The JSON Schema of the arguments; in a call the arguments themselves."),
        "description": Note(text="What it does, for the model to read."),
        "name": Note(text="Its name.", example="get_weather"),
        "parameters": Note(text="Another name of `arguments`."),
    },
    "FunctionName": {"name": Note(text="The name of one of the `tools`.", example="get_weather")},
    "ImageChunk": {"type": _TAG, "image_url": Note(text="The image; templates get its Markdown.")},
    "InferenceRequest": {
        "id": Note(text="Comes back in the reply."),
        "inputs": Note(text="Texts, each as the bytes of its UTF-8."),
        "outputs": Note(text="As many names as there are inputs."),
        "parameters": Note(text="Hold for each of the inputs; `details` and `return_full_text` change nothing."),
    },
    "Input": {
        "data": Note(text="The bytes."),
        "datatype": Note(text="Not looked at.", example="BYTES"),
        "name": Note(text="Not looked at.", example="prompt"),
        "shape": Note(text="Not looked at."),
    },
    "JsonGrammar": {"type": _TAG, "value": _SCHEMA},
    "JsonObjectGrammar": {"type": _TAG, "value": _SCHEMA},
    "JsonSchemaConfig": {
        "name": Note(text="For the reader; changes nothing."),
        "schema": Note(text=_SCHEMA.text, rules={"type": ["object", "string"]}),
    },
    "JsonSchemaGrammar": {"type": _TAG, "value": Note(text="The schema, with a name if it has one.")},
    "Message": {
        "content": Note(text="Text, or pieces of text and images. Needed unless there are `tool_calls`."),
        "name": Note(text="Accepted; templates do not see it."),
        "role": Note(text="Any that the model's template knows.", example="user"),
        "tool_call_id": Note(text="Accepted; templates do not see it."),
        "tool_calls": Note(text="Calls that the model has made. They count when `content` is empty."),
    },
    "NamedToolChoice": {"function": Note(text="Which of the `tools`."), "type": _FUNCTION},
    "OutputName": {"name": Note(text="Name of the output in the reply.", example="text")},
    "RegexGrammar": {
        "type": _TAG,
        "value": Note(text="The regular expression; the whole output matches it.", example="[0-9]{4}"),
    },
    "ResponseFormat": {
        "json_schema": Note(text="With `json_schema`, as the OpenAI API writes it.", capability="grammar"),
        "type": Note(text="`text` stands for no format, `json_object` without `value` for any object."),
        "value": Note(text="As in a grammar of `/generate`.", capability="grammar"),
    },
    "StreamOptions": {
        "include_usage": Note(text="Whether one more event, with the usage and no choices, comes before the end.")
    },
    "TextChunk": {"type": _TAG, "text": Note(text="The text.")},
    "Tool": {"type": _FUNCTION, "function": Note(text="The function.")},
    "ToolCall": {
        "function": Note(text="What was called, and with which arguments."),
        "id": Note(text="Its id; a stream counts on from the highest.", example="0"),
        "type": _FUNCTION,
    },
    "Url": {"url": Note(text="An address.")},
    "VertexText": {
        "inputs": Note(text="The prompt.", example="What is Deep Learning?"),
        "parameters": Note(text="`max_new_tokens` and `seed` are honoured, the others are not used."),
    },
}

NOTES: dict[str, dict[str, Note]] = {
    "GenerateRequest": {"parameters": Note(text="How to generate. Left out, tokens are sampled.")},
    "CompatGenerateRequest": {"parameters": Note(text="How to generate. Left out, tokens are sampled.")},
    "GenerateParameters": _GENERATE,
    "ChatRequest": _CHAT,
    "CompletionRequest": _COMPLETION,
    "VertexRequest": {},
    **_PARTS,
}
"""Notes by schema and field."""


def note_of(schema: str, name: str) -> Note | None:
    """The note on a field; None for a field of a schema that has no notes, as replies have none."""
    return NOTES[schema].get(name) or _COMMON.get(name) if schema in NOTES else None
