"""Templates written in Jinja, rendered with limits. The only door to `jinja2`.

The dialect is that of `transformers` (`utils/chat_template_utils.py`): its sandbox, white space rules, extensions and
`tojson`. A template comes with the model and is not trusted: nothing is computed while it compiles, and a rendering has
a budget for what it prints (captured or not) and for loop rounds and calls. Whatever could make one huge value at once
(`*`, `**`, `+`, `~`, `%`, `join`, `replace`, `format`, padding) is measured first or refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from string import Formatter
from traceback import walk_tb
from typing import Any

from jinja2 import Template, TemplateSyntaxError, UndefinedError, filters, meta, nodes, pass_context
from jinja2 import TemplateError as JinjaError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ranvier.errors import ModelError, TemplateError

MAX_CHARACTERS = 20_000_000
"""Most characters a rendering may print, and most that one value may have: ten times the largest default body."""

MAX_STEPS = 1_000_000
"""Most loop rounds and calls of a rendering: a dozen for each of the 80 000 smallest messages in such a body."""

_MAX_INTEGER_BITS = 4096
_MAX_INDENT = 100

_BUDGET = "the budget of this rendering"
"""Key in a template's context; with spaces, so that no template can name it."""

_PERCENT_WIDTH = re.compile(r"%(?:\([^()]*\))?[^a-zA-Z%(]*?(?:\*|\d{4})|%\([^()]*\(")
"""A width or precision in a `%` text (without its `%%`) that is computed, above 999, or after a key with brackets."""

_BRACE_WIDTH = re.compile(r"\{|\d{4}")
"""The same in what stands after the colon of a `str.format` field."""

_WIDTH = "a width in a format is above 999 or not written out"

_PADDING_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "translate", "zfill"})
_REMOVED_FILTERS = ("batch", "center", "forceescape", "pprint", "slice", "urlize", "wordwrap", "xmlattr")
_TEXT_FILTERS = (
    *("capitalize", "e", "escape", "lower", "safe", "string", "striptags", "title", "trim", "upper", "urlencode"),
    "wordcount",
)
"""Filters that write their input as text, whatever it is."""


class TemplateProgram:
    """A compiled template. Holds nothing of a rendering: any number of threads may share one."""

    def __init__(self, source: str) -> None:
        """Compile `source`. Raises ModelError with the reason and the line if it is not a template."""
        try:
            environment = _Environment()
            tree = environment.parse(source)
            self.variables = frozenset(meta.find_undeclared_variables(tree))
            """Names that the template reads and does not set itself."""
            code = environment.compile(_Metered().visit(tree).set_environment(environment))
            self._template = Template.from_code(environment, code, environment.make_globals(None))
        except Exception as error:  # also RecursionError and the compiler's own SyntaxError
            raise ModelError(f"not a valid template: {_reason(error)}") from None

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for these variables; functions of the dialect cannot be replaced by them.

        Raises TemplateError for everything that can go wrong, in the words of TGI's engine:
        `<kind>: <reason> (in <string>:<line>)`.
        """
        reserved = self._template.globals
        given = {name: value for name, value in variables.items() if name not in reserved}
        try:
            context = self._template.new_context(given | {_BUDGET: _Budget()})
            return "".join(self._template.root_render_func(context))
        except Exception as error:  # a template can raise anything, MemoryError and RecursionError included
            raise TemplateError(self._explain(error)) from None

    def _explain(self, error: Exception) -> str:
        lines = [
            self._template.get_corresponding_lineno(line)
            for frame, line in walk_tb(error.__traceback__)
            if frame.f_code.co_filename == "<template>"
        ]
        where = f" (in <string>:{lines[-1]})" if lines else ""
        if isinstance(error, _Raised):
            return f"syntax error: {error}{where}"
        kind = "undefined value" if isinstance(error, UndefinedError) else "invalid operation"
        return f"{kind}: {str(error) or type(error).__name__}{where}"


def _reason(error: Exception) -> str:
    if isinstance(error, TemplateSyntaxError):
        return f"{error.message} (line {error.lineno})"
    return str(error)


class _Raised(JinjaError):
    """The template itself refused the messages."""


class _Budget:
    """What a rendering may still use."""

    __slots__ = ("_characters", "_steps")

    def __init__(self) -> None:
        self._characters = MAX_CHARACTERS
        self._steps = MAX_STEPS

    def step(self) -> None:
        """Pay for one loop round, call, or item looked at."""
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError(f"more than {MAX_STEPS} loop rounds and calls")

    def spend(self, num_characters: int) -> None:
        """Pay for text that is printed."""
        self._characters -= num_characters
        if self._characters < 0:
            raise SecurityError(f"more than {MAX_CHARACTERS} characters")

    def measure(self, value: object) -> int:
        """Least number of characters of `value` as text. A list that holds another twice has its text twice."""
        num_characters, stack = 0, [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                num_characters += len(item)
                _check_length(num_characters)
            elif isinstance(item, Mapping):
                self.step()
                stack += item.keys()
                stack += item.values()
            elif isinstance(item, (list, tuple, set, frozenset)):
                self.step()
                stack += item
        return num_characters


def _check_length(num_characters: int) -> None:
    if num_characters > MAX_CHARACTERS:
        raise SecurityError(f"a value would be longer than {MAX_CHARACTERS}")


def _budget(context: Context) -> _Budget:
    budget = context.resolve(_BUDGET)
    assert isinstance(budget, _Budget)
    return budget


class _Metered(NodeTransformer):
    """Makes a template pay: loops for their rounds, literal text as what is printed; `~` becomes `join`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "metered", [], [], None, None, lineno=node.lineno)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "join", [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}` marks what a model is trained on; for a prompt it means nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The dialect. `range` has at most 100 000 items, the sandbox's own limit."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        # Neither the optimizer nor, with a `finalize` that needs the context, the compiler computes constants: one
        # like `'x' * 10**10` would otherwise be made while the template compiles.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_printed,
            extensions=[LoopControlExtension, _Generation],
        )
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        own = {name: _measured(self.filters[name]) for name in _TEXT_FILTERS}
        own |= {"format": _format, "indent": _indent, "join": _join, "metered": _metered}
        own |= {"replace": _replace, "tojson": _tojson}
        self.filters = {name: each for name, each in self.filters.items() if name not in _REMOVED_FILTERS} | own

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _PADDING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            _check_length(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            _check_percent_widths(left)
            _budget(context).measure(right)
        elif operator in ("*", "**"):
            _check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _budget(__context).step()
        if isinstance(__obj, LoopContext):
            args = tuple(_metered(__context, items) for items in args)
        # The sandbox wraps `format`; the method is inside.
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = _checked_arguments(_budget(__context), owner, method.__name__, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)


def _checked_arguments(
    budget: _Budget, owner: str, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Arguments for a method of a string that can make it much longer."""
    if method in ("format", "format_map"):
        _check_brace_widths(owner)
        budget.measure([args, kwargs])
    elif method == "replace" and len(args) > 1:
        _check_replaced(owner, args[0], args[1])
    elif method == "join" and args:
        items = list(args[0])
        _check_length(budget.measure(items) + len(owner) * len(items))
        return (items,)
    return args


def _check_product(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_INTEGER_BITS:
            raise SecurityError(f"a number would have more than {_MAX_INTEGER_BITS} bits")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, list, tuple)) and isinstance(times, int):
            _check_length(len(value) * times)


def _check_percent_widths(text: str) -> None:
    if _PERCENT_WIDTH.search(text.replace("%%", "")):
        raise SecurityError(_WIDTH)


def _check_brace_widths(text: str) -> None:
    if any(_BRACE_WIDTH.search(specification or "") for _, _, specification, _ in Formatter().parse(text)):
        raise SecurityError(_WIDTH)


def _check_replaced(text: str, old: object, new: object) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _check_length(len(text) + text.count(old) * max(0, len(new) - len(old)))


def _raise_exception(message: object) -> None:
    raise _Raised(str(message))


def _strftime_now(format: str) -> str:
    """Local time, as `transformers` has it."""
    return datetime.now().strftime(format)


@pass_context
def _printed(context: Context, value: object) -> object:
    _budget(context).spend(_budget(context).measure(value))
    return value


@pass_context
def _metered(context: Context, items: Any) -> Iterator[Any]:
    budget = _budget(context)
    for item in items:
        budget.step()
        yield item


def _measured(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def measured(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        _budget(context).measure(value)
        return function(value, *args, **kwargs)

    return measured


@pass_context
def _join(context: Context, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    _check_length(_budget(context).measure(items) + len(str(d)) * len(items))
    return str(filters.do_join(context.eval_ctx, items, d, attribute))


@pass_context
def _replace(context: Context, value: Any, old: str, new: str, count: int | None = None) -> str:
    _budget(context).measure(value)
    _check_replaced(str(value), old, new)
    return str(value).replace(old, new, -1 if count is None else count)


@pass_context
def _format(context: Context, value: Any, *args: Any, **kwargs: Any) -> str:
    _check_percent_widths(str(value))
    _budget(context).measure([args, kwargs])
    return str(filters.do_format(value, *args, **kwargs))


@pass_context
def _indent(context: Context, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _budget(context).measure(value)
    _check_indent(width)
    return filters.do_indent(str(value), width, first, blank)


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON for a model to read: unlike Jinja's own, no HTML escapes. Parameters as in `transformers`."""
    _check_indent(indent)
    _budget(context).measure(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _check_indent(width: int | str | Sequence[str] | None) -> None:
    length = width if isinstance(width, int) else len(width or "")
    if length > _MAX_INDENT:
        raise SecurityError(f"an indent is wider than {_MAX_INDENT}")
