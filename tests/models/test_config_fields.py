"""Reading typed values out of a `config.json`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.errors import ModelError
from ranvier.models.config_fields import ConfigFields

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
READERS: dict[str, Callable[[ConfigFields], object]] = {
    "integer": lambda fields: fields.integer("x"),
    "number": lambda fields: fields.number("x"),
    "numbers": lambda fields: fields.numbers("x", 1),
    "boolean": lambda fields: fields.boolean("x", False),
    "text": lambda fields: fields.text("x", ""),
    "section": lambda fields: fields.section("x"),
}
GOOD: dict[str, Callable[[Any], bool]] = {
    "integer": lambda value: type(value) is int and value > 0,
    "number": lambda value: type(value) is float and 0 < value < math.inf,
    "numbers": lambda value: type(value) is tuple and all(0 < item < math.inf for item in value),
    "boolean": lambda value: type(value) is bool,
    "text": lambda value: type(value) is str,
    "section": lambda value: isinstance(value, ConfigFields),
}


@pytest.mark.parametrize("reader", READERS)
@given(value=json_values)
def test_any_value_is_either_read_as_its_type_or_refused(reader: str, value: object) -> None:
    try:
        result = READERS[reader](ConfigFields({"x": value}))
    except ModelError as error:
        assert str(error).startswith("config.json: `x` ")
    else:
        assert GOOD[reader](result)


def test_values_are_read() -> None:
    fields = ConfigFields({"i": 3, "n": 2, "f": 0.5, "l": [1, 2.5], "b": True, "t": "silu", "s": {"x": 1}})

    assert fields.integer("i") == 3
    assert (fields.number("n"), fields.number("f")) == (2.0, 0.5)
    assert fields.numbers("l", 2) == (1.0, 2.5)
    assert fields.boolean("b", False) is True
    assert fields.text("t", "gelu") == "silu"
    assert fields.section("s").integer("x") == 1


@pytest.mark.parametrize("values", [{}, {"x": None}])
def test_null_counts_as_absent(values: dict[str, object]) -> None:
    fields = ConfigFields(values)

    assert fields.integer("x", 7) == 7
    assert fields.number("x", 0.5) == 0.5
    assert fields.boolean("x", True) is True
    assert fields.text("x", "silu") == "silu"
    assert fields.section("x").values == {}
    for reader in ("integer", "number", "numbers"):
        with pytest.raises(ModelError) as caught:
            READERS[reader](fields)
        assert str(caught.value) == "config.json: `x` is missing"


@pytest.mark.parametrize(
    ("reader", "value", "wanted"),
    [
        ("integer", 0, "a whole number above 0"),
        ("integer", -3, "a whole number above 0"),
        ("integer", True, "a whole number above 0"),
        ("integer", 2.0, "a whole number above 0"),
        ("number", 0.0, "a number above 0"),
        ("number", math.inf, "a number above 0"),
        ("number", math.nan, "a number above 0"),
        ("number", True, "a number above 0"),
        ("numbers", 1.0, "a list of 1 numbers above 0"),
        ("numbers", ["1"], "a list of 1 numbers above 0"),
        ("numbers", [-1.0], "a list of 1 numbers above 0"),
        ("numbers", [math.nan], "a list of 1 numbers above 0"),
        ("numbers", [1.0, 2.0], "a list of 1 numbers above 0"),
        ("numbers", [], "a list of 1 numbers above 0"),
        ("numbers", [True], "a list of 1 numbers above 0"),
        ("boolean", 0, "true or false"),
        ("boolean", "true", "true or false"),
        ("text", 1, "a string"),
        ("section", [], "an object"),
    ],
)
def test_a_value_of_another_type_is_refused(reader: str, value: object, wanted: str) -> None:
    with pytest.raises(ModelError) as caught:
        READERS[reader](ConfigFields({"x": value}))
    assert str(caught.value) == f"config.json: `x` must be {wanted}. Given: {value!r}"


def test_a_nested_field_is_named_with_its_path() -> None:
    inner = ConfigFields({"a": {"b": {"c": "no"}}}).section("a").section("b")
    with pytest.raises(ModelError) as caught:
        inner.integer("c")
    assert str(caught.value) == "config.json: `a.b.c` must be a whole number above 0. Given: 'no'"


def test_one_value_can_be_required() -> None:
    ConfigFields({}).require_value("hidden_act", "silu")
    ConfigFields({"hidden_act": "silu"}).require_value("hidden_act", "silu")
    with pytest.raises(ModelError) as caught:
        ConfigFields({"hidden_act": "relu"}).require_value("hidden_act", "silu")
    assert str(caught.value) == "config.json: `hidden_act` is 'relu', which is not supported; use silu"
