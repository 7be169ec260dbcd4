"""Questions to a loaded model that any target can be asked, and how far two answers are apart.

A question is asked through step plans, as the engine does it. Whoever is compared is led along the reference's tokens:
each of its choices then stands alone, and one that differs does not make all that follow differ too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ranvier.core import Chunk, SamplingParams, SamplingRow, StepPlan, TokenChoice
from ranvier.targets import Programs

NONE = -1
"""Stands for a token where none could be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt and how to go on from it.

    * `prompt`: token ids. `cuts`: where it is cut into chunks, ascending; empty puts it through at once.
    * `num_tokens`: tokens to choose, 1 or more. `allowed`: a mask as in `SamplingRow`.
    * `is_scored`: ask how likely each prompt token was.
    """

    name: str
    prompt: tuple[int, ...]
    num_tokens: int
    cuts: tuple[int, ...] = ()
    params: SamplingParams = SamplingParams()
    allowed: bytes | None = None
    is_scored: bool = False


@dataclass(slots=True, kw_only=True)
class Answer:
    """Tokens, log-probabilities of each, log-probabilities of the most likely at each place, and prompt scores."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def note(self, choice: TokenChoice | None) -> None:
        """Append a choice."""
        self.tokens.append(NONE if choice is None else choice.token_id)
        self.logprobs.append(0.0 if choice is None else choice.logprob)
        self.top.append([] if choice is None else [each.logprob for each in choice.top])


@dataclass(slots=True, kw_only=True)
class Course:
    """A question on its way in a slot. `led_by`: tokens to go on with, whatever was chosen."""

    slot: int
    question: Question
    led_by: Sequence[int] | None = None
    history: list[int] = field(default_factory=list)
    answer: Answer = field(default_factory=Answer)

    @property
    def is_finished(self) -> bool:
        """Whether all tokens are chosen."""
        return len(self.answer.tokens) == self.question.num_tokens

    def begin(self, programs: Programs) -> None:
        """Put the prompt through and choose the first token."""
        prompt = list(self.question.prompt)
        self.history = list(prompt)
        borders = [0, *self.question.cuts, len(prompt)]
        for start, end in zip(borders[:-1], borders[1:], strict=True):
            scored = prompt[start + 1 : end + 1] if self.question.is_scored else ()
            chunk = Chunk(self.slot, prompt[start:end], start, end == len(prompt), scored)
            result = programs.run(StepPlan((chunk,), (), (self.row(),) if chunk.wants_logits else ()))
            self.answer.scores += [score for scores in result.scores for score in scores]
        self.take(result.choices[0])

    def row(self) -> SamplingRow:
        """How to choose the next token."""
        question = self.question
        return SamplingRow(question.params, len(self.answer.tokens), self.history, question.allowed)

    def decode(self) -> Chunk:
        """The last token, which has not been put through."""
        return Chunk(self.slot, self.history[-1:], len(self.history) - 1, True)

    def take(self, choice: TokenChoice | None) -> None:
        """Note a choice and go on with it, or with the token of the one that leads."""
        number = len(self.answer.tokens)
        self.answer.note(choice)
        token = self.answer.tokens[-1] if self.led_by is None else self.led_by[number]
        self.history.append(max(token, 0))


def ask(programs: Programs, courses: Sequence[Course]) -> list[Answer]:
    """Put the prompts through one after the other, then decode all of them together; at most one for each slot."""
    for course in courses:
        course.begin(programs)
    step(programs, courses, max((course.question.num_tokens for course in courses), default=0))
    return [course.answer for course in courses]


def step(programs: Programs, courses: Sequence[Course], num_steps: int) -> None:
    """Decode together, at most so many tokens of each course."""
    for _ in range(num_steps):
        going = [course for course in courses if not course.is_finished]
        if not going:
            return
        plan = StepPlan(tuple(course.decode() for course in going), (), tuple(course.row() for course in going))
        for course, choice in zip(going, programs.run(plan).choices, strict=True):
            course.take(choice)


def ask_all(
    programs: Programs, questions: Sequence[Question], num_slots: int, leading: Mapping[str, Answer] | None = None
) -> dict[str, Answer]:
    """Answers by name; `num_slots` questions at a time, each in a slot of its own."""
    answers: dict[str, Answer] = {}
    for first in range(0, len(questions), num_slots):
        group = questions[first : first + num_slots]
        courses = [
            Course(slot=slot, question=each, led_by=leading[each.name].tokens if leading else None)
            for slot, each in enumerate(group)
        ]
        answers |= zip((each.name for each in group), ask(programs, courses), strict=True)
    return answers


@dataclass(slots=True, kw_only=True)
class Distance:
    """How far answers are from the reference's.

    `num_close`: other tokens than the reference's where its two most likely are within the tolerance of each other.
    `largest`: of all log-probabilities.
    """

    num_tokens: int = 0
    num_other: int = 0
    num_close: int = 0
    largest: float = 0.0

    def add(self, found: Answer, reference: Answer, tolerance: float) -> None:
        """Take in one answer that the reference's tokens led."""
        for index, token in enumerate(reference.tokens):
            self.num_tokens += 1
            if found.tokens[index] != token:
                is_close = found.tokens[index] != NONE and _gap(reference.top[index]) <= 2 * tolerance
                self.num_close += is_close
                self.num_other += not is_close
            else:
                self._widen([found.logprobs[index]], [reference.logprobs[index]])
            self._widen(found.top[index], reference.top[index])
        self._widen(found.scores, reference.scores)

    def _widen(self, found: Sequence[float], reference: Sequence[float]) -> None:
        if len(found) != len(reference):
            self.largest = float("inf")
            return
        for one, other in zip(found, reference, strict=True):
            # A NaN is not larger than anything: it must not pass for close.
            difference = abs(one - other) if one == one and other == other else float("inf")
            self.largest = max(self.largest, difference)


def _gap(top: Sequence[float]) -> float:
    return top[0] - top[1] if len(top) > 1 else float("inf")


def distance(found: Mapping[str, Answer], reference: Mapping[str, Answer], tolerance: float) -> Distance:
    """Of all answers together."""
    total = Distance()
    for name, answer in reference.items():
        total.add(found[name], answer, tolerance)
    return total
