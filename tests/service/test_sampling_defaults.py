"""Defaults of `generation_config.json`, where the operator wants them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ranvier.core import Capabilities
from ranvier.errors import ModelError
from ranvier.service import GenerateParameters
from ranvier.service.defaults import SamplingDefaults, read_sampling_defaults
from serving import END, PlayingEngine, make_service, model_text

QWEN = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05, "eos_token_id": [1, 2]}


def written(directory: Path, values: dict[str, Any]) -> Path:
    (directory / "generation_config.json").write_text(json.dumps(values))
    return directory


def test_they_are_read_from_the_models_file(tmp_path: Path) -> None:
    expected = SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05)
    assert read_sampling_defaults(written(tmp_path, QWEN)) == expected


def test_without_a_file_or_with_neutral_values_all_are_off(tmp_path: Path) -> None:
    assert read_sampling_defaults(tmp_path) == SamplingDefaults()
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "typical_p": 1, "repetition_penalty": 1, "do_sample": True}
    assert read_sampling_defaults(written(tmp_path, neutral)) == SamplingDefaults()


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1), ("temperature", "hot"), ("top_k", 2.5), ("top_k", True), ("top_p", 1.5), ("typical_p", -0.1)],
)
def test_a_bad_value_is_named_with_its_file(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ModelError) as caught:
        read_sampling_defaults(written(tmp_path, {name: value}))
    path = tmp_path / "generation_config.json"
    assert str(caught.value) == (
        f"{path}: `{name}` cannot be {value!r}; correct it, or give `--sampling-defaults none`"
    )


DEFAULTS = SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05)


def test_a_request_that_samples_gets_what_it_leaves_open() -> None:
    parameters = DEFAULTS.applied(GenerateParameters(do_sample=True, top_k=5))
    assert (parameters.temperature, parameters.top_k, parameters.top_p) == (0.6, 5, 0.95)
    assert (parameters.typical_p, parameters.repetition_penalty) == (None, 1.05)


def test_a_greedy_request_stays_greedy() -> None:
    for greedy in (GenerateParameters(), GenerateParameters(is_greedy=True, top_p=0.5)):
        parameters = DEFAULTS.applied(greedy)
        assert not parameters.samples
        assert (parameters.temperature, parameters.repetition_penalty) == (None, 1.05)


@pytest.mark.parametrize("with_defaults", [True, False])
def test_the_engine_is_asked_with_them(with_defaults: bool) -> None:
    async def main() -> None:
        engine = PlayingEngine([97, END])
        text = replace(model_text(), sampling_defaults=DEFAULTS if with_defaults else None)
        service = make_service(engine, text=text)
        await service.generate("a", GenerateParameters(do_sample=True))
        sampling = engine.requests[0].sampling
        expected = (0.6, 20, 0.95, 1.05) if with_defaults else (1.0, 0, 1.0, 1.0)
        assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty) == expected

    asyncio.run(main())


def test_what_an_engine_cannot_do_is_dropped_by_name() -> None:
    can = Capabilities(
        mixed_steps=False,
        chunk_multiple=0,
        prefix_sharing=False,
        parameters=frozenset({"temperature", "top_k", "top_p"}),
        max_top_k=256,
    )
    kept, dropped = replace(DEFAULTS, typical_p=0.9).honoured_by(can)
    assert kept == SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95)
    assert dropped == ("typical_p", "repetition_penalty")
    assert SamplingDefaults(top_k=300).honoured_by(can) == (SamplingDefaults(), ("top_k",))
    assert SamplingDefaults(top_k=256).honoured_by(can) == (SamplingDefaults(top_k=256), ())
    assert kept.honoured_by(replace(can, parameters=frozenset())) == (
        SamplingDefaults(),
        ("temperature", "top_k", "top_p"),
    )
