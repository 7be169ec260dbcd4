"""neuron_config.json of optimum-neuron 0.3 and 0.4, and what contradicts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optimum_entries import neuron
from ranvier.artifacts.optimum import (
    OptimumConfig,
    Wish,
    check_wish,
    is_optimum_model,
    parse_optimum_config,
    read_optimum_config,
)
from ranvier.errors import ArtifactError

OLD_FIELDS = {
    "rpl_reduce_dtype": "bfloat16",
    "padding_side": "right",
    "vocab_parallel": False,
    "is_chunked_prefill": False,
    "flash_decoding_enabled": False,
    "async_mode": False,
    "logical_nc_config": 1,
    "num_cores_per_group": 1,
}
"""Some that 0.3.0 wrote besides."""


def put(folder: Path, document: object, name: str = "neuron_config.json") -> Path:
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def config(**changes: object) -> OptimumConfig:
    return parse_optimum_config(neuron(**changes), "here")


def test_a_file_of_0_4_is_read(tmp_path: Path) -> None:
    found = read_optimum_config(put(tmp_path, neuron(tp_degree=4, pp_degree=2, fused_qkv=True)))
    assert (found.batch_size, found.max_batch_size, found.sequence_length, found.max_context_length) == (
        4,
        4,
        4096,
        4096,
    )
    assert (found.tp_degree, found.world_size, found.target) == (4, 8, "trn1")
    assert (found.auto_cast_type, found.dtype) == ("bf16", "bfloat16")
    assert (found.continuous_batching, found.on_device_sampling, found.max_topk) == (True, True, 256)
    assert (found.output_logits, found.speculation_length, found.prefill_chunk_size) == (False, 0, 0)
    assert found.checkpoint_id == "org/model" and str(found.checkpoint_revision).startswith("0123")
    assert (found.neuronxcc_version, found.optimum_neuron_version) == ("2.21.33363.0+82129205", "0.4.5")


def test_a_file_of_0_3_is_read_and_its_other_fields_are_kept(tmp_path: Path) -> None:
    document = neuron(optimum_neuron_version="0.3.0", neuronxcc_version="2.19.8089.0+8ab9f450", **OLD_FIELDS)
    found = read_optimum_config(put(tmp_path, document))
    assert OLD_FIELDS.items() <= found.unknown.items()
    assert "batch_size" not in found.unknown and "_serialized_key" not in found.unknown


def test_fields_that_are_missing_have_optimum_neurons_defaults() -> None:
    found = parse_optimum_config(
        {"_serialized_key": "NxDNeuronConfig", "optimum_neuron_version": "0.4.0", "neuronxcc_version": "2.21"}, "here"
    )
    assert (found.batch_size, found.sequence_length, found.max_context_length, found.tp_degree) == (1, 128, 128, 1)
    assert (found.auto_cast_type, found.target, found.on_device_sampling) == ("bf16", None, False)
    assert found.unknown == {}


@pytest.mark.parametrize(
    ("changes", "cast_type"),
    [
        ({"torch_dtype": "float16"}, "fp16"),
        ({"torch_dtype": "torch.float32"}, "fp32"),
        ({"torch_dtype": "bf16"}, "bf16"),
        ({"torch_dtype": None, "dtype": "float16"}, "fp16"),
        ({"torch_dtype": "bfloat16", "auto_cast_type": "fp16"}, "fp16"),
    ],
)
def test_every_spelling_of_the_type_is_known(changes: dict[str, object], cast_type: str) -> None:
    found = config(**changes)
    assert found.auto_cast_type == cast_type
    assert not {"torch_dtype", "dtype", "auto_cast_type"} & found.unknown.keys()


@pytest.mark.parametrize(("continuous", "rows"), [(True, 1), (False, 4)])
def test_continuous_batching_prefills_one_row(continuous: bool, rows: int) -> None:
    assert config(continuous_batching=continuous).prefill_batch_size == rows


@pytest.mark.parametrize(
    ("cores", "target", "devices"), [(1, "trn1", 1), (2, "trn1", 1), (3, None, 2), (8, "trn1", 4), (8, "trn2", 2)]
)
def test_devices_follow_from_cores(cores: int, target: str | None, devices: int) -> None:
    assert config(tp_degree=cores, target=target).num_devices == devices


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number from 1 to 2147483647. Given: 0"),
        ({"batch_size": 10**12}, "`batch_size` must be a whole number from 1 to 2147483647. Given: 1000000000000"),
        ({"batch_size": True}, "`batch_size` must be a whole number from 1 to 2147483647. Given: true"),
        ({"sequence_length": "4096"}, '`sequence_length` must be a whole number from 1 to 2147483647. Given: "4096"'),
        ({"max_context_length": 5000}, "`max_context_length` must be a whole number up to `sequence_length`, which is"),
        ({"torch_dtype": "int8"}, '`torch_dtype` must be one of bfloat16, float16, float32. Given: "int8"'),
        ({"on_device_sampling": 1}, "`on_device_sampling` must be true or false. Given: 1"),
        ({"speculation_length": -1}, "`speculation_length` must be a whole number from 0 to 2147483647. Given: -1"),
        ({"target": 2}, "`target` must be text. Given: 2"),
        ({"_serialized_key": None}, "`_serialized_key` is missing, so optimum-neuron older than 0.3 wrote it"),
        ({"_serialized_key": "NxDVLMNeuronConfig"}, "`_serialized_key` is `NxDVLMNeuronConfig`, and only `NxDNeuron"),
        ({"optimum_neuron_version": None}, "`optimum_neuron_version` is missing"),
        ({"optimum_neuron_version": "0.2.1"}, "`optimum_neuron_version` is 0.2.1, and 0.3 and 0.4 are read"),
        ({"optimum_neuron_version": "0.30.0"}, "`optimum_neuron_version` is 0.30.0, and 0.3 and 0.4 are read"),
        ({"neuronxcc_version": None}, "`neuronxcc_version` is missing"),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_the_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        config(**changes)
    assert str(caught.value).startswith("here: ") and message in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ArtifactError, match=r"neuron_config\.json: (not JSON|no JSON object)"):
        read_optimum_config(put(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert not is_optimum_model(tmp_path)
    with pytest.raises(ArtifactError, match=r"cannot read .*neuron_config\.json: No such file"):
        read_optimum_config(tmp_path)


def test_a_traced_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path, {"model_type": "bert", "neuron": {"task": "fill-mask"}}, "config.json")
    assert is_optimum_model(tmp_path)
    with pytest.raises(ArtifactError, match=r"a traced model \(`neuron` inside config\.json\)"):
        read_optimum_config(tmp_path)


def test_a_plain_checkpoint_is_no_export(tmp_path: Path) -> None:
    assert not is_optimum_model(put(tmp_path, {"model_type": "llama"}, "config.json"))
    assert not is_optimum_model(put(tmp_path, "{", "config.json"))
    assert is_optimum_model(put(tmp_path, neuron()))


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        ({"batch_size": 4}, {"batch_size": 8}, "HERE is 8, and `batch_size` of the exported model is 4; lower it to 4"),
        ({}, {"sequence_length": 8192}, "HERE is 8192, and `sequence_length` of the exported model is 4096; lower it"),
        ({"max_context_length": 1024}, {"max_input_tokens": 1025}, "HERE is 1025, and `max_context_length` of the exp"),
        ({}, {"max_input_tokens": 4096}, "HERE is 4096, and `sequence_length` of the exported model is 4096, which le"),
        (
            {},
            {"num_cores": 8},
            "HERE is 8, and `tp_degree` of the exported model is 2; use 2, or export the model for 8",
        ),
        ({}, {"num_cores": 1}, "HERE is 1, and `tp_degree` of the exported model is 2; use 2"),
        ({}, {"auto_cast_type": "fp16"}, "HERE is fp16, and `torch_dtype` of the exported model is bf16; use bf16"),
        ({}, {"target": "trn2"}, "HERE is trn2, and `target` of the exported model is trn1; use trn1"),
        (
            {},
            {"compiler_version": "2.19.8089.0"},
            "HERE is 2.19.8089.0, and `neuronxcc_version` of the exported model is 2",
        ),
        (
            {},
            {"optimum_version": "0.4.4"},
            "HERE is 0.4.4, and `optimum_neuron_version` of the exported model is 0.4.5",
        ),
        (
            {"tp_degree": 6},
            {"available_cores": 2},
            "`tp_degree` of the exported model is 6 NeuronCores, and HERE is 2; take a host with 3 Neuron devices, or "
            "expose 3 devices to the container: --device=/dev/neuron0 --device=/dev/neuron1 --device=/dev/neuron2",
        ),
        (
            {"tp_degree": 2},
            {"available_cores": 0},
            "take a host with 1 Neuron device, or expose 1 device to the container: --device=/dev/neuron0",
        ),
    ],
)
def test_what_contradicts_an_export_is_refused_with_both_values(
    changes: dict[str, object], asked: dict[str, object], message: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        check_wish(config(**changes), Wish(**asked, sources=dict.fromkeys(asked, "HERE")))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_value_without_a_source_goes_by_its_fields_name() -> None:
    with pytest.raises(ArtifactError, match="`batch_size` is 9, and"):
        check_wish(config(), Wish(batch_size=9))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"batch_size": 1, "sequence_length": 128, "max_input_tokens": 64},
        {"batch_size": 4, "sequence_length": 4096, "max_input_tokens": 4095},
        {"num_cores": 2, "auto_cast_type": "bf16", "target": "trn1", "available_cores": 2},
        {"available_cores": 24, "compiler_version": "2.21.33363.0", "optimum_version": "0.4.5"},
    ],
)
def test_what_an_export_can_do_is_accepted(asked: dict[str, object]) -> None:
    check_wish(config(), Wish(**asked))  # type: ignore[arg-type]


def test_an_export_that_names_no_target_fits_any() -> None:
    check_wish(config(target=None), Wish(target="trn2"))
