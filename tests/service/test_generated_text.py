"""Engine events become text: characters over token borders, stop strings, ends, seeds. The engine is played."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.core import FailEvent, FinishEvent, Limits, TokenChoice, TokenLogprob
from ranvier.errors import GenerationError, IncompleteGenerationError, RequestError
from ranvier.service import Finished, GenerateParameters, StreamItem
from ranvier.text import Tokenizer
from serving import END, MARK, ONE_TWO, PlayingEngine, byte_tokenizer, make_service

WIDE = Limits(batch_size=4, sequence_length=600, max_input_tokens=64, max_batch_prefill_tokens=64)


def play(script: Sequence[int | TokenChoice], inputs: str = "a", **values: Any) -> list[StreamItem]:
    """The items of a stream over a script. It ends with the script unless something ends it before."""

    async def main() -> list[StreamItem]:
        service = make_service(PlayingEngine(script, limits=WIDE))
        parameters = GenerateParameters(**{"max_new_tokens": len(script), **values})
        return [item async for item in service.stream(inputs, parameters)]

    return asyncio.run(main())


def whole(script: Sequence[int | TokenChoice], inputs: str = "a", **values: Any) -> Finished:
    """The same without a stream."""

    async def main() -> Finished:
        service = make_service(PlayingEngine(script, limits=WIDE))
        parameters = GenerateParameters(**{"max_new_tokens": len(script), **values})
        return (await service.generate(inputs, parameters)).best

    return asyncio.run(main())


def end_of(items: list[StreamItem]) -> Finished:
    finished = items[-1].finished
    assert finished is not None
    assert all(item.finished is None for item in items[:-1])
    return finished


TEXT = st.text(max_size=12) | st.sampled_from(["👩‍🚀 👋🏽", "你好，世界", "naïve café", "🇫🇷", "one. two", "مرحبا"])
TOKENS = st.lists(
    st.one_of(
        TEXT.map(lambda text: list(text.encode())),
        st.binary(max_size=6).map(list),
        st.sampled_from([[MARK], [ONE_TWO], [263]]),
    ),
    min_size=1,
    max_size=12,
).map(lambda parts: sum(parts, []))


@settings(deadline=None)
@given(TOKENS.filter(bool))
def test_the_texts_of_a_stream_joined_are_the_whole_text(script: list[int]) -> None:
    """Ids from 259 on have no text; a special token neither shows nor breaks a character."""
    data = b"".join(
        bytes([token_id]) if token_id < 256 else b"one. two" if token_id == ONE_TWO else b"" for token_id in script
    )
    items = play(script)
    finished = end_of(items)
    assert finished.text == data.decode(errors="replace")
    assert "".join(item.piece.visible for item in items) == finished.text
    assert "".join(item.piece.text.replace("<|mark|>", "") for item in items) == finished.text
    assert [item.piece.token_id for item in items] == script
    assert finished.tokens == tuple(item.piece for item in items)
    assert whole(script).text == finished.text


def test_a_character_comes_whole_with_the_token_that_completes_it() -> None:
    items = play(list("é👋x".encode()))
    assert [item.piece.text for item in items] == ["", "é", "", "", "", "👋", "x"]


def test_a_character_that_is_never_completed_is_shown_with_the_last_token() -> None:
    items = play(list("a👋".encode())[:-1])
    assert [item.piece.text for item in items] == ["a", "", "", "\ufffd"]
    assert end_of(items).text == "a\ufffd"


def test_a_special_last_token_keeps_its_spelling_behind_what_was_held() -> None:
    items = play([97, 0xF0, END], max_new_tokens=9)
    assert [item.piece.text for item in items] == ["a", "", "\ufffd<|end|>"]
    assert [item.piece.is_special for item in items] == [False, False, True]
    assert end_of(items).text == "a\ufffd"


def test_special_tokens_are_marked_spelled_and_not_part_of_the_text() -> None:
    items = play([MARK, 97, MARK, END])
    assert [(item.piece.text, item.piece.is_special) for item in items] == [
        ("<|mark|>", True),
        ("a", False),
        ("<|mark|>", True),
        ("<|end|>", True),
    ]
    assert end_of(items).text == "a"


def test_an_end_token_ends_and_counts() -> None:
    finished = whole([97, 98, END, 99], max_new_tokens=9)
    assert (finished.reason, finished.text, len(finished.tokens)) == ("eos_token", "ab", 3)


def test_max_new_tokens_ends_with_length() -> None:
    finished = whole([97, 98, 99], max_new_tokens=2)
    assert (finished.reason, finished.text, len(finished.tokens)) == ("length", "ab", 2)


def test_a_stop_string_over_token_borders_stops_and_stays_in_the_text() -> None:
    finished = whole(list(b"go on. STOP here"), stop=("STOP",), max_new_tokens=99)
    assert (finished.reason, finished.text) == ("stop_sequence", "go on. STOP")


def test_a_stop_string_inside_one_token_does_not_stop() -> None:
    finished = whole([97, ONE_TWO, 98], stop=(". t",))
    assert (finished.reason, finished.text) == ("length", "aone. twob")


def test_the_empty_stop_string_stops_after_one_token() -> None:
    finished = whole(list(b"abc"), stop=("",))
    assert (finished.reason, finished.text) == ("stop_sequence", "a")


def test_a_stop_string_is_not_looked_for_in_special_tokens() -> None:
    finished = whole([97, MARK, 98], stop=("<|mark|>",))
    assert (finished.reason, finished.text) == ("length", "ab")


def test_a_stop_string_may_end_within_a_character_that_is_complete() -> None:
    finished = whole(list("x👋y".encode()), stop=("👋",), max_new_tokens=99)
    assert (finished.reason, finished.text, len(finished.tokens)) == ("stop_sequence", "x👋", 5)


def test_stopping_cancels_the_engine_once() -> None:
    async def main() -> list[str]:
        engine = PlayingEngine(list(b"abcdef"))
        await make_service(engine).generate("a", GenerateParameters(stop=("b",)))
        assert [request.request_id for request in engine.requests] == engine.cancelled
        return engine.cancelled

    assert len(asyncio.run(main())) == 1


def test_length_goes_before_a_stop_string_on_the_last_token() -> None:
    """TGI knows two orders of reasons, and in both a stop string is last. A regression: ours said `stop_sequence`."""
    finished = whole(list(b"abcd"), stop=("abc",), max_new_tokens=3)
    assert (finished.reason, finished.text) == ("length", "abc")


def test_an_end_token_with_text_goes_before_the_stop_string_it_completes() -> None:
    """An end token need not be special; here `c` is one, and it completes the stop string."""

    async def main() -> Finished:
        engine = PlayingEngine(list(b"abcd"))
        service = make_service(engine)
        object.__setattr__(service.text, "eos_token_ids", frozenset({ord("c")}))
        return (await service.generate("a", GenerateParameters(stop=("bc",), max_new_tokens=9))).best

    finished = asyncio.run(main())
    assert (finished.reason, finished.text) == ("eos_token", "abc")


@settings(deadline=None)
@given(st.text(alphabet="ab\n", min_size=1, max_size=12), st.lists(st.text(alphabet="ab\n", max_size=3), max_size=4))
def test_generation_ends_at_the_first_token_after_which_the_text_ends_with_a_stop_string(
    text: str, stop: list[str]
) -> None:
    shown = [text[:length] for length in range(1, len(text) + 1)]
    ends = [each.endswith(tuple(stop)) or (each[-1] == "\n" and each[:-1].endswith(tuple(stop))) for each in shown]
    first = ends.index(True) if stop and True in ends else len(text) - 1
    finished = whole(list(text.encode()), stop=tuple(stop))
    assert finished.text == shown[first]
    assert finished.reason == ("length" if first == len(text) - 1 else "stop_sequence")


def test_top_tokens_have_their_own_text_and_keep_the_engines_order() -> None:
    choice = TokenChoice(98, -0.5, (TokenLogprob(98, -0.5), TokenLogprob(END, -1.5), TokenLogprob(0xC3, -2.0)))
    (item,) = play([choice], top_n_tokens=3)
    assert [(top.token_id, top.text, top.logprob, top.is_special) for top in item.piece.top] == [
        (98, "b", -0.5, False),
        (END, "<|end|>", -1.5, True),
        (0xC3, "\ufffd", -2.0, False),
    ]


def prompt_of(inputs: str, tokenizer: Tokenizer | None = None, **values: Any) -> tuple[int, ...]:
    async def main() -> tuple[int, ...]:
        engine = PlayingEngine([END])
        await make_service(engine, tokenizer=tokenizer).generate(inputs, GenerateParameters(**values))
        return engine.requests[0].prompt_ids

    return asyncio.run(main())


def test_truncate_keeps_the_last_tokens() -> None:
    assert prompt_of("abcdef", truncate=2) == (101, 102)
    assert prompt_of("abcdef", truncate=6) == tuple(b"abcdef")
    assert prompt_of("abcdef", truncate=32) == tuple(b"abcdef")


def test_truncate_makes_a_prompt_fit_that_is_longer_than_a_slot() -> None:
    assert prompt_of("x" * 500 + "end", truncate=3) == tuple(b"end")


def test_the_tokenizers_special_tokens_are_added_and_truncated_like_others() -> None:
    tokenizer = byte_tokenizer(adds_mark=True)
    assert prompt_of("ab", tokenizer) == (MARK, 97, 98)
    assert prompt_of("ab", tokenizer, truncate=2) == (97, 98)


def test_the_number_of_prompt_tokens_is_counted_after_truncation() -> None:
    assert whole([END], "abcdef", truncate=2).num_input == 2


def test_a_greedy_request_has_no_seed_even_if_one_was_given() -> None:
    assert whole([97], seed=5).seed is None


@pytest.mark.parametrize("seed", [0, 42, 2**64 - 1])
def test_a_sampled_request_tells_the_seed_it_was_given(seed: int) -> None:
    assert whole([97], do_sample=True, seed=seed).seed == seed


def test_a_sampled_request_without_a_seed_tells_the_one_drawn() -> None:
    async def main() -> tuple[int | None, int]:
        engine = PlayingEngine([END])
        completion = await make_service(engine).generate("a", GenerateParameters(do_sample=True))
        return completion.best.seed, engine.requests[0].sampling.seed

    told, used = asyncio.run(main())
    assert told == used


def outcome(script: list[int], ending: FailEvent | FinishEvent, *, stream: bool) -> tuple[list[str], RequestError]:
    """Texts that came, and the error that ended them."""

    async def main() -> tuple[list[str], RequestError]:
        engine = PlayingEngine(script, ending=lambda request_id: replace(ending, request_id=request_id))
        service = make_service(engine)
        texts: list[str] = []
        try:
            if stream:
                async for item in service.stream("a", GenerateParameters()):
                    texts.append(item.piece.text)
            else:
                await service.generate("a", GenerateParameters())
        except RequestError as error:
            assert service.num_in_flight == 0
            return texts, error
        raise AssertionError("no error")

    return asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_of_the_engine_ends_the_request_with_its_reason(stream: bool) -> None:
    texts, error = outcome([97, 98], FailEvent("", "out of luck"), stream=stream)
    assert type(error) is GenerationError
    assert str(error) == "out of luck"
    assert texts == (["a", "b"] if stream else [])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [[], [97]])
def test_an_engine_that_cancels_by_itself_leaves_the_generation_incomplete(script: list[int], stream: bool) -> None:
    _, error = outcome(script, FinishEvent("", "cancelled"), stream=stream)
    assert type(error) is IncompleteGenerationError


@pytest.mark.parametrize("stream", [False, True])
def test_an_end_without_any_token_leaves_the_generation_incomplete(stream: bool) -> None:
    _, error = outcome([], FinishEvent("", "length"), stream=stream)
    assert type(error) is IncompleteGenerationError
