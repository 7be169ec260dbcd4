"""Hostile grammars are refused or compiled in bounded time, and neither they nor their masks stop anybody else.

The bounds are wide because machines are slow and busy: on an idle core a compilation takes up to one second, and a mask
up to 0.2 s. Without the limits some of these would take hours, and some would end the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile import REGEXES, SCHEMAS
from walks import compiler, walk

import smollm2
from ranvier.errors import GenerationError, ValidationError
from ranvier.grammar import GrammarCompiler, from_json_schema, from_regex
from serving import END
from smollm2 import needs_smollm2

BOUND_S = 20.0
MUST_BE_REFUSED = list(SCHEMAS)[:12]


@contextmanager
def others_go_on() -> Iterator[None]:
    """Another thread is never held up for long."""
    gaps = [0.0]
    is_over = threading.Event()

    def count() -> None:
        last = time.monotonic()
        while not is_over.wait(0.001):
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    assert max(gaps) < BOUND_S / 4


def outcome(grammars: GrammarCompiler, kind: str, value: Any, end_id: int = END, num_steps: int = 60) -> str:
    """Compiles, and goes some way along an output."""
    start = time.monotonic()
    try:
        constraint = grammars.compile(from_regex(value) if kind == "regex" else from_json_schema(value))
        walk(constraint, 1, end_ids=frozenset({end_id}), max_steps=num_steps)
    except ValidationError as error:
        assert len(str(error)) < 300
        return "refused"
    except GenerationError as error:
        assert str(error).startswith("the grammar cannot go on: ")
        return "given up"
    finally:
        assert time.monotonic() - start < BOUND_S
    return "kept"


@pytest.mark.parametrize("name", REGEXES)
def test_a_hostile_regex_ends_soon(name: str) -> None:
    with others_go_on():
        assert outcome(compiler(), "regex", REGEXES[name]) in ("refused", "given up", "kept")


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hostile_schema_ends_soon(name: str) -> None:
    with others_go_on():
        result = outcome(compiler(), "schema", SCHEMAS[name])
    assert result == "refused" or name not in MUST_BE_REFUSED


@needs_smollm2
def test_a_large_vocabulary_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(smollm2.tokenizer()._library.to_str(), encoding="utf-8")
    grammars = GrammarCompiler(path, eos_token_ids=frozenset({2}))
    with others_go_on():
        for value in REGEXES.values():
            outcome(grammars, "regex", value, 2, 8)
        for schema in SCHEMAS.values():
            outcome(grammars, "schema", schema, 2, 8)
