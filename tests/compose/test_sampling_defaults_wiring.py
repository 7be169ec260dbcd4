"""Sampling defaults of a model whose artifact cannot do all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ranvier.compose.router import with_honoured_defaults
from ranvier.service.defaults import SamplingDefaults
from ranvier.targets.nxd import NxdShape, capabilities_of
from serving import model_text

DEFAULTS = SamplingDefaults(temperature=0.6, repetition_penalty=1.05)
HOST = NxdShape(batch_size=1, sequence_length=64, max_context_length=64, vocab_size=288)
DEVICE = replace(HOST, on_device_sampling=True)


def test_defaults_that_the_target_would_refuse_are_left_out_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    text = with_honoured_defaults(replace(model_text(), sampling_defaults=DEFAULTS), capabilities_of(DEVICE))
    assert text.sampling_defaults == SamplingDefaults(temperature=0.6)
    assert [record.getMessage() for record in caplog.records] == [
        "not taken from the model's generation_config.json, for the target cannot do it: repetition_penalty"
    ]


def test_defaults_that_it_can_do_all_stay(caplog: pytest.LogCaptureFixture) -> None:
    text = replace(model_text(), sampling_defaults=DEFAULTS)
    assert with_honoured_defaults(text, capabilities_of(HOST)) == text
    without = model_text()
    assert with_honoured_defaults(without, capabilities_of(DEVICE)) is without
    assert caplog.records == []
