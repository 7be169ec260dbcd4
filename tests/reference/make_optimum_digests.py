"""Write or check `optimum_digests.json`: what optimum-neuron's own functions make of configs.

    python tests/reference/make_optimum_digests.py            writes the file
    python tests/reference/make_optimum_digests.py --check    compares with what is stored instead

Needs torch, optimum-neuron 0.4.5 and with it transformers 4.57.6; neither the Neuron SDK nor Ranvier. The hub is not
asked: configs are in temporary directories.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from optimum_configs import CASES, NEURON  # found through the line above

with warnings.catch_warnings():
    # That there is no device.
    warnings.simplefilter("ignore")
    from optimum.neuron.cache import hub_cache
    from optimum.neuron.cache.entries.single_model import SingleModelCacheEntry
    from optimum.neuron.version import __version__

TASK = "text-generation"
MODEL_ID = "org/model"
TARGET = Path(__file__).parents[1] / "artifacts" / "data" / "optimum_digests.json"


def loaded(config: dict[str, object]) -> object:
    """The text config that optimum-neuron works with."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return transformers.AutoConfig.from_pretrained(folder).get_text_config()


def looked_up(config: dict[str, object]) -> SingleModelCacheEntry:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return SingleModelCacheEntry.from_hub(folder, TASK)


def exported(config: dict[str, object], dtype: str, neuron: dict[str, object]) -> SingleModelCacheEntry:
    """The entry that an export writes; the two changes are those of `NxDPreTrainedModel._export`."""
    text = loaded(config)
    text.torch_dtype = getattr(torch, dtype)
    if hasattr(text, "head_dim") and text.head_dim is None:
        text.head_dim = text.hidden_size // text.num_attention_heads
    return SingleModelCacheEntry(MODEL_ID, TASK, text, neuron)


def results(config: dict[str, object]) -> dict[str, object]:
    entry = looked_up(config)
    written = exported(config, "float16", NEURON)
    return {
        "model_type": entry.model_type,
        "arch_digest": entry.arch_digest(),
        "feature_digest": SingleModelCacheEntry(MODEL_ID, "feature-extraction", loaded(config)).arch_digest(),
        "float16_digest": written.arch_digest(),
        "entry_digest": written.hash,
    }


def registry_path() -> str:
    """Of a repository with folders of three compilers."""
    folders = [
        mock.Mock(path=f"neuronxcc-{version}") for version in ("2.19.8089.0+8ab9f450", "2.21.33363.0+82129205", "3.0")
    ]
    with mock.patch.object(hub_cache, "HfApi") as api:
        api.return_value.list_repo_tree.return_value = folders
        return hub_cache.hub_registry_path("org/cache")


def document() -> str:
    table = {
        "optimum-neuron": __version__,
        "transformers": transformers.__version__,
        "registry_path": registry_path(),
        "cases": {name: results(config) for name, config in CASES.items()},
    }
    return json.dumps(table, indent=1, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        TARGET.write_text(document(), encoding="utf-8")
        return 0
    is_same = TARGET.read_text(encoding="utf-8") == document()
    print("same" if is_same else "DIFFERS")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
