"""The door to optimum-neuron: what is checked before it opens, and the calls that go through.

The library and torch are stand-ins with the signatures of 0.4.5; nothing here has met a device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ranvier.core import Chunk, SamplingParams, SamplingRow, StepPlan
from ranvier.errors import ArtifactError, ModelError, SetupError
from ranvier.targets.nxd import NxdPrograms, load_optimum
from ranvier.targets.nxd.versions import PYTHON_PINS

COMPILER = "2.21.33363.0+82129205"
INSTALLED = dict(PYTHON_PINS) | {"python": "3.11.9", "neuronx-cc": COMPILER}
VOCAB = 30
NEURON_CONFIG = {
    "_serialized_key": "NxDNeuronConfig",
    "optimum_neuron_version": "0.4.5",
    "neuronxcc_version": COMPILER,
    "batch_size": 2,
    "sequence_length": 16,
    "max_context_length": 8,
    "continuous_batching": True,
    "on_device_sampling": False,
}


class Tensor:
    """What of a torch tensor is used. A bfloat16 one cannot become an array."""

    def __init__(self, values: Any, *, is_bfloat16: bool = False) -> None:
        self.values, self.is_bfloat16 = values, is_bfloat16

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def is_floating_point(self) -> bool:
        return bool(np.issubdtype(self.values.dtype, np.floating))

    def float(self) -> Tensor:
        return Tensor(self.values.astype(np.float32))

    def numpy(self) -> Any:
        assert not self.is_bfloat16, "Got unsupported ScalarType BFloat16"
        return self.values


class Library:
    """`NeuronModelForCausalLM`: the loaded directories, the calls, what is given back."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.loaded: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.has_gradients = True

    def from_pretrained(self, model_id: str, revision: str | None = None, token: str | None = None) -> Library:
        self.loaded.append(model_id)
        return self

    def forward(self, input_ids: Tensor, position_ids: Tensor, seq_ids: Tensor, sampling_params: Tensor) -> Any:
        return self._note("forward", locals())

    def prefill_chunk(self, input_ids: Tensor, position_ids: Tensor, seq_ids: Tensor, sampling_params: Tensor) -> Any:
        return self._note("prefill_chunk", locals())

    def _note(self, name: str, given: dict[str, Any]) -> Any:
        assert not self.has_gradients
        self.calls.append((name, {key: value.values for key, value in given.items() if key != "self"}))
        return self.result


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the stand-ins where an import finds them."""

    def installed(result: Any) -> Library:
        library = Library(result)
        torch, optimum, neuron = (ModuleType(name) for name in ("torch", "optimum", "optimum.neuron"))

        @contextmanager
        def inference_mode() -> Iterator[None]:
            library.has_gradients = False
            yield
            library.has_gradients = True

        torch.from_numpy, torch.inference_mode = Tensor, inference_mode  # type: ignore[attr-defined]  # a stand-in
        neuron.NeuronModelForCausalLM = library  # type: ignore[attr-defined]  # a stand-in
        for module in (torch, optimum, neuron):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        return library

    return installed


def artifact(folder: Path, **changes: Any) -> Path:
    (folder / "neuron_config.json").write_text(json.dumps(NEURON_CONFIG | changes), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"vocab_size": VOCAB}), encoding="utf-8")
    (folder / "model.pt").write_bytes(b"graphs")
    return folder


def call(num_rows: int, width: int) -> tuple[Any, ...]:
    rows = np.arange(num_rows * width, dtype=np.int64).reshape(num_rows, width)
    return rows, rows, np.arange(num_rows, dtype=np.int64), np.ones((num_rows, 3), np.float64)


def test_a_directory_is_loaded_by_the_library_and_described_by_its_own_files(tmp_path: Path, install: Any) -> None:
    library = install(None)
    model = load_optimum(artifact(tmp_path), installed=INSTALLED)
    assert library.loaded == [str(tmp_path)]
    assert (model.shape.batch_size, model.shape.max_context_length, model.shape.vocab_size) == (2, 8, VOCAB)
    assert model.details == {"optimum-neuron": "0.4.5", "neuronx-cc": COMPILER}


@pytest.mark.parametrize("width", [1, 5])
def test_a_call_has_the_librarys_names_and_32_bit_tensors(tmp_path: Path, install: Any, width: int) -> None:
    library = install(Tensor(np.zeros((2, 1, VOCAB), np.float32)))
    model = load_optimum(artifact(tmp_path), installed=INSTALLED)
    logits = model.forward(*call(2, width))
    assert logits.shape == (2, 1, VOCAB)
    ((name, given),) = library.calls
    assert name == "forward"
    assert {key: value.dtype for key, value in given.items()} == {
        "input_ids": np.int32,
        "position_ids": np.int32,
        "seq_ids": np.int32,
        "sampling_params": np.float32,
    }
    assert given["input_ids"].shape == given["position_ids"].shape == (2, width)
    assert given["seq_ids"].tolist() == [0, 1] and given["sampling_params"].shape == (2, 3)
    assert library.has_gradients


def test_logits_in_bfloat16_arrive_as_float32(tmp_path: Path, install: Any) -> None:
    install(Tensor(np.ones((2, 1, VOCAB), np.float16), is_bfloat16=True))
    assert load_optimum(artifact(tmp_path), installed=INSTALLED).forward(*call(2, 1)).dtype == np.float32


def test_tokens_arrive_as_they_are(tmp_path: Path, install: Any) -> None:
    install(Tensor(np.array([3, 4], np.int64)))
    model = load_optimum(artifact(tmp_path, on_device_sampling=True), installed=INSTALLED)
    tokens = model.forward(*call(2, 1))
    assert tokens.tolist() == [3, 4] and tokens.dtype == np.int64


@pytest.mark.parametrize("is_on_device", [False, True])
def test_what_the_library_wraps_in_an_object_is_found_by_its_name(
    tmp_path: Path, install: Any, is_on_device: bool
) -> None:
    wrapped = ModuleType("output")
    wrapped.tokens = Tensor(np.array([3, 4], np.int32))  # type: ignore[attr-defined]  # a stand-in
    wrapped.logits = Tensor(np.zeros((2, 1, VOCAB), np.float32))  # type: ignore[attr-defined]  # a stand-in
    install(wrapped)
    model = load_optimum(artifact(tmp_path, on_device_sampling=is_on_device), installed=INSTALLED)
    assert model.forward(*call(2, 1)).shape == ((2,) if is_on_device else (2, 1, VOCAB))


def test_a_chunk_goes_through_the_librarys_call_for_chunks(tmp_path: Path, install: Any) -> None:
    library = install(Tensor(np.zeros((1, 1, VOCAB), np.float32)))
    model = load_optimum(artifact(tmp_path, prefill_chunk_size=4), installed=INSTALLED)
    assert model.prefill_chunk(*call(1, 4)).shape == (1, 1, VOCAB)
    assert [name for name, _ in library.calls] == ["prefill_chunk"]


def test_programs_run_on_it(tmp_path: Path, install: Any) -> None:
    logits = np.zeros((1, 1, VOCAB), np.float32)
    logits[0, 0, 17] = 1
    library = install(Tensor(logits))
    programs = NxdPrograms(load_optimum(artifact(tmp_path), installed=INSTALLED))
    plan = StepPlan((Chunk(1, [5, 6, 7], 0, True),), (), (SamplingRow(SamplingParams(), 0, [5, 6, 7]),))
    (choice,) = programs.run(plan).choices
    assert choice is not None and choice.token_id == 17
    ((_, given),) = library.calls
    assert given["input_ids"].tolist() == [[5, 6, 7]] and given["seq_ids"].tolist() == [1]
    programs.release()


def refuse_imports(name: str) -> ModuleType:
    raise AssertionError(f"{name} was imported")


def test_a_wrong_version_is_refused_before_anything_is_imported(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"`torch` must be 2\.8\.0, and 2\.7\.0 is installed"):
        load_optimum(artifact(tmp_path), installed=INSTALLED | {"torch": "2.7.0"}, importer=refuse_imports)
    with pytest.raises(SetupError, match=r"`neuronx-cc` 2\.19"):
        load_optimum(artifact(tmp_path, neuronxcc_version="2.19"), installed=INSTALLED, importer=refuse_imports)


def test_here_where_the_sdk_is_not_installed_the_container_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"`neuronx-cc` must be .* not installed.*docker/Dockerfile\.nxd"):
        load_optimum(artifact(tmp_path), importer=refuse_imports)


def test_an_incomplete_directory_is_refused_before_anything_is_imported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"`neuron_config\.json` is missing"):
        load_optimum(tmp_path, installed=INSTALLED, importer=refuse_imports)
    (artifact(tmp_path) / "model.pt").unlink()
    with pytest.raises(ArtifactError, match=r"`model\.pt` is missing"):
        load_optimum(tmp_path, installed=INSTALLED, importer=refuse_imports)
    with pytest.raises(ArtifactError, match="`output_logits`"):
        load_optimum(artifact(tmp_path, output_logits=True), installed=INSTALLED, importer=refuse_imports)


@pytest.mark.parametrize(
    ("config", "size"),
    [({"vocab_size": 7}, 7), ({"text_config": {"vocab_size": 9}}, 9), ({}, None), ({"vocab_size": "7"}, None)],
)
def test_the_vocabulary_is_that_of_the_config_or_of_its_text_part(
    tmp_path: Path, install: Any, config: dict[str, Any], size: int | None
) -> None:
    install(None)
    (artifact(tmp_path) / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if size is None:
        with pytest.raises(ArtifactError, match="`vocab_size` must be a whole number"):
            load_optimum(tmp_path, installed=INSTALLED)
    else:
        assert load_optimum(tmp_path, installed=INSTALLED).shape.vocab_size == size
