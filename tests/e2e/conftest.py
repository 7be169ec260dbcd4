"""One server with the real model for all tests of clients, and one hub for all tests of Neuron models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server import Server, serving

from neuron_hub import NeuronHub, neuron_hub
from smollm2 import MODEL_ID


@pytest.fixture(scope="session")
def smollm2_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SmolLM2 in float32, so that texts are the same on every processor."""
    arguments = ("--quantize", "none", "--dtype", "float32", "--max-batch-size", "4", "--max-total-tokens", "512")
    with serving(tmp_path_factory.mktemp("smollm2"), MODEL_ID, *arguments) as running:
        yield running


@pytest.fixture(scope="session")
def local_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeuronHub]:
    """The hub for all tests of Neuron models."""
    with neuron_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running
