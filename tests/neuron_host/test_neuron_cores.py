"""The runtime's variables: what they may say, what they contradict, and what a process gets from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_neuron import neuron_root
from ranvier.errors import OptionError
from ranvier.neuron_host import CoreChoice, discover, format_cores, parse_cores, read_core_choice


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("3", (3,)),
        ("0-3", (0, 1, 2, 3)),
        ("0-3,6", (0, 1, 2, 3, 6)),
        ("6, 0-1", (0, 1, 6)),
        ("4-4", (4,)),
        ("00", (0,)),
    ],
)
def test_ids_and_ranges_are_read_in_any_order(text: str, ids: tuple[int, ...]) -> None:
    assert parse_cores(text) == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "`NEURON_RT_VISIBLE_CORES` must be core ids and ranges such as `0-3,6`. Given: `a`"),
        ("0-", "`NEURON_RT_VISIBLE_CORES` must be core ids and ranges such as `0-3,6`. Given: `0-`"),
        ("-1", "`NEURON_RT_VISIBLE_CORES` must be core ids and ranges such as `0-3,6`. Given: `-1`"),
        ("0,,1", "`NEURON_RT_VISIBLE_CORES` must be core ids and ranges such as `0-3,6`. Given: `0,,1`"),
        ("0:3", "`NEURON_RT_VISIBLE_CORES` must be core ids and ranges such as `0-3,6`. Given: `0:3`"),
        ("٣", "`NEURON_RT_VISIBLE_CORES` must be core ids and ranges such as `0-3,6`. Given: `٣`"),
        ("3-0", "`NEURON_RT_VISIBLE_CORES` has the range `3-0`, which ends before it begins. Given: `3-0`"),
        ("0-3,2,3", "`NEURON_RT_VISIBLE_CORES` names core 2-3 more than once. Given: `0-3,2,3`"),
        ("0-999999999", "`NEURON_RT_VISIBLE_CORES` must name cores from 0 to 4095. Given: `0-999999999`"),
    ],
)
def test_anything_else_is_refused_with_the_text(text: str, message: str) -> None:
    with pytest.raises(OptionError) as error_info:
        parse_cores(text)
    assert str(error_info.value) == message


@given(st.sets(st.integers(0, 200), min_size=1))
def test_what_is_written_is_read_again(ids: set[int]) -> None:
    assert parse_cores(format_cores(sorted(ids))) == tuple(sorted(ids))


@pytest.mark.parametrize(
    ("environ", "choice"),
    [
        ({}, CoreChoice()),
        ({"NEURON_RT_NUM_CORES": "4"}, CoreChoice(count=4, source="NEURON_RT_NUM_CORES")),
        ({"NEURON_RT_NUM_CORES": "0"}, CoreChoice()),
        ({"NEURON_RT_NUM_CORES": "", "NEURON_RT_VISIBLE_CORES": " "}, CoreChoice()),
        (
            {"NEURON_RT_VISIBLE_CORES": "4-7"},
            CoreChoice(ids=(4, 5, 6, 7), count=4, source="NEURON_RT_VISIBLE_CORES"),
        ),
        (
            {"NEURON_RT_VISIBLE_CORES": "4-7", "NEURON_RT_NUM_CORES": "4"},
            CoreChoice(ids=(4, 5, 6, 7), count=4, source="NEURON_RT_VISIBLE_CORES"),
        ),
        (
            {"NEURON_RT_VISIBLE_CORES": "1", "NEURON_RT_NUM_CORES": "0"},
            CoreChoice(ids=(1,), count=1, source="NEURON_RT_VISIBLE_CORES"),
        ),
    ],
)
def test_named_cores_win_over_a_count(environ: dict[str, str], choice: CoreChoice) -> None:
    assert read_core_choice(environ) == choice


def test_variables_that_contradict_each_other_are_both_named() -> None:
    with pytest.raises(OptionError) as error_info:
        read_core_choice({"NEURON_RT_VISIBLE_CORES": "0-3,6", "NEURON_RT_NUM_CORES": "4"})
    assert str(error_info.value) == (
        "`NEURON_RT_VISIBLE_CORES` names 5 cores (`0-3,6`) and `NEURON_RT_NUM_CORES` is 4; "
        "unset one of them, or make them agree"
    )


@pytest.mark.parametrize("text", ["all", "-1", "1.5", "4097", "4 4"])
def test_a_count_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionError) as error_info:
        read_core_choice({"NEURON_RT_NUM_CORES": text})
    assert str(error_info.value) == (
        f"`NEURON_RT_NUM_CORES` must be a whole number from 0 (all cores) to 4096. Given: `{text}`"
    )


@pytest.mark.parametrize(
    ("instance", "text", "message"),
    [
        ("inf2.xlarge", "2", "`NEURON_LOGICAL_NC_CONFIG` must be 1 on Inferentia2. Given: 2"),
        ("trn1.2xlarge", "2", "`NEURON_LOGICAL_NC_CONFIG` must be 1 on Trainium1. Given: 2"),
        ("trn2.3xlarge", "4", "`NEURON_LOGICAL_NC_CONFIG` must be 1 or 2. Given: `4`"),
        ("trn2.3xlarge", "two", "`NEURON_LOGICAL_NC_CONFIG` must be 1 or 2. Given: `two`"),
    ],
)
def test_a_logical_core_that_the_chip_cannot_have_is_refused(
    tmp_path: Path, instance: str, text: str, message: str
) -> None:
    root = neuron_root(tmp_path, instance, devices=1, cores=8 if instance.startswith("trn2") else 2)
    with pytest.raises(OptionError) as error_info:
        discover(root, {"NEURON_LOGICAL_NC_CONFIG": text})
    assert str(error_info.value) == message


def test_cores_that_the_devices_do_not_have_are_refused(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2)
    with pytest.raises(OptionError) as error_info:
        discover(root, {"NEURON_RT_VISIBLE_CORES": "1-3"})
    assert str(error_info.value) == (
        "`NEURON_RT_VISIBLE_CORES` names core 2-3, but the usable devices have cores 0-1 (LNC 1)"
    )


def test_a_process_gets_no_more_than_the_variables_give(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "trn1.32xlarge", devices=16, cores=2)
    host = discover(root, {"NEURON_RT_NUM_CORES": "4"})
    assert (host.num_available, host.num_cores) == (4, 32)
    host.require_cores(4)
    with pytest.raises(OptionError) as error_info:
        host.require_cores(8)
    assert str(error_info.value) == (
        "`num_cores` is 8, but `NEURON_RT_NUM_CORES` gives this process 4; raise it or unset it "
        "(this host has cores 0-31)"
    )


def test_a_count_above_what_there_is_means_all(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2)
    assert discover(root, {"NEURON_RT_NUM_CORES": "32"}).num_available == 2


def test_variables_of_the_runtime_do_no_harm_where_there_is_no_device(tmp_path: Path) -> None:
    host = discover(tmp_path, {"NEURON_RT_VISIBLE_CORES": "0-3", "NEURON_LOGICAL_NC_CONFIG": "2"})
    assert (host.num_available, host.lnc) == (0, 2)
