"""Grammars: what a request's output must look like, and which tokens may come next. The only door to llguidance.

The router turns a JSON Schema, a regex or a list of tools into a text, and compiles it once to refuse what is wrong.
The engine compiles the same text again and asks the constraint for a mask before each token.
"""

from ranvier.grammar.closing import closed
from ranvier.grammar.compiler import GrammarCompiler
from ranvier.grammar.constraint import Constraint
from ranvier.grammar.sources import any_json_object, from_json_schema, from_regex
from ranvier.grammar.tools import tool_schema

__all__ = [
    "Constraint",
    "GrammarCompiler",
    "any_json_object",
    "closed",
    "from_json_schema",
    "from_regex",
    "tool_schema",
]
