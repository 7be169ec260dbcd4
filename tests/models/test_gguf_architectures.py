"""Each GGUF architecture gives back the checkpoint that its converter was given: the decoder and every tensor."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranvier.errors import ModelError
from ranvier.models import refused_families, spec_of, supported_families
from ranvier.models.families import family_of
from ranvier.models.gguf_architectures import ARCHITECTURES
from ranvier.models.gguf_file import GgufCheckpoint
from ranvier.models.spec import DecoderSpec
from ranvier.models.weights import Dense, Int4, Int8, dequantize
from tiny_ggufs import GGUF_CASES, GgufCase, write_family_gguf

GEMMA3, PHI3, LLAMA, OLMO2 = (GGUF_CASES[name] for name in ("gemma3", "phi3", "llama", "olmo2"))


def opened(folder: Path, case: GgufCase, kind: str = "F32", **metadata: Any) -> GgufCheckpoint:
    return GgufCheckpoint(write_family_gguf(folder / f"{kind}.gguf", case, kind, **metadata))


def refused(folder: Path, case: GgufCase, **metadata: Any) -> str:
    with pytest.raises(ModelError) as caught:
        opened(folder, case, **metadata)
    return str(caught.value)


def pattern(spec: DecoderSpec) -> DecoderSpec:
    """The spec with one entry for each layer, so that patterns of different lengths compare."""
    return dataclasses.replace(spec, layers=tuple(spec.layer(index) for index in range(spec.num_layers)))


@pytest.mark.parametrize("name", GGUF_CASES)
def test_metadata_describes_the_decoder_of_the_checkpoint(tmp_path: Path, name: str) -> None:
    case = GGUF_CASES[name]
    found, wanted = pattern(spec_of(opened(tmp_path, case).config)), pattern(spec_of(case.config()))
    if case.architecture == "falcon":
        wanted = dataclasses.replace(wanted, max_positions=2048)
    for layer, expected in zip(found.layers, wanted.layers, strict=True):
        assert (layer.window, layer.rope is None) == (expected.window, expected.rope is None)
        if layer.rope is not None and expected.rope is not None:
            for length in (8, 256):
                assert layer.rope.inverse_frequencies(length) == pytest.approx(
                    expected.rope.inverse_frequencies(length), rel=1e-6
                )
            assert layer.rope.magnitude == pytest.approx(expected.rope.magnitude, rel=1e-6)
    assert dataclasses.replace(found, layers=()) == dataclasses.replace(wanted, layers=())


@pytest.mark.parametrize("name", GGUF_CASES)
def test_tensors_have_the_names_and_values_of_the_checkpoint(tmp_path: Path, name: str) -> None:
    case = GGUF_CASES[name]
    checkpoint, wanted = opened(tmp_path, case), case.weights()
    family = family_of(checkpoint.config)
    there = frozenset(wanted)
    for ours, source in family.as_saved(family.weight_names(spec_of(checkpoint.config)), there).items():
        full = family.weight_names(spec_of(checkpoint.config))[ours].name
        np.testing.assert_allclose(dequantize(checkpoint.read(full)), wanted[source.name], rtol=0, atol=1e-6)
    needed = {source.name for source in family.weight_names(spec_of(checkpoint.config)).values()}
    assert checkpoint.names() == needed


@pytest.mark.parametrize("name", ["granite", "falcon_groups", "gemma3", "qwen2"])
@pytest.mark.parametrize(("kind", "form"), [("Q8_0", Int8), ("Q4_0", Int4)])
def test_moving_rows_keeps_codes(tmp_path: Path, name: str, kind: str, form: type) -> None:
    case = GGUF_CASES[name]
    checkpoint, plain = opened(tmp_path, case, kind), opened(tmp_path, case)
    family = family_of(checkpoint.config)
    name = family.weight_names(spec_of(checkpoint.config))["layers.1.q"].name
    weight, values = checkpoint.read(name), dequantize(plain.read(name))

    assert isinstance(weight, form)
    error = np.abs(dequantize(weight) - values).max() / np.abs(values).max()
    assert error < (0.01 if kind == "Q8_0" else 0.15)


def test_turning_a_matrix_round_gives_its_codes_up(tmp_path: Path) -> None:
    assert isinstance(opened(tmp_path, GGUF_CASES["gpt2"], "Q8_0").read("transformer.h.0.mlp.c_fc.weight"), Dense)


def test_every_family_and_architecture_has_a_file_among_the_cases() -> None:
    assert {case.architecture for case in GGUF_CASES.values()} == set(ARCHITECTURES)
    assert {case.config()["model_type"] for case in GGUF_CASES.values()} == set(supported_families())


@pytest.mark.parametrize("model_type", supported_families())
def test_families_name_an_architecture_that_is_read_as_them(model_type: str) -> None:
    given = {case.architecture for case in GGUF_CASES.values() if case.config()["model_type"] == model_type}

    assert given == {family_of({"model_type": model_type}).gguf_architecture}


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("gemma2", f" ({refused_families()['gemma2']})"),
        ("qwen3moe", f" ({refused_families()['qwen3_moe']})"),
        ("gpt-oss", f" ({refused_families()['gpt_oss']})"),
        ("mamba", ""),
    ],
)
def test_other_architectures_are_refused_by_name_and_with_the_reason_where_one_is_known(
    tmp_path: Path, architecture: str, reason: str
) -> None:
    path = write_family_gguf(tmp_path / "model.gguf", LLAMA)
    data = path.read_bytes()
    old, new = (len(name).to_bytes(8, "little") + name.encode() for name in ("llama", architecture))
    # The architecture is the first value. What follows moves, and the metadata's end is padded to 32 bytes.
    changed = data.replace(old, new, 1)
    path.write_bytes(changed + bytes(64))
    with pytest.raises(ModelError) as caught:
        GgufCheckpoint(path)

    assert str(caught.value) == (
        f"model.gguf: architecture {architecture!r} is not supported{reason}; "
        "supported: falcon, gemma, gemma3, gpt2, gptneox, granite, llama, olmo2, phi3, qwen2, qwen3, smollm3, "
        "starcoder2"
    )


def test_gemma_3_with_27_billion_parameters_scales_by_its_width(tmp_path: Path) -> None:
    config = opened(tmp_path, GEMMA3, block_count=62, attention__head_count=2).config

    assert config["query_pre_attn_scalar"] == 32


def test_gemma_3_without_a_window_is_global_throughout(tmp_path: Path) -> None:
    spec = spec_of(opened(tmp_path, GEMMA3, attention__sliding_window=None).config)

    assert [layer.window for layer in pattern(spec).layers] == [None] * 4


def test_gemma_3_with_a_soft_cap_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, GEMMA3, final_logit_softcapping=30.0) == (
        "config.json: `final_logit_softcapping` is 30.0, which is not supported; use null"
    )


def test_the_successor_of_olmo_2_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, OLMO2, attention__sliding_window=4096) == (
        "F32.gguf: `olmo2.attention.sliding_window` 4096 is not supported; "
        "supported: 0: OLMo 2, and not its successor with windows"
    )


def test_factors_without_a_magnitude_have_the_usual_one(tmp_path: Path) -> None:
    case = GGUF_CASES["phi3_long"]
    rope = spec_of(opened(tmp_path, case, rope__scaling__attn_factor=None).config).layers[0].rope
    wanted = spec_of(case.config()).layers[0].rope

    assert rope is not None and wanted is not None
    assert rope.magnitude == pytest.approx(wanted.magnitude)


@pytest.mark.parametrize("key", ["attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier"])
def test_yarn_with_settings_of_its_own_is_refused(tmp_path: Path, key: str) -> None:
    message = refused(tmp_path, GGUF_CASES["llama_yarn"], **{f"rope__scaling__{key}": 0.5})

    assert message.startswith(f"F32.gguf: `llama.rope.scaling.{key}` 0.5 is not supported; supported: ")


def test_granite_without_an_attention_scale_has_the_usual_one(tmp_path: Path) -> None:
    spec = spec_of(opened(tmp_path, GGUF_CASES["granite"], attention__scale=None).config)

    assert spec.attention.scale == pytest.approx(16**-0.5)


@pytest.mark.parametrize(("rotated", "head_dim"), [(18, 24), (72, 96), (96, 128), (22, 64)])
def test_the_rotated_part_comes_back_whole(tmp_path: Path, rotated: int, head_dim: int) -> None:
    config = opened(tmp_path, PHI3, rope__dimension_count=rotated, attention__key_length=head_dim).config
    rope = spec_of(config).layers[0].rope

    assert rope is not None
    assert rope.rotary_dim == rotated
