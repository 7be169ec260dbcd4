"""What discovery finds on instances, in containers, and on hosts where something is missing or odd."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fake_neuron import SYSFS, neuron_root, put
from ranvier.errors import OptionError
from ranvier.neuron_host import INFERENTIA2, TRAINIUM1, TRAINIUM2, Chip, chip_of, discover, version_conflict


@pytest.mark.parametrize(
    ("instance", "devices", "physical", "environ", "chip", "lnc", "cores"),
    [
        ("inf2.xlarge", 1, 2, {}, INFERENTIA2, 1, 2),
        ("inf2.48xlarge", 12, 2, {}, INFERENTIA2, 1, 24),
        ("trn1.32xlarge", 16, 2, {}, TRAINIUM1, 1, 32),
        ("trn1n.32xlarge", 16, 2, {}, TRAINIUM1, 1, 32),
        ("trn2.48xlarge", 16, 8, {}, TRAINIUM2, 2, 64),
        ("trn2.48xlarge", 16, 8, {"NEURON_LOGICAL_NC_CONFIG": "1"}, TRAINIUM2, 1, 128),
        ("trn2.48xlarge", 16, 8, {"NEURON_LOGICAL_NC_CONFIG": "2"}, TRAINIUM2, 2, 64),
    ],
)
def test_every_kind_of_instance_is_found_with_its_cores(
    tmp_path: Path,
    instance: str,
    devices: int,
    physical: int,
    environ: dict[str, str],
    chip: Chip,
    lnc: int,
    cores: int,
) -> None:
    host = discover(neuron_root(tmp_path, instance, devices=devices, cores=physical), environ)

    assert (host.instance_type, host.chip, host.lnc, host.num_cores) == (instance, chip, lnc, cores)
    assert [device.index for device in host.usable_devices] == list(range(devices))
    assert (host.driver_version, host.runtime_version) == ("2.24.7.0", "2.28.23.0")
    assert (host.num_available, host.unmapped, host.notes) == (cores, (), ())


def test_the_log_says_everything_in_four_lines(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "trn2.48xlarge", devices=16, cores=8)
    host = discover(root, {"NEURON_RT_VISIBLE_CORES": "0-3,6"})
    assert host.describe() == (
        "instance: trn2.48xlarge (from DMI product_name), Trainium2",
        "driver: 2.24.7.0, runtime: 2.28.23.0",
        "devices: 16 usable (/dev/neuron0-15)",
        "cores: 0-3,6 of 64 by NEURON_RT_VISIBLE_CORES, LNC 2 by default",
    )


def test_an_ordinary_machine_has_nothing_and_is_told_what_to_do(tmp_path: Path) -> None:
    put(tmp_path, "sys/devices/virtual/dmi/id/product_name", "20XW Laptop\n")
    host = discover(tmp_path, {})
    assert host.describe() == (
        "instance: unknown, no known Neuron chip",
        "driver: not found, runtime: not found",
        "devices: 0 usable",
        "cores: 0 of 0, LNC 1 by default",
    )
    with pytest.raises(OptionError) as error_info:
        host.require_cores(2)
    assert str(error_info.value) == (
        "`target` neuron needs a Neuron device: no /dev/neuron0 and no driver (/sys/module/neuron/version); install "
        "the package aws-neuronx-dkms on an inf2, trn1, trn2 or trn3 instance, or start the container with "
        "--device=/dev/neuron0"
    )


def test_an_empty_root_is_no_error(tmp_path: Path) -> None:
    assert discover(tmp_path / "missing", {}).devices == ()


def test_a_driver_without_devices_points_to_the_kernel_log(tmp_path: Path) -> None:
    put(tmp_path, "sys/module/neuron/version", "2.24.7.0\n")
    with pytest.raises(OptionError) as error_info:
        discover(tmp_path, {}).require_cores(1)
    assert str(error_info.value) == (
        "`target` neuron needs a Neuron device: driver 2.24.7.0 is loaded but there is no /dev/neuron0; "
        "see `dmesg` of the host"
    )


def test_a_container_with_some_devices_is_told_which_others_to_expose(tmp_path: Path) -> None:
    """Minors need not start at 0; cores are counted over the devices that are there."""
    host = discover(neuron_root(tmp_path, "inf2.48xlarge", devices=12, cores=2, mapped=(3,)), {})
    assert (host.num_cores, host.unmapped) == (2, (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11))

    host.require_cores(2)
    with pytest.raises(OptionError) as error_info:
        host.require_cores(6)
    assert str(error_info.value) == (
        "`num_cores` is 6, but 1 usable device has 2 NeuronCores; expose 3 devices to the container: "
        "--device=/dev/neuron0 --device=/dev/neuron1 --device=/dev/neuron2"
    )


def test_more_cores_than_the_host_has_cannot_be_exposed(tmp_path: Path) -> None:
    host = discover(neuron_root(tmp_path, "inf2.24xlarge", devices=6, cores=2, mapped=(0, 1)), {})
    with pytest.raises(OptionError) as error_info:
        host.require_cores(16)
    assert str(error_info.value) == (
        "`num_cores` is 16, but 2 usable devices have 4 NeuronCores; all 6 devices of this host have 12; "
        "take fewer cores"
    )


def test_too_few_cores_without_a_view_of_the_host_names_both_ways_out(tmp_path: Path) -> None:
    host = discover(neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2), {})
    with pytest.raises(OptionError) as error_info:
        host.require_cores(4)
    assert str(error_info.value) == (
        "`num_cores` is 4, but 1 usable device has 2 NeuronCores; take fewer cores, a larger instance, or, in a "
        "container, expose 2 devices: --device=/dev/neuron0 --device=/dev/neuron1"
    )


def test_a_container_without_any_device_is_told_the_flag(tmp_path: Path) -> None:
    host = discover(neuron_root(tmp_path, "trn1.32xlarge", devices=16, cores=2, mapped=()), {})
    with pytest.raises(OptionError) as error_info:
        host.require_cores(2)
    assert str(error_info.value) == (
        "`target` neuron needs a Neuron device: the driver lists 16 devices, but /dev has none of them; "
        "start the container with --device=/dev/neuron0 for each device"
    )


def test_a_device_that_may_not_be_opened_is_named_and_left_out(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.24xlarge", devices=6, cores=2)
    host = discover(root, {}, lambda path: path.name != "neuron5")
    denied = "/dev/neuron5 cannot be opened: permission denied; run as a user who may read and write it"
    assert host.num_cores == 10
    assert host.notes == (denied,)
    assert f"devices: 5 usable (/dev/neuron0-4), {denied}" in host.describe()

    with pytest.raises(OptionError) as error_info:
        discover(root, {}, lambda path: False).require_cores(2)
    assert str(error_info.value).startswith(
        "`target` neuron needs a Neuron device: /dev/neuron0 cannot be opened: permission denied"
    )


def test_a_half_removed_device_is_left_out(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.24xlarge", devices=6, cores=2)
    shutil.rmtree(root / SYSFS / "neuron2")
    host = discover(root, {})
    gone = "/dev/neuron2 is in /dev but not in sysfs: it is being removed or reset, or the driver lost it; see `dmesg`"
    assert host.num_cores == 10
    assert host.notes == (gone,)
    with pytest.raises(OptionError, match="5 usable devices have 10 NeuronCores; /dev/neuron2 is in /dev but not in"):
        host.require_cores(12)


def test_a_container_that_hides_sysfs_counts_by_the_instance_type(tmp_path: Path) -> None:
    put(tmp_path, "dev/neuron0")
    host = discover(tmp_path, {"RANVIER_INSTANCE": "trn2.48xlarge"})
    assert (host.num_cores, host.instance_source) == (4, "variable RANVIER_INSTANCE")
    assert host.notes == ("the driver's version is unknown: /sys/module/neuron/version is missing",)


def test_a_device_of_which_nothing_is_known_cannot_be_used(tmp_path: Path) -> None:
    put(tmp_path, "dev/neuron0")
    host = discover(tmp_path, {})
    assert host.devices[0].fault == "has an unknown number of cores: neither sysfs nor the instance type tells"
    assert host.num_cores == 0


@pytest.mark.parametrize("text", ["", "many\n", "-2\n", "\x00\n"])
def test_without_a_core_count_the_folders_of_the_cores_count(tmp_path: Path, text: str) -> None:
    root = neuron_root(tmp_path, "trn2.48xlarge", devices=1, cores=8)
    put(root, f"{SYSFS}/neuron0/core_count", text)
    assert discover(root, {}).num_cores == 4


def test_a_count_that_is_not_the_chips_is_believed_and_noted(tmp_path: Path) -> None:
    host = discover(neuron_root(tmp_path, "trn2.48xlarge", devices=1, cores=6), {})
    assert (host.num_cores, host.notes) == (3, ("/dev/neuron0 has 6 cores where Trainium2 has 8",))


def test_the_driver_names_the_chip_where_dmi_does_not(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "trn1.2xlarge", devices=1, cores=2)
    put(root, "sys/devices/virtual/dmi/id/product_name", "Not Specified\n")
    host = discover(root, {})
    assert (host.chip, host.instance_type) == (TRAINIUM1, None)


def test_other_files_in_dev_are_no_devices(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2)
    for name in ("neuron", "neuron0p1", "neuron_core0", "neuron٣"):
        put(root, f"dev/{name}")
    assert [device.index for device in discover(root, {}).devices] == [0]


def test_devices_are_ordered_by_number_not_by_text(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "trn1.32xlarge", devices=16, cores=2)
    assert [device.index for device in discover(root, {}).devices] == list(range(16))


@pytest.mark.parametrize(
    ("environ", "instance", "source"),
    [
        ({}, "inf2.xlarge", "DMI product_name"),
        ({"SM_CURRENT_INSTANCE_TYPE": "ml.trn1.2xlarge"}, "trn1.2xlarge", "variable SM_CURRENT_INSTANCE_TYPE"),
        (
            {"SM_CURRENT_INSTANCE_TYPE": "ml.trn1.2xlarge", "RANVIER_INSTANCE": "trn2.3xlarge"},
            "trn2.3xlarge",
            "variable RANVIER_INSTANCE",
        ),
        ({"RANVIER_INSTANCE": "  "}, "inf2.xlarge", "DMI product_name"),
    ],
)
def test_a_variable_is_stronger_than_the_firmware(
    tmp_path: Path, environ: dict[str, str], instance: str, source: str
) -> None:
    host = discover(neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2), environ)
    assert (host.instance_type, host.instance_source) == (instance, source)


@pytest.mark.parametrize("name", ["inf1.xlarge", "g5.xlarge", "", "trn9.48xlarge", "HP EliteBook"])
def test_other_machines_have_no_chip(name: str) -> None:
    assert chip_of(name) is None


@pytest.mark.parametrize(
    ("driver", "runtime", "conflict"),
    [
        (
            "2.29.0.0",
            "2.28.23.0",
            "driver 2.29.0.0 needs runtime 2.33 or later, found 2.28.23.0: update aws-neuronx-runtime-lib",
        ),
        (
            "2.26.5.0",
            "2.32.1.0",
            "runtime 2.32.1.0 needs a driver later than 2.26, found 2.26.5.0: update aws-neuronx-dkms on the host",
        ),
        ("2.24.7.0", "2.28.23.0", ""),
        ("2.31.7.0", "2.35.30.0", ""),
        (None, "2.28.23.0", ""),
        ("2.24.7.0", None, ""),
        ("unknown", "2.28.23.0", ""),
    ],
)
def test_versions_that_do_not_go_together_are_known(driver: str | None, runtime: str | None, conflict: str) -> None:
    assert version_conflict(driver, runtime) == conflict


def test_a_version_conflict_is_a_warning_in_the_log(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2, driver="2.31.7.0")
    assert discover(root, {}).describe()[-1] == (
        "warning: driver 2.31.7.0 needs runtime 2.33 or later, found 2.28.23.0: update aws-neuronx-runtime-lib"
    )


def test_the_newest_runtime_library_counts(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2, runtime="2.9.1.0")
    put(root, "opt/aws/neuron/lib/libnrt.so.2.31.24.0")
    assert discover(root, {}).runtime_version == "2.31.24.0"
