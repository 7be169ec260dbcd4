"""The use case between wire and engine."""

from ranvier.service.chat import ChatAnswer, ChatDelta, ChatInput, ChatMessage, ChatService, PreparedChat, all_of
from ranvier.service.generation import Finished, PromptPiece, StreamItem, Timings, TokenPiece
from ranvier.service.grammars import GrammarChecker
from ranvier.service.merging import merged
from ranvier.service.model_text import ModelText, load_model_text
from ranvier.service.parameters import GenerateParameters, Grammar, ServiceLimits
from ranvier.service.prompt import Origin, Prompt
from ranvier.service.recording import Recorder
from ranvier.service.service import Completion, GenerationService
from ranvier.service.tools import Tool, ToolCall, ToolChoice, ToolPart, compact_json

__all__ = [
    "ChatAnswer",
    "ChatDelta",
    "ChatInput",
    "ChatMessage",
    "ChatService",
    "Completion",
    "Finished",
    "GenerateParameters",
    "GenerationService",
    "Grammar",
    "GrammarChecker",
    "ModelText",
    "Origin",
    "PreparedChat",
    "Prompt",
    "PromptPiece",
    "Recorder",
    "ServiceLimits",
    "StreamItem",
    "Timings",
    "TokenPiece",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolPart",
    "all_of",
    "compact_json",
    "load_model_text",
    "merged",
]
