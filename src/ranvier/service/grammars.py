"""Grammars of requests: checked and compiled here once, so that a bad one is refused before it is queued."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from ranvier.errors import OverloadedError, ValidationError
from ranvier.grammar import GrammarCompiler, closed, from_json_schema, from_regex
from ranvier.service.parameters import Grammar

MAX_WRITTEN_BYTES = 262_144
"""Longest schema as it is written. Half may be titles and descriptions, which the compiler's limit leaves out."""

COMPILE_LIMIT_S = 10.0
"""Seconds after which a grammar is given up. The compiler's own limits end it far earlier on an idle machine."""


class GrammarChecker:
    """Compiles grammars on a thread of its own: a slow one holds up neither the event loop nor the tokenizer.

    `compiler` None: the operator has switched grammars off.
    """

    def __init__(self, compiler: GrammarCompiler | None, limit_s: float = COMPILE_LIMIT_S) -> None:
        self._compiler = compiler
        self._limit_s = limit_s
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    async def text_of(self, grammar: Grammar) -> str:
        """The grammar as the engine takes it.

        Raises `ValidationError` if it cannot be compiled, `OverloadedError` if those before it take too long.
        """
        if self._compiler is None:
            raise ValidationError("grammar is not supported")
        loop, has_begun = asyncio.get_running_loop(), asyncio.Event()

        def compiled(compiler: GrammarCompiler) -> str:
            loop.call_soon_threadsafe(has_begun.set)
            return _compiled_text(compiler, grammar)

        work = loop.run_in_executor(self._worker, compiled, self._compiler)
        begun = asyncio.ensure_future(has_begun.wait())
        try:
            # Not `wait_for`: before Python 3.12 it forgets to be cancelled where the work ends at the same moment.
            await asyncio.wait({begun}, timeout=self._limit_s)
            if not begun.done():
                # Others' grammars are in the way: not this one's fault.
                raise OverloadedError
            await asyncio.wait({work}, timeout=self._limit_s)
            if work.done():
                return work.result()
        finally:
            begun.cancel()
            work.cancel()
        raise ValidationError(
            f"cannot compile regex from schema: it takes more than {self._limit_s:g} s; make it smaller"
        )

    def close(self) -> None:
        """Stop the thread."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def _compiled_text(compiler: GrammarCompiler, grammar: Grammar) -> str:
    try:
        text = _text(grammar)
        compiler.compile(text)
    except RecursionError:
        raise ValidationError("grammar is not valid: it is nested too deeply; make it flatter") from None
    except ValueError as error:
        # What cannot be written as JSON for the compiler: half of a surrogate pair.
        raise ValidationError(f"grammar is not valid: {error}") from None
    return text


def _text(grammar: Grammar) -> str:
    if grammar.kind == "regex":
        return from_regex(str(grammar.value))
    schema = _schema(grammar.value)
    if grammar.kind == "json" and "properties" not in schema:
        raise ValidationError("grammar is not valid: Grammar must have a 'properties' field")
    if "properties" in schema:
        # It means an object, also where it does not say so: TGI's own examples do not.
        schema = {"type": "object", **schema}
    return from_json_schema(closed(schema))


def _schema(value: object) -> Mapping[str, object]:
    if not isinstance(value, (str, Mapping)):
        raise ValidationError("grammar is not supported")
    # Before anything in Python walks through it: that would take seconds for a body of 2 MB.
    if len(value if isinstance(value, str) else msgspec.json.encode(value)) > MAX_WRITTEN_BYTES:
        raise ValidationError(f"grammar is not valid: it has more than {MAX_WRITTEN_BYTES} bytes; make it smaller")
    try:
        schema = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"grammar is not valid: {error}") from None
    if not isinstance(schema, Mapping):
        raise ValidationError("grammar is not valid: Grammar must have a 'properties' field")
    return schema
