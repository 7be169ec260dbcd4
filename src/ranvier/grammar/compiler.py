"""From a grammar's text to a constraint.

llguidance bounds its work by counting steps. The limits here are half of its own or less, for a server whose clients
may be hostile. Together with those of `ranvier.grammar.limits` and `ranvier.grammar.expansion` they keep the worst
cases found to about a second for a compilation, 0.2 s for a mask, and 30 MB for a constraint.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ranvier.errors import ValidationError
from ranvier.grammar.constraint import Constraint, library_reason
from ranvier.grammar.limits import MAX_GRAMMAR_BYTES
from ranvier.grammar.refusals import cannot_compile, not_valid, one_line
from ranvier.grammar.tokenizer_file import with_hidden_specials

_MAX_CACHED_BYTES = 1_048_576
_NOTHING_FITS = "NoExtension"
_ONE_OF = "oneOf constraints are not supported"
_UNIMPLEMENTED = "Unimplemented keys"
_NOT_SUPPORTED = (
    "not supported",
    "only supported",
    "not disjoint",
    "does not fetch",
    "unable to determine",
    "too big",
    "too large",
    "too many",
    "fuel exhausted",
    "level exceeded",
    "failed to generate",
    "current row has",
    "panic",
)
"""In lower case, parts of reasons that are no mistake of the client."""


class GrammarCompiler:
    """Compiles grammars for one tokenizer and its end tokens. All methods may be called by any thread.

    The tokenizer is read with the first grammar, which takes a second for 250,000 tokens. Up to `cache_size` compiled
    grammars with 1 MiB of text are kept, those used last.
    """

    def __init__(self, tokenizer_json: Path, *, eos_token_ids: frozenset[int], cache_size: int = 128) -> None:
        self._tokenizer = _LazyTokenizer(tokenizer_json, eos_token_ids)
        self._cache = _Cache(cache_size)

    def compile(self, text: str) -> Constraint:
        """A fresh constraint for a text of `ranvier.grammar`.

        Raises ValidationError if the grammar is wrong, too large, uses what is not implemented or allows no output, or
        if the model's tokenizer cannot be used with grammars.
        """
        num_bytes = len(text.encode(errors="replace"))
        if num_bytes > MAX_GRAMMAR_BYTES:
            raise cannot_compile(
                f"the grammar has {num_bytes} bytes and the limit is {MAX_GRAMMAR_BYTES}; make it smaller"
            )
        matcher = self._cache.copy_of(text)
        if matcher is None:
            matcher = self._cache.keep(text, _compiled(self._tokenizer.get(), text), num_bytes)
        return Constraint(matcher, self._tokenizer.end_ids, hides_end=self._tokenizer.hides_end)


class _LazyTokenizer:
    """Read once, by the first thread that needs it; if that fails, everyone hears the same reason.

    `end_ids` and `hides_end` hold once it is read. Where the model has no end token, one is made up.
    """

    def __init__(self, path: Path, eos_token_ids: frozenset[int]) -> None:
        self.end_ids = eos_token_ids
        self.hides_end = not eos_token_ids
        self._path = path
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._failure = ""

    def get(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None and not self._failure:
                self._read()
        if self._tokenizer is None:
            raise ValidationError(
                f"grammar is not supported with this model's tokenizer: {self._failure}; send the request without one"
            )
        return self._tokenizer

    def _read(self) -> None:
        try:
            content, self.end_ids = with_hidden_specials(self._path, self.end_ids)
        except OSError as error:
            self._failure = f"its file cannot be read ({error.strerror})"
            return
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._failure = f"its file is no complete `tokenizer.json` ({one_line(str(error))})"
            return
        try:
            self._tokenizer = LLTokenizer(content, eos_token=sorted(self.end_ids))
        except BaseException as error:
            # A panic in the library is no Exception, and its class has no public name.
            if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
                raise
            self._failure = one_line(str(error))


class _Cache:
    """Compiled matchers by text; callers get copies of their own."""

    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[LLMatcher, int]] = OrderedDict()
        self._num_bytes = 0

    def copy_of(self, text: str) -> LLMatcher | None:
        with self._lock:
            entry = self._entries.get(text)
            if entry is None:
                return None
            self._entries.move_to_end(text)
            # A matcher may be used by one thread at a time, also for copying.
            return entry[0].deep_copy()

    def keep(self, text: str, matcher: LLMatcher, num_bytes: int) -> LLMatcher:
        """Keeps `matcher`, which nobody else may use any more, and gives a copy."""
        copy = matcher.deep_copy()
        with self._lock:
            self._num_bytes += num_bytes - self._entries.pop(text, (matcher, 0))[1]
            self._entries[text] = (matcher, num_bytes)
            while len(self._entries) > self._max_count or self._num_bytes > _MAX_CACHED_BYTES:
                self._num_bytes -= self._entries.popitem(last=False)[1][1]
        return copy


def _compiled(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    matcher = LLMatcher(tokenizer, text, log_level=0, limits=_limits())
    if not matcher.is_error():
        # Some grammars fail, or turn out to allow nothing, only here.
        matcher.compute_bitmask()
    if matcher.is_error():
        raise _refusal(library_reason(matcher))
    return matcher


def _limits() -> LLParserLimits:
    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        max_lexer_states=50_000,
        max_grammar_size=60_000,
        verbose_errors=False,
    )


def _refusal(reason: str) -> ValidationError:
    if _NOTHING_FITS in reason:
        return not_valid("it allows no output; look for schemas that contradict each other or only refer to themselves")
    if _ONE_OF in reason:
        return cannot_compile("`oneOf` is supported where its schemas plainly exclude each other; use `anyOf` instead")
    if _UNIMPLEMENTED in reason:
        return cannot_compile(f"{reason}; remove them")
    if any(words in reason.lower() for words in _NOT_SUPPORTED):
        return cannot_compile(f"{reason}; make the grammar simpler")
    return not_valid(reason)
