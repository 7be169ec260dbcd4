"""Whether slots are strangers to each other on the devices, and whether their memory stays where it is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ranvier.core import PrefixShare, StepPlan
from ranvier.selfcheck.outcome import Notes
from ranvier.selfcheck.questions import Course, Question, ask, step
from ranvier.selfcheck.reference import LENGTH, NUM_SLOTS, prompt

if TYPE_CHECKING:
    from ranvier.targets.neuron import NeuronPrograms

NUM_TOKENS = 5
_AHEAD = 3
"""Decodes that a subset runs while the other slots stand still; those that are left follow together."""

Rows = list[npt.NDArray[Any]]


def slot_questions() -> list[Question]:
    """One for each slot, of different lengths."""
    return [
        Question(name=f"slot {slot}", prompt=prompt(200 + slot, 12 + 9 * slot), num_tokens=NUM_TOKENS)
        for slot in range(NUM_SLOTS)
    ]


def subsets() -> list[tuple[int, ...]]:
    """Every subset of the slots but the empty one."""
    return [each for count in range(1, NUM_SLOTS + 1) for each in itertools.combinations(range(NUM_SLOTS), count)]


def check_slots(programs: NeuronPrograms, notes: Notes) -> None:
    """Subsets against each slot alone, rows bit by bit, then the memory itself."""
    questions = slot_questions()
    alone = [ask(programs, [Course(slot=slot, question=each)])[0].tokens for slot, each in enumerate(questions)]
    wrong, touched = [], []
    for subset in subsets():
        tokens, rows = _run_ahead(programs, questions, subset)
        wrong += [subset] if tokens != alone else []
        touched += [subset] if rows else []
    num_all = len(subsets())
    notes.say(f"{num_all - len(wrong)} of {num_all} subsets of {NUM_SLOTS} slots decode as each slot alone")
    notes.expect(not wrong, f"other tokens than alone when these slots run ahead: {_sets(wrong)}")
    notes.say(f"{num_all - len(touched)} of {num_all} leave the rows of slots that stand still as they are, bit by bit")
    notes.expect(not touched, f"rows of slots that stand still were changed by decodes of {_sets(touched)}")
    _check_prompt(programs, questions, notes)
    _check_share(programs, notes)
    _check_memory(programs, questions[0], notes)


def _sets(found: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("{" + ", ".join(map(str, subset)) + "}" for subset in found[:5])


def _run_ahead(
    programs: NeuronPrograms, questions: list[Question], subset: tuple[int, ...]
) -> tuple[list[list[int]], set[tuple[int, int]]]:
    """Tokens of all slots, and `(slot, position)` of rows that changed although their slot stood still.

    The last position is where a slot writes that stands still: no token is ever read from there.
    """
    from ranvier.targets.neuron.inspection import kv_rows

    courses = [Course(slot=slot, question=each) for slot, each in enumerate(questions)]
    for course in courses:
        course.begin(programs)
    before = kv_rows(programs)
    step(programs, [courses[slot] for slot in subset], _AHEAD)
    rows = {(slot, row) for slot, row in changed(before, kv_rows(programs)) if slot not in subset and row < LENGTH - 1}
    step(programs, [course for course in courses if course.slot not in subset], NUM_TOKENS)
    step(programs, courses, NUM_TOKENS)
    return [course.answer.tokens for course in courses], rows


def changed(before: Rows, after: Rows) -> set[tuple[int, int]]:
    """`(slot, position)` of rows that differ in any layer, keys and values `[S, K, C, E]`, by their bits."""
    differs = [np.any(_bits(old) != _bits(new), axis=(1, 3)) for old, new in zip(before, after, strict=True)]
    return {(int(slot), int(position)) for slot, position in np.argwhere(np.any(differs, axis=0))}


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Two NaNs are different numbers and may be the same bits."""
    return values.view({2: np.uint16, 4: np.uint32}[values.dtype.itemsize])


def _check_prompt(programs: NeuronPrograms, questions: list[Question], notes: Notes) -> None:
    """A prompt in one slot, of 21 tokens, over a longer one."""
    from ranvier.targets.neuron.inspection import kv_rows

    ask(programs, [Course(slot=1, question=questions[3])])
    before = kv_rows(programs)
    Course(slot=1, question=questions[1]).begin(programs)
    rows, expected = changed(before, kv_rows(programs)), {(1, row) for row in range(len(questions[1].prompt))}
    notes.say(f"a prompt of {len(expected)} tokens wrote {len(rows)} rows")
    notes.expect(rows == expected, "a prompt wrote other rows than those of its tokens")


def _check_share(programs: NeuronPrograms, notes: Notes) -> None:
    from ranvier.targets.neuron.inspection import kv_rows

    before = kv_rows(programs)
    programs.run(StepPlan((), (PrefixShare(1, 2, 32),), ()))
    after = kv_rows(programs)
    is_copied = all(
        np.array_equal(_bits(new[2, :, :32]), _bits(old[1, :, :32])) for old, new in zip(before, after, strict=True)
    )
    rows = {(slot, row) for slot, row in changed(before, after) if slot != 2 or row >= 32}
    notes.say(
        f"sharing a prefix of 32 tokens: {'copied' if is_copied else 'not copied'}, {len(rows)} other rows changed"
    )
    notes.expect(is_copied and not rows, "a shared prefix is not a copy of those rows alone")


def _check_memory(programs: NeuronPrograms, question: Question, notes: Notes) -> None:
    """What goes into a step has to be given away, and what comes out has to lie where that lay."""
    from ranvier.targets.neuron.inspection import addresses, kv_leaves

    # Copies of arrays were made just now, and may hold on to their memory.
    ask(programs, [Course(slot=0, question=question)])
    old = kv_leaves(programs)
    before = addresses(old)
    ask(programs, [Course(slot=0, question=question)])
    programs.check()
    kept = sum(not leaf.is_deleted() for leaf in old)
    notes.expect(
        kept == 0, f"{kept} of {len(old)} arrays of the KV cache were not given away: a step needs twice the memory"
    )
    after = addresses(kv_leaves(programs))
    if before is None or after is None:
        notes.say("memory: given away with each step; this platform does not tell where arrays lie")
        return
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    notes.say(f"memory: {len(before) - moved} of {len(before)} parts of the KV cache are where they were")
    notes.expect(
        moved == 0, f"{moved} of {len(before)} parts of the KV cache moved: they are copied, not updated in place"
    )
