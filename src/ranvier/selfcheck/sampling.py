"""Whether the devices choose as the host's sampler does: seeds, cut-offs, penalties, masks, alone and in company."""

from __future__ import annotations

from typing import Any

import numpy as np

from ranvier.core import SamplingParams
from ranvier.selfcheck.model import VOCAB
from ranvier.selfcheck.outcome import Notes, SkippedStep
from ranvier.selfcheck.questions import Question, ask_all, distance
from ranvier.selfcheck.reference import FLOAT32_TOLERANCE, NUM_SLOTS, NUM_TOP, Answers, prompt
from ranvier.targets import Programs

NUM_TOKENS = 6
MOST_OTHER = 0.02
"""Part of the tokens that may differ: a draw within a rounding error of an edge is right on either side of it."""

_SETTINGS: dict[str, dict[str, Any]] = {
    "plain draw": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"temperature": 1.5, "top_k": 7},
    "top_p": {"temperature": 1.3, "top_p": 0.8},
    "typical_p": {"typical_p": 0.5},
    "all cut-offs": {"temperature": 1.4, "top_k": 60, "top_p": 0.95, "typical_p": 0.9},
    "repetition penalty": {"do_sample": False, "repetition_penalty": 1.4},
    "frequency and presence": {"do_sample": False, "frequency_penalty": 1.5, "presence_penalty": 1.0},
    "penalized draw": {"repetition_penalty": 1.2, "frequency_penalty": -0.5, "presence_penalty": 0.5, "top_p": 0.9},
    "greedy behind a mask": {"do_sample": False},
    "draw behind a mask": {"temperature": 2.0},
    "everything at once": {"temperature": 1.2, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1},
}
_MASKED = ("greedy behind a mask", "draw behind a mask", "everything at once")


def sampled_questions() -> list[Question]:
    """One for each setting, each with a seed of its own."""
    random = np.random.default_rng(7)
    mask = random.integers(0, 256, VOCAB // 8, np.uint8).tobytes()
    return [
        Question(
            name=name,
            prompt=prompt(100 + index, 24 + index),
            num_tokens=NUM_TOKENS,
            params=SamplingParams(**({"do_sample": True, "seed": 77 + index, "top_n_tokens": NUM_TOP} | settings)),
            allowed=mask if name in _MASKED else None,
        )
        for index, (name, settings) in enumerate(_SETTINGS.items())
    ]


def check_sampling(programs: Programs, answers: Answers, cast_type: str, notes: Notes) -> None:
    """Ask the devices, four requests of different settings at a time."""
    if answers.sampled is None:
        raise SkippedStep("OpenVINO is not installed: there is no host's sampler to compare with")
    if cast_type != "fp32":
        raise SkippedStep(f"logits in {cast_type} are not those of the reference; run it with --auto-cast-type fp32")
    found = ask_all(programs, sampled_questions(), NUM_SLOTS, answers.sampled)
    total = distance(found, answers.sampled, 0.0)
    notes.say(
        f"{len(found)} settings, {total.num_tokens - total.num_other} of {total.num_tokens} tokens are the host's, "
        f"log-probabilities within {total.largest:.1e}"
    )
    others = [name for name in found if found[name].tokens != answers.sampled[name].tokens]
    if others:
        notes.say(f"other tokens with: {', '.join(others)}")
    notes.expect(total.num_other <= MOST_OTHER * total.num_tokens, "the device does not choose as the host's sampler")
    notes.expect(total.largest <= FLOAT32_TOLERANCE, f"log-probabilities are off by more than {FLOAT32_TOLERANCE:g}")
    _check_company(programs, notes)


def _check_company(programs: Programs, notes: Notes) -> None:
    """The same seed gives the same tokens, whoever else is in the batch."""
    questions = sampled_questions()[:NUM_SLOTS]
    together = ask_all(programs, questions, NUM_SLOTS)
    alone = ask_all(programs, questions, 1)
    same = [name for name in alone if alone[name].tokens == together[name].tokens]
    notes.say(f"alone and in company, with the same seed: {len(same)} of {len(alone)} requests have the same tokens")
    notes.expect(len(same) == len(alone), "a request's tokens depend on its company")
