"""Every difference between TGI's document and ours, with its reason. `docs/differences.md` shows this table."""

from __future__ import annotations

_EVENTS = "Once a stream has begun, errors are events in it."
_USAGE_LAST = f"The last event of a text has its usage. {_EVENTS}"
_STREAM_STATUS = "A stream has status 200 whatever comes; only a body that cannot be read is refused before."
_NEVER_404 = "TGI never replies 404 there either."
_AS_TGI_WRITES = "TGI computes it as we do: as many tokens as fit."
_ZERO = "TGI refuses 0, too."
_ZERO_IS_FINE = "TGI accepts 0, too."
_BELOW_ONE = "1 itself is refused, as by TGI: we say `exclusiveMaximum`."
_OPENAI = "The OpenAI API has it, and its clients send it."
_LEFT_OUT = "TGI never writes null here either: the key is left out."

ESCAPED = r"\|"
"""A bar inside a cell of a Markdown table."""

DIFFERENCES: dict[str, str] = {
    "POST / 200 text/event-stream: StreamResponse -> ErrorResponse | StreamResponse": _EVENTS,
    "POST /chat_tokenize 404: missing": _NEVER_404,
    "POST /generate_stream 200 text/event-stream: StreamResponse -> ErrorResponse | StreamResponse": _EVENTS,
    "POST /generate_stream 422 text/event-stream: missing": _STREAM_STATUS,
    "POST /generate_stream 424: missing": _STREAM_STATUS,
    "POST /generate_stream 429: missing": _STREAM_STATUS,
    "POST /generate_stream 500: missing": _STREAM_STATUS,
    "POST /tokenize 404: missing": _NEVER_404,
    "POST /v1/chat/completions 200 text/event-stream: ChatCompletionChunk -> "
    "ChatCompletionChunk | {error: {http_status_code: integer, message: string}}": _EVENTS,
    "POST /v1/completions 200 text/event-stream: Chunk -> "
    "Completion | {error: {http_status_code: integer, message: string}}": _USAGE_LAST,
    "GET /v1/models 200 application/json: ModelInfo -> {data: [ModelInfo], object: string}": (
        "TGI, too, replies with a list."
    ),
    "GET /v1/models 404: missing": _NEVER_404,
    "ChatRequest.logit_bias: [number] | null -> [number] | null | object": (
        "The OpenAI API's object is read, too. Either is refused unless it changes nothing."
    ),
    "ChatRequest.max_tokens: minimum 0 -> 1": _ZERO,
    "ChatRequest.max_tokens: default 1024 -> null": _AS_TGI_WRITES,
    "ChatRequest.n: minimum 0 -> 1": "No answer at all cannot be asked for; TGI does not look at `n`.",
    "ChatRequest.response_format: GrammarType | null -> GrammarType | null | "
    "{json_schema: JsonSchemaConfig, type: 'json_schema'} | {type: 'json_object' | 'text'}": _OPENAI,
    "ChatRequest.stop: [string] | null -> [string] | null | string": _OPENAI,
    "ChatRequest.stream: boolean -> boolean | null": _OPENAI,
    "ChatRequest.tool_choice: default auto -> null": "null stands for `auto`, in TGI as well.",
    "Completion: Chunk & {object: 'text_completion'} | CompletionFinal & {object: 'text_completion'} -> "
    "Chunk | CompletionFinal": "The field `object` stands in both schemas.",
    "CompletionComplete.logprobs: [number] | null -> null | {text_offset: [integer], token_logprobs: [null | number], "
    "tokens: [string], top_logprobs: [null | object] | null}": (
        "TGI always writes null; we give the log-probabilities in the OpenAI API's shape."
    ),
    "CompletionRequest.max_tokens: minimum 0 -> 1": _ZERO,
    "CompletionRequest.max_tokens: default 1024 -> null": _AS_TGI_WRITES,
    "CompletionRequest.stop: [string] | null -> [string] | null | string": _OPENAI,
    "CompletionRequest.stream: boolean -> boolean | null": _OPENAI,
    "DeltaToolCall.type: string -> 'function'": "There is no other kind.",
    "Details.best_of_sequences: [BestOfSequence] | null -> [BestOfSequence]": _LEFT_OUT,
    "FunctionDefinition.arguments: required -> optional": (
        "`parameters` is another name of it; a tool without either takes no arguments."
    ),
    "GenerateParameters.best_of: exclusiveMinimum 0 -> none": _ZERO_IS_FINE,
    "GenerateParameters.details: default true -> false": "TGI gives no details unless asked, too.",
    "GenerateParameters.frequency_penalty: exclusiveMinimum -2 -> none": "-2 is accepted, as by TGI.",
    "GenerateParameters.max_new_tokens: minimum 0 -> 1": _ZERO,
    "GenerateParameters.max_new_tokens: default 1024 -> null": _AS_TGI_WRITES,
    "GenerateParameters.seed: exclusiveMinimum 0 -> none": _ZERO_IS_FINE,
    "GenerateParameters.top_k: exclusiveMinimum 0 -> none": "The same: we say `minimum` 1.",
    "GenerateParameters.top_n_tokens: exclusiveMinimum 0 -> none": _ZERO_IS_FINE,
    "GenerateParameters.top_p: maximum 1 -> none": _BELOW_ONE,
    "GenerateParameters.truncate: minimum 0 -> 1": _ZERO,
    "GenerateParameters.typical_p: maximum 1 -> none": _BELOW_ONE,
    "GenerateResponse.details: Details | null -> Details": _LEFT_OUT,
    "GrammarType: {type: 'json', value: any} | {type: 'json_schema', value: JsonSchemaConfig} | "
    "{type: 'regex', value: string} -> {type: 'json', value: object | string} | "
    "{type: 'json_object', value: object | string} | {type: 'json_schema', value: JsonSchemaConfig} | "
    "{type: 'regex', value: string}": (
        "`json_object` is another name of `json` in TGI, too, and it refuses other values as well."
    ),
    "JsonSchemaConfig.schema: any -> object | string": "TGI refuses other values, too.",
    "Prompt: [string] -> [[integer]] | [integer] | [string] | string": (
        "TGI, too, takes a single text. Token ids are of the OpenAI API."
    ),
    "SagemakerResponse: ChatCompletion | CompletionFinal | GenerateResponse -> "
    "ChatCompletion | CompletionFinal | [GenerateResponse]": "As POST `/`, the reply is a list of one, in TGI as well.",
    "SagemakerStreamResponse: ChatCompletionChunk | Chunk | StreamResponse -> ChatCompletionChunk | Chunk | "
    "CompletionFinal | ErrorResponse | StreamResponse | "
    "{error: {http_status_code: integer, message: string}}": _USAGE_LAST,
    "TextMessage.tool_call_id: null | string -> string": _LEFT_OUT,
    "Token.logprob: null | number -> number": "A generated token always has one.",
    "ToolCallMessage.tool_calls: [ToolCall] -> "
    "[{function: {arguments: string, description: null, name: string}, id: string, type: 'function'}]": (
        "The arguments of a call that the model made are always JSON in a string."
    ),
    "ToolChoice: 'auto' | 'none' | 'required' | {function: FunctionName} -> "
    "string | {function: FunctionName, type: string}": (
        "Any other string is the name of a tool, in TGI as well; the OpenAI API sends a type."
    ),
}


def as_markdown() -> str:
    """The table as `docs/differences.md` shows it."""
    rows = ["| where | TGI's document -> ours | why |", "| --- | --- | --- |"]
    for difference, reason in DIFFERENCES.items():
        place, _, change = difference.partition(": ")
        rows.append(f"| `{place}` | `{change.replace('|', ESCAPED)}` | {reason} |")
    return "\n".join(rows) + "\n"
