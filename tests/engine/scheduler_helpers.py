"""A scheduler with a stand-in for the run: every chunk is computed, every wanted token is a 7."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlySequence

from engine_helpers import make_limits

from ranvier.core import Capabilities, PrefixShare, StepPlan
from ranvier.engine.scheduler import Scheduler
from ranvier.engine.sequence import Sequence
from scripted_requests import make_request

Layout = list[tuple[str, int, int]]
"""(request, start, number of tokens) of each chunk, in the plan's order."""


class Drive:
    """Requests go by name; `step` plans and computes, and says what was planned."""

    def __init__(
        self,
        *,
        batch_size: int = 3,
        budget: int = 8,
        multiple: int = 4,
        mixed: bool = True,
        sharing: bool = False,
        max_input_tokens: int = 40,
    ) -> None:
        limits = make_limits(
            batch_size=batch_size, sequence_length=100, max_input_tokens=max_input_tokens, budget=budget
        )
        self.scheduler = Scheduler(
            limits, Capabilities(mixed_steps=mixed, chunk_multiple=multiple, prefix_sharing=sharing)
        )
        self.open: dict[str, Sequence] = {}
        self.placed: list[str] = []
        self.plan = StepPlan((), (), ())

    def add(self, name: str, prompt: int | ReadOnlySequence[int]) -> None:
        """Queue a prompt; a number stands for that many tokens that no other prompt has."""
        prompt_ids = [sum(name.encode()) * 1000 + n for n in range(prompt)] if isinstance(prompt, int) else prompt
        self.open[name] = Sequence(make_request(name, prompt_ids, max_new_tokens=50))
        self.scheduler.enqueue(self.open[name])
        self.scheduler.check()

    def remove(self, name: str) -> None:
        """As at the end of a request, or when it is cancelled."""
        self.scheduler.remove(self.open.pop(name))
        self.scheduler.check()

    def step(self) -> Layout:
        self.plan, placed = self.scheduler.plan()
        self.placed = [sequence.request.request_id for sequence, _ in placed]
        by_slot = {sequence.slot: sequence for sequence in self.open.values() if sequence.slot >= 0}
        layout = []
        for chunk in self.plan.chunks:
            sequence = by_slot[chunk.slot]
            layout.append((sequence.request.request_id, chunk.start, len(chunk.token_ids)))
            self.scheduler.advance(sequence, len(chunk.token_ids))
            if chunk.wants_logits:
                sequence.token_ids.append(7)
        self.scheduler.check()
        return layout

    @property
    def shares(self) -> list[tuple[str, str, int]]:
        """(source, target, number of tokens) of the last plan."""
        names = {sequence.slot: name for name, sequence in self.open.items()}
        return [self._named(names, share) for share in self.plan.shares]

    @staticmethod
    def _named(names: dict[int, str], share: PrefixShare) -> tuple[str, str, int]:
        return names[share.source], names[share.target], share.num_tokens
