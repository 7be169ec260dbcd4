"""Every exception that Ranvier raises on purpose.

    RanvierError
    ├── SetupError                 start-up cannot go on; the launcher prints one line and exits
    │   ├── OptionError            a flag or environment variable is wrong, or two contradict each other
    │   ├── ModelError             the model named cannot be found, read or served
    │   ├── ArtifactError          an exported artifact is incomplete or does not fit what was asked
    │   └── CompileError           a program could not be lowered or compiled
    └── RequestError               one request ends; the server goes on
        ├── ValidationError        a parameter or the prompt is outside its limits
        ├── SuffixError            a completion was asked for with a suffix
        ├── BatchSizeError         a completion was asked for with more prompts than `max_client_batch_size`
        ├── ToolError              tools and grammar contradict each other, or the answer is no tool call
        ├── TemplateError          the model has no chat template, or it cannot write these messages
        ├── OverloadedError        no free permit under `max_concurrent_requests`
        ├── ShuttingDownError      the server drains and takes no new requests
        ├── UnhealthyError         no engine can take the request
        ├── GenerationError        the engine failed while it worked on the request
        └── IncompleteGenerationError  the engine's events ended without a final token

Messages name the field in backticks, the limit, the value given, and what to do. Only `api` knows HTTP statuses.
"""

from __future__ import annotations


class RanvierError(Exception):
    """Root of the tree; never raised itself."""


class SetupError(RanvierError):
    """Start-up cannot go on: the message is for the person at the command line."""


class OptionError(SetupError):
    """A flag or an environment variable has a bad value, or two options contradict each other."""


class ModelError(SetupError):
    """The model cannot be found, read, or served."""


class ArtifactError(SetupError):
    """An artifact directory is incomplete, damaged, or made for other limits than those asked for."""


class CompileError(SetupError):
    """A program of an artifact could not be lowered or compiled, even when it was tried again."""


class RequestError(RanvierError):
    """One request ends with this reason; the server goes on."""


class ValidationError(RequestError):
    """A parameter or the prompt is outside its limits. The text is TGI's, without its prefix."""


class SuffixError(RequestError):
    """A completion was asked for with a suffix, which decoders cannot honour."""

    def __init__(self) -> None:
        super().__init__("Suffix is not supported and can be achieved by preprocessing the prompt.")


class BatchSizeError(RequestError):
    """A completion was asked for with more prompts than `max_client_batch_size`."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"Number of prompts exceeds the maximum allowed batch size of {limit}")


class ToolError(RequestError):
    """Tools and grammar contradict each other, or what was generated is no tool call."""


class TemplateError(RequestError):
    """The model has no chat template, or it cannot write these messages; the text is the template engine's."""


class OverloadedError(RequestError):
    """All `max_concurrent_requests` permits are taken."""

    def __init__(self) -> None:
        super().__init__("Model is overloaded")


class ShuttingDownError(RequestError):
    """The server drains: requests in flight finish, new ones are refused."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down; send the request to another replica")


class UnhealthyError(RequestError):
    """No engine is connected."""

    def __init__(self) -> None:
        super().__init__("unhealthy")


class GenerationError(RequestError):
    """The engine failed while it worked on the request; the text is the engine's reason."""


class IncompleteGenerationError(RequestError):
    """The engine's events ended without a final token."""

    def __init__(self) -> None:
        super().__init__("Incomplete generation")
