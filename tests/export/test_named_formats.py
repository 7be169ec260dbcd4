"""TGI's names of weight formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ranvier.artifacts import ModelSource
from ranvier.compose.formats import check_format, our_format
from ranvier.errors import OptionError


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("int4", "int4"),
        ("eetq", "int8"),
        ("bitsandbytes", "int8"),
        ("gptq", "auto"),
        ("awq", "auto"),
        ("fp8", "auto"),
        ("compressed-tensors", "auto"),
    ],
)
def test_a_name_stands_for_one_of_ours(name: str, ours: str) -> None:
    assert our_format(name) == ours


def checkpoint(directory: Path, config: object) -> ModelSource:
    (directory / "config.json").write_text(json.dumps(config))
    return ModelSource("checkpoint", directory, "some/model")


def test_a_checkpoint_in_the_format_named_is_taken(tmp_path: Path) -> None:
    check_format("gptq", checkpoint(tmp_path, {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    check_format("int8", checkpoint(tmp_path, {}))


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, "its weights are not quantized"),
        ([1], "its weights are not quantized"),
        ({"quantization_config": {"quant_method": "awq"}}, "its weights are written as awq"),
    ],
)
def test_a_checkpoint_in_another_format_is_refused(tmp_path: Path, config: object, found: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_format("gptq", checkpoint(tmp_path, config))
    assert str(caught.value) == (
        f"`quantize` gptq is for checkpoints in that format, and of some/model {found}; "
        "leave the option out, or give `int8` or `int4` to round them"
    )


def test_a_gguf_file_is_in_none_of_these_formats(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="its weights are not quantized"):
        check_format("awq", ModelSource("gguf", tmp_path / "m.gguf", "m"))
