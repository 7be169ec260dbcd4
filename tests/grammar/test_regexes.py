r"""Regexes mean what Python's `re` says, with the whole output matched and ASCII classes.

`\d+?/$` becomes `(?:[0-9]+\x{2f})`: laziness and the anchor at the end change nothing, and `/` would end the regex.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from walks import compiler, matches, text_of_bytes, walk

from ranvier.errors import ValidationError
from ranvier.grammar import from_regex


def refusal(regex: str) -> str:
    with pytest.raises(ValidationError) as caught:
        compiler().compile(from_regex(regex))
    return str(caught.value)


def accepts(regex: str, text: str) -> bool:
    return matches(compiler().compile(from_regex(regex)), text)


@pytest.mark.parametrize(
    ("regex", "written"),
    [
        (r"\d+?/$", r"(?:[0-9]+\x{2f})"),
        ("^a|b$", "(?:a|b)"),
        (r"(^a$)|(?:b\Z)", "(?:(?:a)|(?:b))"),
        ("(?P<year>[0-9]{4})-(?i:x)", r"(?:(?:[0-9]{4})\x{2d}(?i:x))"),
        ("(?si).", "(?is:.)"),
        ("a{,3}b{2,}c{4}", "(?:a{0,3}b{2,}c{4})"),
        ("a{}{", r"(?:a\x{7b}\x{7d}\x{7b})"),
        ("[]a^-]", r"(?:[\x{5d}a\x{5e}\x{2d}])"),
        (r"[^\w&&\]]", r"(?:[^[0-9A-Za-z_]\x{26}\x{26}\x{5d}])"),
        (r"\x41\u00e9\U0001F600\0\101\t", "(?:A\u00e9\U0001f600" + r"\x{0}A\x{9})"),
        ("a(?#note)b", "(?:ab)"),
        ("\u4f60\u200b", "(?:\u4f60" + r"\x{200b})"),
        ("", "(?:)"),
    ],
)
def test_a_regex_is_written_anew_for_the_library(regex: str, written: str) -> None:
    text = from_regex(regex)
    assert text == '{"grammars":[{"lark_grammar":"start: /' + written.replace("\\", "\\\\") + '/"}]}'
    compiler().compile(text)


@pytest.mark.parametrize(
    ("regex", "yes", "no"),
    [
        (r"\d", "7", "\u0667"),
        (r"\w", "_", "\u00e9"),
        (r"\s", "\v", "\u00a0"),
        (r"\D", "\u0667", "7"),
        (r"[\d\-x]+", "3-x", "3y"),
        (".", "\u00e9", "\n"),
        ("(?s).", "\n", ""),
        ("[^a]", "\n", "a"),
        ("(?i)stra\u00dfe", "STRA\u00dfE", "strasse"),
        ("a|ab", "ab", "abb"),
        (r"\.\*\[\]\(\)\\\/\"", '.*[]()\\/"', "x"),
        ("((25[0-5]|2[0-4]\\d|[01]?\\d\\d?)\\.){3}(25[0-5]|2[0-4]\\d|[01]?\\d\\d?)", "192.168.0.255", "192.168.0.256"),
        (r"[\w-]+@([\w-]+\.)+[\w-]{2,4}", "ada@math.example.org", "ada@math"),
        (r"\p{Lu}\p{Ll}+", "\u00c9t\u00e9", "\u00e9t\u00e9"),
        ("<\\|end\\|>", "<|end|>", "<|end>"),
        (r"[\b]", "\b", "b"),
    ],
)
def test_the_whole_output_matches(regex: str, yes: str, no: str) -> None:
    assert accepts(regex, yes)
    assert not accepts(regex, no)


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("(?=a)b", "look-ahead at position 0 is not supported; write the regex without it"),
        ("a(?!b)", "look-ahead at position 1 is not supported; write the regex without it"),
        ("(?<=a)b", "look-behind at position 0 is not supported; write the regex without it"),
        ("(?<!a)b", "look-behind at position 0 is not supported; write the regex without it"),
        (r"\bword", r"the word boundary `\b` at position 0 is not supported; write the regex without it"),
        (r"(a)\1", "a backreference at position 3 is not supported; write the regex without it"),
        ("(?P<n>a)(?P=n)", "a backreference at position 8 is not supported; write the regex without it"),
        ("(a)?(?(1)b|c)", "a conditional at position 4 is not supported; write the regex without it"),
        ("(?>a)", "an atomic group at position 0 is not supported; write the regex without it"),
        ("a++", "a possessive repetition at position 2 is not supported; write the regex without it"),
        ("(?x)a", "the flag `x` at position 0 is not supported; write the regex without it"),
        ("[[:digit:]]", "a POSIX class such as `[:alpha:]` at position 1 is not supported; write the regex without it"),
        ("a^b", "`^` can only match at the start of the output; remove it"),
        ("a$b", "`$` can only match at the end of the output; remove it"),
        ("(a$)*", "`$` can only match at the end of the output; remove it"),
        ("^*", "nothing to repeat at position 1"),
        ("*", "nothing to repeat at position 0"),
        ("a|+", "nothing to repeat at position 2"),
        ("a**", "multiple repeat at position 2"),
        ("a{2}{3}", "multiple repeat at position 4"),
        ("a{3,2}", "the most is less than the least in the repetition that ends at position 6"),
        ("(a", "missing `)` for the group at position 0"),
        ("a)", "unbalanced `)` at position 1"),
        ("[a", "missing `]` for the class at position 0"),
        ("[", "missing `]`, the regex ends at position 1"),
        ("[z-a]", "bad character range that ends at position 4"),
        (r"[\d-z]", "bad character range that ends at position 5"),
        ("a(?i)b", "flags for the whole regex belong at its start; there are some at position 1"),
        ("(?<9>a)", "unknown kind of group at position 0"),
        ("\\", "lone backslash at position 0"),
        (r"\y", r"unknown escape `\y` at position 0"),
        (r"\x4", "an escape that needs 2 hexadecimal digits at position 0"),
        (r"\U00110000", "no character has the number of the escape at position 0"),
        (r"\ud800", "surrogates stand for no character; remove them"),
    ],
)
def test_a_wrong_regex_is_refused_with_its_place(regex: str, reason: str) -> None:
    assert refusal(regex) == f"grammar is not valid: regex: {reason}"


def test_a_class_of_unicode_that_does_not_exist_is_left_to_the_library_to_refuse() -> None:
    assert refusal(r"\p{Nonsense}").startswith("grammar is not valid: ")


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("x" * 32_769, "the regex has 32769 characters and the limit is 32768; make it shorter"),
        ("a{20001}", "the regex demands 20001 characters and the limit is 20000; use smaller repetitions"),
        ("((a{100}){100}b){3}", "the regex demands 30003 characters and the limit is 20000; use smaller repetitions"),
        ("a{1000000}", "a regex may repeat at most 999999 times; use `*` or `+` instead"),
        ("(" * 60 + ")" * 60, "regex groups are nested deeper than 50 levels; use fewer groups"),
    ],
)
def test_a_regex_that_is_too_large_is_refused_with_its_limit(regex: str, reason: str) -> None:
    assert refusal(regex) == f"cannot compile regex from schema: {reason}"


LETTERS = "ab/0 \n-"
CHARACTERS = st.sampled_from(
    ["a", "b", "/", "0", " ", r"\n", r"\-", ".", r"\d", r"\W", "[ab]", "[^a]", r"[\d-]", "[a-b/]"]
)
REPEATS = st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{1,}?"])
REGEXES = st.recursive(
    CHARACTERS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, REPEATS).map(lambda both: f"({both[0]}){both[1]}"),
    ),
    max_leaves=8,
).flatmap(lambda regex: st.sampled_from([regex, f"^{regex}", f"^(?:{regex})$", f"(?P<all>{regex})$"]))


@given(regex=REGEXES, text=st.text(LETTERS, max_size=4), seed=st.integers(0, 99))
@example(regex="(a|ab)(c|bcd)(d*)", text="abcd", seed=0)
@settings(max_examples=400, deadline=None)
def test_it_matches_what_python_matches(regex: str, text: str, seed: int) -> None:
    grammar = from_regex(regex)
    python = re.compile(regex, re.ASCII)
    assert matches(compiler().compile(grammar), text) == bool(python.fullmatch(text))
    ids = walk(compiler().compile(grammar), seed)
    assert ids is None or python.fullmatch(text_of_bytes(ids))
