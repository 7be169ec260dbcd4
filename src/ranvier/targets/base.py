"""The protocol of a target: load once, run step plans, release."""

from __future__ import annotations

from typing import Protocol

from ranvier.core import Capabilities, StepPlan, StepResult


class Programs(Protocol):
    """A loaded model. One thread owns it; no method may be called from two at once.

    KV memory for `num_slots x sequence_length` is claimed when the object is made.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this target honours; constant."""
        ...

    @property
    def details(self) -> dict[str, str]:
        """Words for the log: precisions, versions, threads."""
        ...

    def run(self, plan: StepPlan) -> StepResult:
        """Put the chunks through the model and choose a token for each sampling row.

        Mutates the KV cache of the slots named. Raises any exception when the step failed as a whole; the engine
        then fails the requests of that step and goes on.
        """
        ...

    def release(self) -> None:
        """Let go of the device."""
        ...
