"""Perplexity: which tokens are scored, in which steps, and what is made of the scores."""

from __future__ import annotations

import math

import pytest

from ranvier.bench.perplexity import WINDOW, perplexity, prose, windows
from ranvier.core import Capabilities, StepPlan, StepResult
from ranvier.export.sample import sample_text


class Ruler:
    """Programs that find token t as likely as 1 / t, and keep their plans."""

    def __init__(self) -> None:
        self.plans: list[StepPlan] = []

    capabilities = Capabilities(mixed_steps=True, chunk_multiple=32, prefix_sharing=False)
    details: dict[str, str] = {}

    def run(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        return StepResult((), tuple(tuple(-math.log(t) for t in chunk.scored_ids) for chunk in plan.chunks))

    def release(self) -> None:
        """Nothing to let go of."""


class Letters:
    """A tokenizer with a token for each character, and one in front if told so."""

    def __init__(self, *front: int) -> None:
        self._front = list(front)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return (self._front if add_special_tokens else []) + [ord(letter) for letter in text]


def test_equally_likely_tokens_have_their_number_as_perplexity() -> None:
    found = perplexity(Ruler(), [[8] * 10, [8] * 4])
    assert found.value == pytest.approx(8)
    assert found.num_tokens == 9 + 3


def test_it_is_the_geometric_mean_over_all_tokens_but_each_first() -> None:
    found = perplexity(Ruler(), [[5, 2, 4], [7, 8]])
    assert found.value == pytest.approx((2 * 4 * 8) ** (1 / 3))


@pytest.mark.parametrize("length", [2, 3, 128, 129, 130, 257, 512])
def test_each_token_is_scored_once_after_those_before_it(length: int) -> None:
    piece = [index + 2 for index in range(length)]
    ruler = Ruler()
    perplexity(ruler, [piece])
    seen: list[int] = []
    scored: list[int] = []
    for plan in ruler.plans:
        (chunk,) = plan.chunks
        assert (chunk.slot, chunk.start, chunk.wants_logits) == (0, len(seen), False)
        assert chunk.start % 32 == 0
        seen += chunk.token_ids
        scored += chunk.scored_ids
    assert seen == piece[:-1]
    assert scored == piece[1:]


def test_a_text_is_cut_into_windows_that_cover_it() -> None:
    pieces = windows(Letters(), "abcdefgh", 3)  # type: ignore[arg-type]  # the part of a tokenizer that is used
    assert pieces == [[97, 98, 99], [100, 101, 102], [103, 104]]


def test_each_window_begins_as_the_tokenizer_begins_a_text() -> None:
    pieces = windows(Letters(1), "abcde", 3)  # type: ignore[arg-type]  # the part of a tokenizer that is used
    assert pieces == [[1, 97, 98], [1, 99, 100], [1, 101]]


def test_a_last_token_that_follows_nothing_is_left_out() -> None:
    assert windows(Letters(), "abcd", 3) == [[97, 98, 99]]  # type: ignore[arg-type]  # as above


def test_the_text_ships_with_the_package_and_is_long_enough() -> None:
    assert 3400 < len(prose().split()) < 4000
    assert len(prose()) > 8 * WINDOW
    assert prose().isascii()


def test_the_text_that_int4_is_fitted_on_is_another() -> None:
    ours, sample = prose().split(), sample_text().split()
    runs = {tuple(ours[index : index + 6]) for index in range(len(ours))}

    assert 500 < len(sample) < 1500
    assert runs.isdisjoint(tuple(sample[index : index + 6]) for index in range(len(sample) - 5))
