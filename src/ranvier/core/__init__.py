"""Values and ports that both halves share. Imports nothing but the standard library and numpy types."""

from ranvier.core.capabilities import ALL_PARAMETERS, Capabilities
from ranvier.core.events import (
    Event,
    FailEvent,
    FinishEvent,
    FinishReason,
    PromptEvent,
    StartEvent,
    StepStats,
    TokenEvent,
    TokenLogprob,
    WaitingFor,
    is_terminal,
)
from ranvier.core.limits import Limits
from ranvier.core.plan import Chunk, PrefixShare, SamplingRow, StepPlan, StepResult, TokenChoice
from ranvier.core.ports import Constraint, ConstraintFactory, EngineClient, EngineInfo, EventSink
from ranvier.core.request import EngineRequest, SamplingParams

__all__ = [
    "ALL_PARAMETERS",
    "Capabilities",
    "Chunk",
    "Constraint",
    "ConstraintFactory",
    "EngineClient",
    "EngineInfo",
    "EngineRequest",
    "Event",
    "EventSink",
    "FailEvent",
    "FinishEvent",
    "FinishReason",
    "Limits",
    "PrefixShare",
    "PromptEvent",
    "SamplingParams",
    "SamplingRow",
    "StartEvent",
    "StepPlan",
    "StepResult",
    "StepStats",
    "TokenChoice",
    "TokenEvent",
    "TokenLogprob",
    "WaitingFor",
    "is_terminal",
]
