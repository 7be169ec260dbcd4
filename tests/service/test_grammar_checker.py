"""Grammars of requests: what is refused before the engine hears of it, and how long that may take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import pytest

from ranvier.errors import OverloadedError, ValidationError
from ranvier.grammar import GrammarCompiler, from_regex
from ranvier.service import GenerateParameters, Grammar, GrammarChecker, ServiceLimits
from serving import END, PlayingEngine, grammar_checker, make_service, scripted_service

T = TypeVar("T")

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


class FakeCompiler:
    """Takes note of what it compiles and on which thread; a text with `slow` in it takes until the test lets it go."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.threads: set[str] = set()
        self.is_slow_now = threading.Event()
        self.go_on = threading.Event()

    def compile(self, text: str) -> None:
        self.threads.add(threading.current_thread().name)
        self.texts.append(text)
        if "slow" in text:
            self.is_slow_now.set()
            assert self.go_on.wait(20)

    def checker(self, limit_s: float = 20.0) -> GrammarChecker:
        return GrammarChecker(cast(GrammarCompiler, self), limit_s)


def checked(grammar: Grammar, make: Callable[[], GrammarChecker] = grammar_checker) -> str:
    async def main() -> str:
        checker = make()
        try:
            return await checker.text_of(grammar)
        finally:
            checker.close()

    return asyncio.run(main())


def refusal(grammar: Grammar) -> str:
    with pytest.raises(ValidationError) as caught:
        checked(grammar)
    return str(caught.value)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json", SCHEMA),
        Grammar("schema", SCHEMA),
        Grammar("schema", {"type": "array"}),
        Grammar("regex", "a+b"),
    ],
)
def test_a_grammar_becomes_the_text_that_was_compiled(grammar: Grammar) -> None:
    compiler = FakeCompiler()
    text = checked(grammar, compiler.checker)
    assert compiler.texts == [text]
    assert checked(grammar) == text


def test_a_schema_may_be_given_as_text() -> None:
    text = checked(Grammar("json", SCHEMA))
    assert checked(Grammar("json", json.dumps(SCHEMA))) == checked(Grammar("schema", SCHEMA)) == text
    assert checked(Grammar("regex", "a+b")) == from_regex("a+b") != text


def test_grammars_are_compiled_on_a_thread_of_their_own() -> None:
    compiler = FakeCompiler()
    checked(Grammar("regex", "a"), compiler.checker)
    (thread,) = compiler.threads
    assert thread.startswith("grammar")


@pytest.mark.parametrize("kind", ["json", "schema", "regex"])
def test_where_grammars_are_switched_off_each_is_refused(kind: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        checked(Grammar(kind, "a"), lambda: GrammarChecker(None))
    assert str(caught.value) == "grammar is not supported"


@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], ["properties"]])
@pytest.mark.parametrize("kind", ["json", "schema"])
def test_a_schema_is_an_object_or_a_text(kind: Any, value: Any) -> None:
    """TGI's rule 17."""
    assert refusal(Grammar(kind, value)) == "grammar is not supported"


@pytest.mark.parametrize("text", ["", "{", "no JSON", "[" * 100_000])
def test_a_text_that_is_no_json_is_not_valid(text: str) -> None:
    """TGI's rule 18."""
    assert refusal(Grammar("json", text)).startswith("grammar is not valid: ")


@pytest.mark.parametrize("value", [{}, {"type": "object"}, {"$ref": "#"}, "{}", "[]", "3", "null"])
def test_tgis_shapes_need_properties_at_the_top(value: Any) -> None:
    """TGI's rule 19; it does not hold for the OpenAI API's shapes."""
    assert refusal(Grammar("json", value)) == "grammar is not valid: Grammar must have a 'properties' field"


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("schema", {"type": "no such type"}),
        Grammar("schema", {"$ref": "#/$defs/missing"}),
        Grammar("json", {"properties": 5}),
        Grammar("json", {"properties": {"a": {"type": "string", "pattern": "("}}}),
        Grammar("regex", "("),
        Grammar("regex", "[z-a]"),
        Grammar("json", '{"properties":{"a":{"const":"\\ud800"}}}'),
        Grammar("json", '{"properties":{"\\ud800":{}}}'),
        Grammar("json", '{"type":"\\ud800","properties":{}}'),
    ],
)
def test_a_grammar_that_cannot_be_compiled_is_refused_in_words_that_can_be_sent(grammar: Grammar) -> None:
    assert refusal(grammar).encode()


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_a_schema_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    text = '{"properties":' * depth + "{}" + "}" * depth
    assert refusal(Grammar("json", text)).startswith("grammar is not valid: ")


def test_a_slow_grammar_is_given_up_and_the_server_goes_on() -> None:
    """Requests without a grammar are served while it blocks its thread; those with one are served after it."""

    async def main() -> None:
        compiler = FakeCompiler()
        service = make_service(PlayingEngine([65, END]), grammars=compiler.checker(limit_s=0.2))
        slow = asyncio.ensure_future(service.generate("a", GenerateParameters(grammar=Grammar("regex", "slow"))))
        with pytest.raises(ValidationError) as caught:
            await slow
        assert str(caught.value) == "cannot compile regex from schema: it takes more than 0.2 s; make it smaller"
        assert service.num_in_flight == 0
        assert (await service.generate("a", GenerateParameters())).best.text == "A"
        assert (await service.tokenize("x" * 10_000))[0] == (120, 0, 1)
        compiler.go_on.set()
        service.close()

    asyncio.run(main())


def test_a_grammar_that_waits_too_long_for_others_is_told_that_the_server_is_busy() -> None:
    """It would be wrong to call it too large."""

    async def main() -> None:
        compiler = FakeCompiler()
        checker = compiler.checker(limit_s=0.2)
        slow = asyncio.ensure_future(checker.text_of(Grammar("regex", "slow")))
        await asyncio.to_thread(compiler.is_slow_now.wait, 20)
        with pytest.raises(OverloadedError):
            await checker.text_of(Grammar("regex", "a"))
        compiler.go_on.set()
        with contextlib.suppress(ValidationError):
            await slow
        assert await checker.text_of(Grammar("regex", "a")) == from_regex("a")
        checker.close()

    asyncio.run(main())


def test_while_a_grammar_compiles_others_are_served() -> None:
    async def main() -> None:
        compiler = FakeCompiler()
        engine = PlayingEngine([65, END])
        service = make_service(engine, grammars=compiler.checker())
        slow = asyncio.ensure_future(service.generate("slow", GenerateParameters(grammar=Grammar("regex", "slow"))))
        await asyncio.to_thread(compiler.is_slow_now.wait, 20)
        assert (await service.generate("fast", GenerateParameters())).best.text == "A"
        assert [request.grammar for request in engine.requests] == [None]
        compiler.go_on.set()
        assert (await slow).best.text == "A"
        assert engine.requests[1].grammar == from_regex("slow")
        service.close()

    asyncio.run(main())


def test_a_client_that_leaves_while_its_grammar_compiles_gives_its_permit_back() -> None:
    async def main() -> None:
        compiler = FakeCompiler()
        service = make_service(
            PlayingEngine([65, END]),
            grammars=compiler.checker(),
            limits=ServiceLimits(max_concurrent_requests=1),
        )
        slow = asyncio.ensure_future(service.generate("a", GenerateParameters(grammar=Grammar("regex", "slow"))))
        await asyncio.to_thread(compiler.is_slow_now.wait, 20)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert (service.num_in_flight, service.metrics.request_failure.value(err="dropped")) == (0, 1)
        compiler.go_on.set()
        service.close()

    asyncio.run(main())


def test_a_client_that_leaves_just_when_its_grammar_is_compiled_has_left() -> None:
    """A regression: its request went on, and nobody was there to read it or to free its slot."""

    async def main() -> None:
        compiler = FakeCompiler()
        checker = compiler.checker()
        work = asyncio.ensure_future(checker.text_of(Grammar("regex", "slow")))
        await asyncio.to_thread(compiler.is_slow_now.wait, 20)
        compiler.go_on.set()
        checker.close()
        # Now the result waits for the next turn of the event loop.
        for thread in threading.enumerate():
            if thread.name in compiler.threads:
                thread.join(20)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(main())


def test_the_engine_keeps_to_the_grammar() -> None:
    """`nerve` would give `1|==`: of that the expression allows the `1` and one `|`, and then only the end."""

    async def main() -> None:
        async with scripted_service() as service:
            finished = (await service.generate("nerve", GenerateParameters(grammar=Grammar("regex", "[0-9]\\|")))).best
            assert (finished.text, finished.reason, finished.tokens[-1].token_id) == ("1|", "eos_token", END)
            chosen = (await service.generate("nerve", GenerateParameters(grammar=Grammar("regex", "no|never")))).best
            assert chosen.text == "never"

    asyncio.run(main())
