"""A template cannot reach out of its sandbox, and what it takes is bounded."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.errors import ModelError, TemplateError
from ranvier.text import ChatTemplate, template_engine

GROWING = "{% set ns = namespace(x=START) %}{% for i in range(60) %}STEP{% endfor %}{{ END }}"
LONGER = r"a value would be longer than 20000000 \(in <string>:1\)"
TOO_MUCH_TEXT = r"more than 20000000 characters \(in <string>:1\)"
WIDTH = "a width in a format is above 999 or not written out"


def render(source: str, **extra: Any) -> str:
    return ChatTemplate(source, bos_token=None, eos_token=None).render([{"role": "user", "content": "Hi"}], extra=extra)


def growing(start: str, step: str, end: str = "ns.x") -> str:
    """A template that doubles something sixty times."""
    return GROWING.replace("START", start).replace("STEP", step).replace("END", end)


def refusal(source: str, **extra: Any) -> str:
    with pytest.raises(TemplateError) as caught:
        render(source, **extra)
    return str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ messages | map(attribute='__class__') | map(attribute='__mro__') | list }}",
    ],
)
def test_the_insides_of_objects_are_closed(source: str) -> None:
    assert "unsafe" in refusal(source) or "undefined" in refusal(source)


@pytest.mark.parametrize(
    "source", ["{{ messages.append(1) }}", "{{ messages[0].update(a=1) }}", "{{ messages.clear() }}"]
)
def test_values_of_the_request_cannot_be_changed(source: str) -> None:
    assert "is unsafe" in refusal(source)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 'x' * 10**10 }}", LONGER),
        ("{% set x = 10**10 * 'x' %}", LONGER),
        ("{% set x = [1] * 10**9 %}", LONGER),
        ("{% set x = 10 ** (10 ** 9) %}", "a number would have more than 4096 bits"),
        ("{{ range(10**9) | list }}", "Range too big"),
        ("{{ 'x'.ljust(10**10) }}", "attribute 'ljust' of 'str' object is unsafe"),
        ("{{ 'x'.zfill(10**10) }}", "attribute 'zfill' of 'str' object is unsafe"),
        ("{{ 'x' | indent(10**10) }}", "an indent is wider than 100"),
        ("{{ [1] | tojson(indent=10**10) }}", "an indent is wider than 100"),
        ("{{ '%1000d' % 3 }}", WIDTH),
        ("{{ '%*d' | format(10**9, 3) }}", WIDTH),
        ("{{ '%(a)1000d' % {'a': 1} }}", WIDTH),
        ("{{ '%(a(b))1000d' % {'a(b)': 1} }}", WIDTH),
        ("{{ '%%%.1000f' % 3 }}", WIDTH),
        ("{{ '{0[a]:.1000f}'.format({'a': 1}) }}", WIDTH),
        ("{{ '{:>10000000000}'.format(1) }}", WIDTH),
        ("{{ '{:>{w}}'.format(1, w=10**10) }}", WIDTH),
        ("{{ ('x' * 10**7) | replace('x', 'y' * 10**7) }}", LONGER),
        ("{{ ('x' * 10**7).replace('x', 'y' * 10**7) }}", LONGER),
        ("{{ ('x' * 10**7).join('y' * 100) }}", LONGER),
        ("{{ ('y' * 100) | join('x' * 10**7) }}", LONGER),
        ("{% for i in range(3) %}{{ 'x' * 10**7 }}{% endfor %}", TOO_MUCH_TEXT),
        ("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}", "maximum recursion depth exceeded"),
        (growing("'x'", "{% set ns.x = ns.x + ns.x %}"), LONGER),
        (growing("'x'", "{% set ns.x = ns.x ~ ns.x %}"), LONGER),
        (growing("'x'", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"), TOO_MUCH_TEXT),
        (growing("'xx'", "{% set ns.x = ns.x.replace('x', ns.x) %}"), LONGER),
    ],
)
def test_a_huge_value_is_refused_before_it_is_made(source: str, reason: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError, match=reason):
            render(source)
        assert tracemalloc.get_traced_memory()[1] < 300_000_000
    finally:
        tracemalloc.stop()


def test_nothing_is_computed_while_a_template_compiles() -> None:
    tracemalloc.start()
    try:
        ChatTemplate("{{ 'x' * 10**9 }}{% if 'x' * 10**9 %}{% endif %}", bos_token=None, eos_token=None)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for a in [0] recursive %}{% if loop.depth < 4 %}{{ loop(range(4000)) }}{% endif %}{% endfor %}",
        growing("[0]", "{% set ns.x = [ns.x, ns.x] %}"),
        growing("[0]", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}", "ns.x | tojson"),
        growing("[0]", "{% set ns.x = [ns.x, ns.x] %}", "ns.x | upper"),
        growing("[0]", "{% set ns.x = [ns.x, ns.x] %}", "'%s' % ns.x"),
        growing("[0]", "{% set ns.x = [ns.x, ns.x] %}", "'{}'.format(ns.x)"),
    ],
)
def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(template_engine, "MAX_STEPS", 5000)
    assert "more than 5000 loop rounds and calls" in refusal(source)


def test_an_ordinary_long_chat_is_far_from_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_engine, "MAX_STEPS", 20_000)
    messages = [{"role": "user", "content": "x" * 2000}] * 1000
    source = "{% for m in messages %}{{ m.role.upper() ~ ': ' + m.content | trim }}{% if not loop.last %}, {% endif %}"
    text = ChatTemplate(source + "{% endfor %}", bos_token=None, eos_token=None).render(messages)
    assert len(text) == 1000 * (4 + 2 + 2000 + 2) - 2


@pytest.mark.parametrize("name", ["batch", "center", "slice", "wordwrap", "xmlattr"])
def test_filters_that_pad_do_not_exist(name: str) -> None:
    with pytest.raises(ModelError, match=f"No filter named '{name}'"):
        render(f"{{{{ 'x' | {name}(10**10) }}}}")


@given(
    source=st.lists(st.sampled_from(["{{ ", "x", " }}", "{% if x %}", "{% endif %}", "(", "'", "[0]", ".y", "|list"]))
)
def test_whatever_a_template_says_only_our_errors_come_out(source: list[str]) -> None:
    try:
        assert isinstance(render("".join(source), x=3), str)
    except (ModelError, TemplateError):
        pass
