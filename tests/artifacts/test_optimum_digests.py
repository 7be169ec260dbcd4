"""Digests are those of optimum-neuron 0.4.5; `reference/make_optimum_digests.py` computed them with its functions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optimum_configs import CASES, NEURON
from ranvier.artifacts.optimum import (
    arch_digest,
    architecture,
    covered_types,
    entry_digest,
    entry_text,
    export_digests,
    lookup_digest,
    name_folder,
    registry_folder,
)
from ranvier.errors import ArtifactError

STORED = json.loads((Path(__file__).parent / "data" / "optimum_digests.json").read_text(encoding="utf-8"))


def exported(name: str) -> dict[str, object]:
    """The architecture as a float16 export writes it."""
    fields = architecture(CASES[name])
    if fields.get("head_dim", 0) is None:
        fields["head_dim"] = int(str(fields["hidden_size"])) // int(str(fields["num_attention_heads"]))
    return {**fields, "dtype": "float16"}


def test_the_stored_results_are_of_these_cases_and_versions() -> None:
    assert STORED["cases"].keys() == CASES.keys()
    assert (STORED["optimum-neuron"], STORED["transformers"]) == ("0.4.5", "4.57.6")


@pytest.mark.parametrize("name", CASES)
def test_the_folder_that_is_looked_in_is_optimum_neurons(name: str) -> None:
    assert lookup_digest(CASES[name]) == STORED["cases"][name]["arch_digest"]


@pytest.mark.parametrize("name", CASES)
def test_the_task_is_part_of_the_digest(name: str) -> None:
    assert arch_digest(architecture(CASES[name]), "feature-extraction") == STORED["cases"][name]["feature_digest"]


@pytest.mark.parametrize("name", CASES)
def test_the_folder_that_an_export_in_another_type_writes_is_looked_in_too(name: str) -> None:
    assert STORED["cases"][name]["float16_digest"] in export_digests(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_an_entrys_name_is_the_digest_of_its_text(name: str) -> None:
    text = entry_text(exported(name), NEURON, "org/model")
    assert entry_digest(text) == STORED["cases"][name]["entry_digest"]


@pytest.mark.parametrize("name", CASES)
def test_a_models_entries_by_name_are_under_its_text_parts_type(name: str) -> None:
    folder = name_folder(architecture(CASES[name]), "org/model")
    assert folder == f"{STORED['cases'][name]['model_type']}/org/model"


def test_the_registry_is_below_the_compilers_folder() -> None:
    assert registry_folder("neuronxcc-2.21.33363.0+82129205", "0.4.5") == STORED["registry_path"]


def test_defaults_spelled_out_or_left_out_make_no_difference() -> None:
    assert lookup_digest(CASES["llama"]) == lookup_digest(CASES["llama, defaults left out"])


def test_end_tokens_make_no_difference() -> None:
    assert lookup_digest(CASES["llama"]) == lookup_digest(CASES["llama, other end token"])


def test_both_names_of_the_type_are_one_field_that_matters() -> None:
    assert lookup_digest(CASES["llama"]) == lookup_digest(CASES["llama, dtype"])
    assert lookup_digest(CASES["llama"]) != lookup_digest(CASES["llama, no type"])


def test_the_folder_that_optimum_neuron_looks_in_is_the_first_and_none_is_twice() -> None:
    for config in CASES.values():
        digests = export_digests(config)
        assert digests[0] == lookup_digest(config)
        assert len(set(digests)) == len(digests)


def test_an_unset_head_width_adds_the_folder_that_exports_write() -> None:
    """optimum-neuron sets it when it exports and not when it looks, so it never finds such entries itself."""
    fields = architecture(CASES["mixtral"])
    assert fields["head_dim"] is None
    assert arch_digest({**fields, "head_dim": 128}) in export_digests(CASES["mixtral"])
    assert arch_digest({**fields, "head_dim": 128}) != lookup_digest(CASES["mixtral"])


def test_a_config_is_left_as_it_was() -> None:
    before = json.dumps(CASES["phi3, su"])
    lookup_digest(CASES["phi3, su"])
    assert json.dumps(CASES["phi3, su"]) == before


def test_every_covered_type_has_a_case() -> None:
    assert {str(config["model_type"]) for config in CASES.values()} == set(covered_types())


@pytest.mark.parametrize("model_type", ["mistral", "gpt2", None, 3])
def test_a_type_that_optimum_neuron_has_not_is_refused_with_those_it_has(model_type: object) -> None:
    with pytest.raises(ArtifactError, match=r"`model_type` is .*granite, llama, llama4, llama4_text, mixtral, phi3"):
        lookup_digest({"model_type": model_type})


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "num_attention_heads": 0},
        {"model_type": "llama", "hidden_size": "big"},
        {"model_type": "qwen2", "num_hidden_layers": None},
        {"model_type": "smollm3", "no_rope_layers": 3},
        {"model_type": "llama", "id2label": ["a"]},
        {"model_type": "llama", "num_labels": "two"},
    ],
)
def test_a_config_that_its_class_cannot_take_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match=rf"config.json: cannot be read as a {config['model_type']} config"):
        lookup_digest(config)
