"""`decoder_input_details`: how likely each prompt token was, by the scripted target's arithmetic.

After a prompt that ends with ids of the sum S the target gives the id (3 * S + 1) mod 264 the log-probability -0.084549
and every other one 8 less. So after `!`, id 33, comes 100, `d`; and after `a`, id 97, comes 292 -> 28.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ranvier.core import Limits
from ranvier.service import Completion, GenerateParameters
from serving import END, ONE_TWO, VOCAB_SIZE, PlayingEngine, make_service, scripted_service

LIKELY, OTHER = -0.084549, -8.084549


def generate(*prompts: str, **values: Any) -> list[Completion]:
    """Answers to prompts, one after the other; with four slots and shared prefixes."""
    parameters = GenerateParameters(decoder_input_details=True, max_new_tokens=1, **values)

    async def main() -> list[Completion]:
        async with scripted_service() as service:
            return [await service.generate(prompt, parameters) for prompt in prompts]

    return asyncio.run(main())


def scores(completion: Completion) -> list[float | None]:
    return [None if piece.logprob is None else round(piece.logprob, 6) for piece in completion.best.prompt]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("!", [None]),
        ("!d", [None, LIKELY]),
        ("!e", [None, OTHER]),
        ("a\x1c", [None, LIKELY]),
        ("!d!", [None, LIKELY, OTHER]),
    ],
)
def test_each_token_but_the_first_has_the_score_worked_out_by_hand(prompt: str, expected: list[float | None]) -> None:
    (completion,) = generate(prompt)
    assert scores(completion) == expected
    assert [piece.token_id for piece in completion.best.prompt] == list(prompt.encode())


def test_a_truncated_prompt_has_the_scores_of_what_is_kept() -> None:
    (completion,) = generate("abc!d!", truncate=3)
    assert scores(completion) == [None, LIKELY, OTHER]
    assert [piece.text for piece in completion.best.prompt] == ["!", "d", "!"]


def expected_scores(ids: list[int]) -> list[float | None]:
    predicted = [(3 * sum(ids[: index + 1]) + 1) % VOCAB_SIZE for index in range(len(ids) - 1)]
    return [None, *(LIKELY if token_id == best else OTHER for token_id, best in zip(ids[1:], predicted, strict=True))]


def test_a_prompt_whose_beginning_was_computed_before_has_all_its_scores() -> None:
    """The KV cache holds no scores, so they are computed again."""
    prompts = ["!d" + "x" * 18, "!d" + "x" * 18, "!d" + "x" * 10 + "y"]
    for prompt, completion in zip(prompts, generate(*prompts), strict=True):
        assert scores(completion) == expected_scores(list(prompt.encode()))


def test_a_prompt_that_is_computed_in_several_steps_has_all_its_scores() -> None:
    narrow = Limits(batch_size=2, sequence_length=64, max_input_tokens=32, max_batch_prefill_tokens=8)
    parameters = GenerateParameters(decoder_input_details=True, max_new_tokens=1)

    async def main() -> None:
        async with scripted_service(limits=narrow) as service:
            prompts = ["!d" + "x" * 28, "a\x1c" + "y" * 25]
            found = await asyncio.gather(*(service.generate(prompt, parameters) for prompt in prompts))
            for prompt, completion in zip(prompts, found, strict=True):
                assert scores(completion) == expected_scores(list(prompt.encode()))

    asyncio.run(main())


def test_every_sequence_of_best_of_tells_the_prompts_scores() -> None:
    (completion,) = generate("!d", best_of=2, do_sample=True)
    assert [each.prompt for each in completion.others] == [completion.best.prompt]


def test_tokens_of_the_prompt_are_told_with_their_own_text() -> None:
    (completion,) = generate("one. twoé<|mark|>")
    assert [(piece.token_id, piece.text) for piece in completion.best.prompt] == [
        (ONE_TWO, "one. two"),
        (0xC3, "\ufffd"),
        (0xA9, "\ufffd"),
        (257, "<|mark|>"),
    ]


def test_without_the_parameter_nobody_asks_for_scores() -> None:
    async def main() -> None:
        engine = PlayingEngine([65, END])
        completion = await make_service(engine).generate("ab", GenerateParameters(details=True))
        assert (engine.requests[0].wants_prompt_logprobs, completion.best.prompt) == (False, ())

    asyncio.run(main())
