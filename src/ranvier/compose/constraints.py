"""Grammars in the engine process."""

from __future__ import annotations

from pathlib import Path

from ranvier.core import Constraint, ConstraintFactory
from ranvier.grammar import GrammarCompiler


def constraint_factory(tokenizer_json: Path) -> ConstraintFactory:
    """Compiles with a model's tokenizer, which is read with the first grammar. One thread may call it."""
    compilers: dict[frozenset[int], GrammarCompiler] = {}

    def make(grammar: str, eos_token_ids: frozenset[int]) -> Constraint:
        if eos_token_ids not in compilers:
            compilers[eos_token_ids] = GrammarCompiler(tokenizer_json, eos_token_ids=eos_token_ids)
        return compilers[eos_token_ids].compile(grammar)

    return make
