"""The use case between wire and engine."""

from ranvier.service.generation import Finished, StreamItem, Timings, TokenPiece
from ranvier.service.model_text import ModelText, load_model_text
from ranvier.service.parameters import GenerateParameters, ServiceLimits
from ranvier.service.service import Completion, GenerationService

__all__ = [
    "Completion",
    "Finished",
    "GenerateParameters",
    "GenerationService",
    "ModelText",
    "ServiceLimits",
    "StreamItem",
    "Timings",
    "TokenPiece",
    "load_model_text",
]
