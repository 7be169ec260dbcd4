"""Continuous batching: slots, scheduler, the plan-run-commit step and the thread that repeats it."""

from ranvier.engine.engine import DeviceLostError, Engine, StepOutcome
from ranvier.engine.local import LocalEngineClient
from ranvier.engine.loop import EngineLoop

__all__ = ["DeviceLostError", "Engine", "EngineLoop", "LocalEngineClient", "StepOutcome"]
