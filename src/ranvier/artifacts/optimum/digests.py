"""The keys of the Neuron Model Cache's registry, as optimum-neuron 0.4.5 computes them.

    neuronxcc-<version>/0_REGISTRY/<optimum-neuron version>/<arch_digest>/<entry digest>.json
    neuronxcc-<version>/0_REGISTRY/<optimum-neuron version>/<model_type>/<org>/<model>/<entry digest>.json

Source: optimum-neuron 0.4.5, `optimum/neuron/cache/entries/{cache_entry,single_model}.py` and `cache/hub_cache.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from ranvier.artifacts.optimum.config_diff import Json, config_diff, fill_head_dim

TASK = "text-generation"
REGISTRY = "0_REGISTRY"

_IGNORED = (
    "_name_or_path",
    "transformers_version",
    "_diffusers_version",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "torchscript",
    "torch_dtype",
    "_commit_hash",
    "sample_size",
    "projection_dim",
    "_use_default_values",
    "_attn_implementation_autoset",
    "return_dict",
)
"""Config keys that are no part of an architecture (`CACHE_WHITE_LIST`). `dtype` is not among them."""
_DTYPES = ("bfloat16", "float16", "float32")


def architecture(config: Mapping[str, object]) -> Json:
    """The part of an HF config that a registry entry holds.

    Takes a config.json as it is. Raises `ArtifactError` as `config_diff` does.
    """
    return {name: value for name, value in config_diff(config).items() if name not in _IGNORED}


def arch_digest(fields: Mapping[str, object], task: str = TASK) -> str:
    """64 hexadecimal digits of what `architecture` returned."""
    whole = {"model_type": fields["model_type"], "task": task, "config": fields}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def lookup_digest(config: Mapping[str, object]) -> str:
    """Where optimum-neuron looks for entries of a config.json. Raises `ArtifactError` as `config_diff` does."""
    return arch_digest(architecture(config))


def export_digests(config: Mapping[str, object], dtypes: Sequence[str] = _DTYPES) -> tuple[str, ...]:
    """Every folder in which entries of a config.json can be: the one of `lookup_digest` first, no duplicates.

    An export sets `dtype` to the exported type and a null `head_dim` to its value before it writes its entry, so
    entries can be where optimum-neuron's own look-up does not look: a float16 export of a bfloat16 checkpoint, every
    Mixtral without `head_dim`. `dtypes`: the exported types to look for, by torch's names.
    Source: optimum-neuron 0.4.5, `NxDPreTrainedModel._export`. Raises `ArtifactError` as `config_diff` does.
    """
    fields = architecture(config)
    exported = dict(fields)
    fill_head_dim(exported)
    digests = [arch_digest(fields), *(arch_digest({**exported, "dtype": dtype}) for dtype in dtypes)]
    return tuple(dict.fromkeys(digests))


def entry_text(fields: Mapping[str, object], neuron: Mapping[str, object], model_id: str, task: str = TASK) -> str:
    """The text of an entry's file: an architecture, the Neuron config it was exported with, and whose it is."""
    document = {**fields, "neuron": neuron, "_entry_class": "SingleModelCacheEntry", "_model_id": model_id}
    return json.dumps({**document, "_task": task}, indent=2, sort_keys=True)


def entry_digest(text: str) -> str:
    """20 hexadecimal digits that name an entry's file; of the file's text."""
    return hashlib.sha512(text.encode()).hexdigest()[:20]


def registry_folder(compiler_folder: str, optimum_version: str) -> str:
    """The registry of one compiler's folder (`neuronxcc-...`) and one version of optimum-neuron."""
    return f"{compiler_folder}/{REGISTRY}/{optimum_version}"


def name_folder(fields: Mapping[str, object], model_id: str) -> str:
    """The folder below a registry that has a model's entries by its name, `<model_type>/<org>/<model>`."""
    return f"{fields['model_type']}/{model_id}"
