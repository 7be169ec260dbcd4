"""A hub on this machine with checkpoints, exported models and a cache of entries, all of one tiny model.

with neuron_hub(directory) as hub: ...    hub.environ makes a launcher use it, on the stand-in for devices
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.hub_server import Repository, hub_server
from neuron_models import checkpoint_files, files_below, registry_files, write_neuron_model
from tiny_checkpoints import TinyModel

MODEL = TinyModel(num_layers=1)
CHECKPOINT, EXPORTED, WITHOUT_TEXTS = "org/tiny", "org/tiny-neuron", "org/tiny-neuron-without-texts"
CACHE, DOCUMENTED_CACHE = "org/cache", "org/documented-cache"

_ENTRIES: tuple[dict[str, object], ...] = (
    {},
    {"batch_size": 4, "max_batch_size": 4, "sequence_length": 128, "tp_degree": 4},
    {"torch_dtype": "bfloat16", "batch_size": 8, "max_batch_size": 8, "sequence_length": 256, "tp_degree": 2},
)
_DOCUMENTED_ENTRIES: tuple[dict[str, object], ...] = (
    {"torch_dtype": "float16", "batch_size": 1, "max_batch_size": 1, "sequence_length": 4096},
    {"torch_dtype": "bfloat16", "batch_size": 4, "max_batch_size": 4, "sequence_length": 4096},
    {"torch_dtype": "bfloat16", "batch_size": 4, "max_batch_size": 4, "sequence_length": 2048},
    {"torch_dtype": "bfloat16", "batch_size": 4, "max_batch_size": 4, "sequence_length": 4096, "tp_degree": 24},
)
"""What the commands of documents ask for."""
_DOCUMENTED = (
    "HuggingFaceH4/zephyr-7b-beta",
    "meta-llama/Meta-Llama-3-8B",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    "a/b",
)
_DOCUMENTED_EXPORT = "organization/neuron-model"


@dataclass(frozen=True)
class NeuronHub:
    """`requests` grows with each one, as `HubServer.requests`."""

    environ: Mapping[str, str]
    requests: Sequence[str]


@contextlib.contextmanager
def neuron_hub(directory: Path) -> Iterator[NeuronHub]:
    """Serve until the block ends; the clients' cache is in `directory`."""
    with hub_server(_repositories(directory)) as server:
        environ = {
            "EMULATE_NEURON": "true",
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(directory / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "*",
            "CUSTOM_CACHE_REPO": CACHE,
            "NEURON_COMPILE_CACHE_URL": str(directory / "compiled"),
            # Stand-ins of one shape are compiled once.
            "JAX_COMPILATION_CACHE_DIR": str(directory / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        yield NeuronHub(environ, server.requests)


def _repositories(directory: Path) -> dict[str, Repository]:
    plain = checkpoint_files(directory / "checkpoint", MODEL)
    exported = files_below(write_neuron_model(directory / "export", MODEL, checkpoint_id=CHECKPOINT))
    without = {name: data for name, data in exported.items() if not name.startswith(("tokenizer", "generation"))}
    return {
        CHECKPOINT: Repository(plain),
        WITHOUT_TEXTS: Repository(without),
        EXPORTED: Repository(exported),
        CACHE: Repository(registry_files(MODEL, CHECKPOINT, _ENTRIES)),
        DOCUMENTED_CACHE: Repository(registry_files(MODEL, CHECKPOINT, _DOCUMENTED_ENTRIES)),
        _DOCUMENTED_EXPORT: Repository(exported),
        **{name: Repository(plain) for name in _DOCUMENTED},
    }
