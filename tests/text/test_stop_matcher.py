from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.text import StopMatcher

LETTERS = st.text(alphabet="ab\n", max_size=4)


def stops(stop: list[str], pieces: list[str]) -> list[bool]:
    matcher = StopMatcher(stop)
    return [matcher.push(piece) for piece in pieces]


def test_no_stop_strings_never_stop() -> None:
    assert stops([], ["a", "", "b"]) == [False, False, False]


def test_a_stop_string_over_several_tokens_stops_at_its_last_token() -> None:
    assert stops(["User:"], ["\nUs", "er", ":"]) == [False, False, True]


def test_any_of_several_stop_strings_stops() -> None:
    assert stops(["###", "END"], ["a", "EN", "D"]) == [False, False, True]


def test_a_match_in_the_middle_of_a_token_does_not_stop() -> None:
    assert stops(["stop"], ["please stop now", " really"]) == [False, False]


def test_text_that_goes_on_after_a_match_does_not_stop_again() -> None:
    assert stops(["ab"], ["ab", "c", "b"]) == [True, False, False]


@pytest.mark.parametrize(
    ("piece", "expected"), [("stop\n", True), ("stop\n\n", False), ("stop\r\n", False), ("stop ", False)]
)
def test_one_newline_after_the_stop_string_is_tolerated(piece: str, expected: bool) -> None:
    assert stops(["stop"], [piece]) == [expected]


def test_the_tolerated_newline_may_be_a_token_of_its_own() -> None:
    assert stops(["stop"], ["st", "op\n"]) == [False, True]


def test_stop_strings_are_literal_and_case_sensitive() -> None:
    assert stops(["a.c"], ["abc", "A.C", "a.c"]) == [False, False, True]


def test_an_empty_stop_string_stops_after_one_token_even_without_text() -> None:
    assert stops([""], [""]) == [True]
    assert stops([""], ["a"]) == [True]


@given(stop=st.lists(LETTERS, max_size=3), pieces=st.lists(LETTERS, max_size=12))
@settings(max_examples=500, deadline=None)
def test_the_rule_is_that_of_a_regular_expression_anchored_at_the_end(stop: list[str], pieces: list[str]) -> None:
    texts = ["".join(pieces[: count + 1]) for count in range(len(pieces))]
    expected = [any(re.search(f"{re.escape(each)}$", text) for each in stop) for text in texts]

    assert stops(stop, pieces) == expected


@given(stop=st.lists(LETTERS, max_size=3), pieces=st.lists(LETTERS, max_size=12))
def test_no_more_text_is_held_than_the_longest_stop_string_and_a_character(stop: list[str], pieces: list[str]) -> None:
    matcher = StopMatcher(stop)
    for piece in pieces:
        matcher.push(piece)
        assert len(matcher._tail) <= max(map(len, stop), default=-1) + 1
