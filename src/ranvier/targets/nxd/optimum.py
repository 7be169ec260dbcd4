"""The only door to optimum.neuron and its torch: an exported directory as an `NxdModel`.

Unproven on hardware: written from the library's source (0.4.5) and held against stand-ins for its modules. Importing
them takes long, and changes the environment where there is no device, so it happens after every check that can be made
without. A load that failed cannot be tried again in the same process with other cores, and cores are free only when the
process ends: whoever calls this ends the process then.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ranvier.errors import ArtifactError
from ranvier.models import read_json
from ranvier.targets.nxd.model import Floats, Ints, NxdShape, Output, shape_of
from ranvier.targets.nxd.versions import artifact_versions, check_versions, installed_versions

_log = logging.getLogger(__name__)

Importer = Callable[[str], ModuleType]


def load_optimum(
    directory: Path,
    *,
    installed: Mapping[str, str] | None = None,
    importer: Importer = importlib.import_module,
) -> OptimumModel:
    """Load an exported directory on the cores that `NEURON_RT_VISIBLE_CORES` leaves to this process. Slow.

    Versions are compared first; `installed` are those found unless given. Raises `SetupError` where one differs and
    `ArtifactError` for what cannot be driven or is incomplete; an error of the library or runtime goes through as it
    is, see `neuron_host.acquire`.
    """
    config = read_json(directory / "neuron_config.json")
    versions = artifact_versions(config)
    check_versions(installed_versions() if installed is None else installed, versions)
    shape = shape_of(config, _vocab_size(directory))
    if not (directory / "model.pt").is_file():
        raise ArtifactError(f"{directory}: `model.pt` is missing, the file with the compiled graphs")
    torch, library = importer("torch"), importer("optimum.neuron")
    # Weights that are not in the directory come from the Hub, at the revision that neuron_config.json names.
    model = library.NeuronModelForCausalLM.from_pretrained(str(directory))
    return OptimumModel(model, torch, shape, versions)


def _vocab_size(directory: Path) -> int:
    config = read_json(directory / "config.json")
    text = config.get("text_config")
    size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ArtifactError(f"{directory / 'config.json'}: `vocab_size` must be a whole number >= 1. Given: {size!r}")
    return size


class OptimumModel:
    """A `NeuronModelForCausalLM` behind `NxdModel`: NumPy in, NumPy out."""

    def __init__(self, model: Any, torch: Any, shape: NxdShape, versions: Mapping[str, str]) -> None:
        self._model, self._torch, self._shape, self._versions = model, torch, shape, versions

    @property
    def shape(self) -> NxdShape:
        """Of neuron_config.json."""
        return self._shape

    @property
    def details(self) -> Mapping[str, str]:
        """The versions that made it."""
        return self._versions

    def forward(self, input_ids: Ints, position_ids: Ints, seq_ids: Ints, sampling_params: Floats) -> Output:
        """See `NxdModel`."""
        name = "tokens" if self._shape.on_device_sampling else "logits"
        return self._called(self._model.forward, name, input_ids, position_ids, seq_ids, sampling_params)

    def prefill_chunk(self, input_ids: Ints, position_ids: Ints, seq_ids: Ints, sampling_params: Floats) -> Floats:
        """See `NxdModel`. 0.4.5 has no such call, and makes no artifact that needs it."""
        output = self._called(self._model.prefill_chunk, "logits", input_ids, position_ids, seq_ids, sampling_params)
        return output.astype(np.float32, copy=False)

    def _called(self, function: Any, name: str, ids: Ints, positions: Ints, slots: Ints, sampling: Floats) -> Output:
        """The tensor that the library gives back, which some of its versions wrap in an object that names it."""
        torch = self._torch
        with torch.inference_mode():
            result = function(
                input_ids=torch.from_numpy(ids.astype(np.int32, copy=False)),
                position_ids=torch.from_numpy(positions.astype(np.int32, copy=False)),
                seq_ids=torch.from_numpy(slots.astype(np.int32, copy=False)),
                sampling_params=torch.from_numpy(sampling.astype(np.float32, copy=False)),
            )
        host = getattr(result, name, result).detach().cpu()
        # NumPy has no bfloat16.
        output: Output = (host.float() if host.is_floating_point() else host).numpy()
        return output

    def release(self) -> None:
        """Forget the model. The runtime frees its cores when the process ends, and only then."""
        self._model = None
        _log.info("the NeuronCores are free when this process ends")
