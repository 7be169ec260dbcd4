"""The variables with which a process takes devices, or emulates them, and finds what was compiled before."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_neuron import neuron_root
from ranvier.neuron_host import core_environment, discover, jax_environment

CACHE = Path("/artifact/compiled")


def test_devices_need_no_variable() -> None:
    assert jax_environment({}, emulated_cores=None) == {}


def test_emulated_cores_are_added_to_what_the_flags_say_already() -> None:
    assert jax_environment({"XLA_FLAGS": "--one=1"}, emulated_cores=4) == {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--one=1 --xla_force_host_platform_device_count=4",
    }


def test_a_cache_is_used_for_everything_and_does_not_depend_on_where_it_is() -> None:
    added = jax_environment({}, emulated_cores=None, cache=CACHE)
    assert added == {
        "JAX_COMPILATION_CACHE_DIR": "/artifact/compiled/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        "NEURON_COMPILE_CACHE_URL": "/artifact/compiled/neuronx-cc",
    }


def test_the_compile_cache_that_a_user_named_stays() -> None:
    added = jax_environment({"NEURON_COMPILE_CACHE_URL": "s3://mine"}, emulated_cores=None, cache=CACHE)
    assert added["NEURON_COMPILE_CACHE_URL"] == "s3://mine"


def test_emulated_devices_have_no_neuron_compiler() -> None:
    assert "NEURON_COMPILE_CACHE_URL" not in jax_environment({}, emulated_cores=1, cache=CACHE)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"NEURON_RT_NUM_CORES": "2"}),
        ({"NEURON_RT_NUM_CORES": "8"}, {"NEURON_RT_NUM_CORES": "2"}),
        ({"NEURON_RT_VISIBLE_CORES": "4-7"}, {"NEURON_RT_VISIBLE_CORES": "4-5", "NEURON_RT_NUM_CORES": "2"}),
        ({"NEURON_RT_VISIBLE_CORES": "1,5,9"}, {"NEURON_RT_VISIBLE_CORES": "1,5", "NEURON_RT_NUM_CORES": "2"}),
    ],
)
def test_a_process_takes_the_cores_it_needs_and_no_more(
    tmp_path: Path, environ: dict[str, str], expected: dict[str, str]
) -> None:
    host = discover(neuron_root(tmp_path, "trn1.32xlarge", devices=16, cores=2), environ)
    assert core_environment(host, 2) == expected
