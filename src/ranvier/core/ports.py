"""The port between the text half and the tensor half."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ranvier.core.capabilities import Capabilities
from ranvier.core.events import Event, StepStats
from ranvier.core.limits import Limits
from ranvier.core.request import EngineRequest

EventSink: TypeAlias = Callable[[Event], None]
"""Called on the event loop, once for each event of one request, in order."""

StatsSink: TypeAlias = Callable[[StepStats], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a warm engine says of itself. `details` are words for logs and pages: precisions, versions, threads.

    `is_emulated`: the processor stands in for the devices of its target.
    """

    target: str
    limits: Limits
    capabilities: Capabilities
    details: dict[str, str]
    is_emulated: bool = False


class Constraint(Protocol):
    """What a request's grammar allows next. One owner; the methods raise `GenerationError` when it cannot go on."""

    @property
    def is_complete(self) -> bool:
        """Whether the output is whole: no token but an end token may follow."""
        ...

    def allowed(self) -> bytes:
        """The mask of `SamplingRow.allowed`."""
        ...

    def accept(self, token_id: int) -> None:
        """The token was chosen."""
        ...


ConstraintFactory: TypeAlias = Callable[[str, frozenset[int]], Constraint]
"""A grammar's text compiled, for a model with these end tokens. Slow. Raises a `RequestError`."""


class EngineClient(Protocol):
    """One engine, seen from the router. All methods are called on the event loop."""

    @property
    def info(self) -> EngineInfo:
        """Limits and capabilities; constant while the engine lives."""
        ...

    @property
    def is_healthy(self) -> bool:
        """Whether requests can be submitted now and those that are open go on."""
        ...

    def submit(self, request: EngineRequest, sink: EventSink) -> None:
        """Queue a request; its events, the terminal one included, go to `sink`.

        Raises `UnhealthyError` when no engine is connected.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End a request early. Its terminal event still comes. Unknown and ended ids are ignored."""
        ...

    async def close(self) -> None:
        """Let go of the engine; open requests fail."""
        ...
