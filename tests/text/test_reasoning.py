"""How the text of a generation is divided into reasoning and content."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.text import ReasoningMarkers, ReasoningSplitter, is_open_at_end

THINK = ReasoningMarkers(start="<think>", end="</think>")
SHORT = ReasoningMarkers(start="aab", end="abab")
"""Markers that overlap with themselves and each other."""


def split(*pieces: str, is_open: bool = False, markers: ReasoningMarkers = THINK) -> tuple[str, str]:
    splitter = ReasoningSplitter(markers, is_open=is_open)
    results = [splitter.push(piece) for piece in pieces] + [splitter.flush()]
    return "".join(reasoning for reasoning, _ in results), "".join(content for _, content in results)


def pushed(*pieces: str, is_open: bool = False) -> list[tuple[str, str]]:
    splitter = ReasoningSplitter(THINK, is_open=is_open)
    return [splitter.push(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>Hm.</think>Yes.", ("Hm.", "Yes.")),
        ("\n <think>\nHm.\n\nSo.\n</think>\n\nYes.\n", ("Hm.\n\nSo.", "Yes.\n")),
        ("<think>\n\n</think>\n\nYes.", ("", "Yes.")),
        ("<think>Hm. \n", ("Hm.", "")),
        ("<think>Hm.</thi", ("Hm.</thi", "")),
        ("<think>Hm. </think>", ("Hm.", "")),
        ("<think>a < b <think> c</think>d", ("a < b <think> c", "d")),
        ("<think>a</think>b<think>c</think> d", ("a", "b<think>c</think> d")),
    ],
)
def test_reasoning_stands_between_its_markers_and_white_space_around_it_is_dropped(
    text: str, expected: tuple[str, str]
) -> None:
    assert split(text) == expected


@pytest.mark.parametrize(
    "text", ["", " \n", " Yes. \n", "Yes <think>Hm.</think>", "a</think>b", "<thin", " <", "<thank>"]
)
def test_a_text_that_does_not_begin_with_the_marker_is_content_as_it_is(text: str) -> None:
    assert split(text) == ("", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hm.\n</think>\n\nYes.", ("Hm.", "Yes.")),
        ("\nHm. ", ("Hm.", "")),
        ("</think>Yes.", ("", "Yes.")),
        ("\n<think>\nHm.</think>Yes.", ("Hm.", "Yes.")),
        ("<thi", ("<thi", "")),
        (" ", ("", "")),
        ("a <think></think>b", ("a <think>", "b")),
    ],
)
def test_after_a_prompt_that_opened_the_reasoning_it_begins_at_once(text: str, expected: tuple[str, str]) -> None:
    assert split(text, is_open=True) == expected


def test_text_is_passed_on_as_soon_as_it_is_decided() -> None:
    assert pushed("<th", "ink>", "\n", "Let", " me </t", "h", "is </think>", "\n", "Yes", " ") == [
        ("", ""),
        ("", ""),
        ("", ""),
        ("Let", ""),
        (" me", ""),
        ("", ""),
        (" </this", ""),
        ("", ""),
        ("", "Yes"),
        ("", " "),
    ]
    assert pushed(" ", "Yes", "<think>") == [("", ""), ("", " Yes"), ("", "<think>")]
    assert pushed("a", " ", "b</think>c d", is_open=True) == [("a", ""), ("", ""), (" b", "c d")]


def whole(text: str, markers: ReasoningMarkers, is_open: bool) -> tuple[str, str]:
    """The rule, for a text that is all there."""
    start, end = re.escape(markers.start), re.escape(markers.end)
    begin = f"(?:{start})?" if is_open else start
    # A beginning that could be a marker, had it gone on, is no marker.
    match = re.fullmatch(rf"\s*{begin}\s*(.*?)\s*(?:{end}\s*(.*))?", text, re.DOTALL)
    return ("", text) if match is None else (match[1], match[2] or "")


PIECES = st.lists(
    st.sampled_from(
        [" ", "\n", "a", "b", "c", "aab", "abab", "aa", "aba", "<think>", "</think>", "<", "</t", "hink>", "x"]
    ),
    max_size=14,
)


@pytest.mark.parametrize("markers", [THINK, SHORT])
@given(pieces=PIECES, is_open=st.booleans())
@settings(max_examples=500)
def test_however_the_text_is_cut_the_parts_are_the_same(
    markers: ReasoningMarkers, pieces: list[str], is_open: bool
) -> None:
    text = "".join(pieces)
    expected = whole(text, markers, is_open)
    assert split(*pieces, is_open=is_open, markers=markers) == expected
    assert split(*text, is_open=is_open, markers=markers) == expected
    assert split(text, is_open=is_open, markers=markers) == expected


@given(pieces=PIECES, is_open=st.booleans())
def test_of_what_is_not_white_space_only_the_markers_are_lost(pieces: list[str], is_open: bool) -> None:
    text = "".join(pieces)
    reasoning, content = split(*pieces, is_open=is_open)
    lost = len("".join(text.split())) - len("".join((reasoning + content).split()))
    assert lost in (0, len(THINK.start), len(THINK.end), len(THINK.start + THINK.end))


# Whether the prompt left the reasoning open


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|Assistant|><think>", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("What does <think> mean?<|im_end|>\n<|im_start|>assistant\n", False),
        ("", False),
    ],
)
def test_a_prompt_that_ends_with_the_start_marker_is_open(prompt: str, is_open: bool) -> None:
    assert is_open_at_end(prompt, THINK) is is_open


@pytest.mark.parametrize(
    ("before", "continued", "is_open"),
    [
        ("assistant\n", "<think>\nLet me", True),
        ("assistant\n", "<think>\nLet me ", True),
        ("assistant\n", "<think>Hm.</think>Yes", False),
        ("assistant\n<think>\n", "Let me", True),
        ("assistant\n<think>\n", "Hm.</think>Yes", False),
        ("assistant\n<think>\n\n</think>\n\n", "Yes", False),
        ("What is <think>?\nassistant\n", "Yes", False),
        ("assistant\n<think>\n", "", True),
    ],
)
def test_where_a_reply_is_continued_its_own_markers_count(before: str, continued: str, is_open: bool) -> None:
    assert is_open_at_end((before + continued).rstrip(), THINK, continued=continued) is is_open
