"""What programs have been asked for in a step and still is on its way from the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jax import Array

from ranvier.core import SamplingRow, StepResult, TokenChoice, TokenLogprob
from ranvier.targets.neuron.sampling import Choices
from ranvier.targets.neuron.sampling.choose import NO_TOKEN

ReadChoices = tuple[list[list[int]], list[list[float]]]


@dataclass(frozen=True, slots=True)
class PendingChoice:
    """Row `index` of `choices`, made for `slot` and its `row`."""

    choices: Choices
    index: int
    slot: int
    row: SamplingRow


@dataclass(frozen=True, slots=True)
class PendingScores:
    """`count` scores of a prompt's piece, from `first` on."""

    scores: Array
    first: int
    count: int

    def read(self) -> list[float]:
        """Wait for them."""
        values: list[float] = np.asarray(self.scores)[self.first : self.first + self.count].tolist()
        return values


@dataclass(slots=True)
class Results:
    """Filled while programs are queued on the device, read once at the end of the step.

    `checks` says for each piece of a prompt whether all of a slot's hidden states were finite.
    """

    choices: list[PendingChoice] = field(default_factory=list)
    scores: list[list[PendingScores]] = field(default_factory=list)
    checks: list[tuple[int, Array]] = field(default_factory=list)
    num_padded: int = 0

    def read(self) -> tuple[StepResult, set[int]]:
        """Wait for everything: the step's result, and the slots in which something was not finite."""
        read: dict[int, ReadChoices] = {}
        found, spoiled = [], {slot for slot, is_finite in self.checks if not int(is_finite)}
        for each in self.choices:
            key = id(each.choices)
            if key not in read:
                read[key] = np.asarray(each.choices.ids).tolist(), np.asarray(each.choices.logprobs).tolist()
            ids, logprobs = read[key][0][each.index], read[key][1][each.index]
            if ids[0] == NO_TOKEN:
                spoiled.add(each.slot)
            found.append(_choice(ids, logprobs, each.row.params.top_n_tokens))
        scores = tuple(tuple(score for part in parts for score in part.read()) for parts in self.scores)
        return StepResult(tuple(found), scores, num_padded_tokens=self.num_padded), spoiled


def _choice(ids: list[int], logprobs: list[float], num_top: int) -> TokenChoice | None:
    if ids[0] == NO_TOKEN:
        return None
    if not num_top:
        return TokenChoice(ids[0], logprobs[0])
    top = zip(ids[1 : num_top + 1], logprobs[1 : num_top + 1], strict=True)
    return TokenChoice(ids[0], logprobs[0], tuple(TokenLogprob(*entry) for entry in top if entry[0] != NO_TOKEN))
