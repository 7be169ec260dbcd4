"""Memory of a process and its descendants, and of the host, as `/proc` has them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fake_neuron import put
from ranvier.export import process_memory
from ranvier.export.process_memory import PeakMemory, host_bytes, tree_bytes

MIB = 2**20


def process(root: Path, pid: int, kib: int | None, threads: dict[int, str]) -> None:
    """A process with its resident size, and the children of each of its threads."""
    size = f"VmRSS:\t {kib:>7} kB\n" if kib is not None else ""
    put(root, f"{pid}/status", f"Name:\tx\nVmPeak:\t  999999 kB\n{size}RssAnon:\t 5 kB\n")
    for thread, children in threads.items():
        put(root, f"{pid}/task/{thread}/children", children)


def test_descendants_of_every_thread_count(tmp_path: Path) -> None:
    process(tmp_path, 10, 100, {10: "11 12 ", 15: "13 "})
    process(tmp_path, 11, 20, {11: "14 "})
    process(tmp_path, 12, 3, {12: ""})
    process(tmp_path, 13, 4000, {13: ""})
    process(tmp_path, 14, 50000, {14: ""})
    process(tmp_path, 99, 7000000, {99: ""})

    assert tree_bytes(10, tmp_path) == 54123 * 1024
    assert tree_bytes(11, tmp_path) == 50020 * 1024


def test_what_ended_or_has_no_memory_counts_nothing(tmp_path: Path) -> None:
    process(tmp_path, 10, 100, {10: "11 12"})
    process(tmp_path, 11, None, {})

    assert tree_bytes(10, tmp_path) == 100 * 1024
    assert tree_bytes(11, tmp_path) == tree_bytes(12, tmp_path) == 0


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 2000 * 1024), ("max\n", 2000 * 1024), ("1024000\n", 1024000), ("9999999\n", 2048000)]
)
def test_a_container_has_what_it_is_limited_to(tmp_path: Path, limit: str | None, expected: int) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal:        2000 kB\nMemFree:          100 kB\n")
    if limit is not None:
        put(tmp_path, "sys/fs/cgroup/memory.max", limit)
    assert host_bytes(tmp_path) == expected


def test_a_host_that_does_not_tell_has_unknown_memory(tmp_path: Path) -> None:
    assert host_bytes(tmp_path) is None


GRANDCHILD = "import sys; held = bytearray(64 * 2**20); sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {GRANDCHILD!r}])"


def test_the_peak_of_a_real_process_includes_its_children_and_outlives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = threading.Event()

    def seen(pid: int) -> int:
        size = tree_bytes(pid)
        if size > 64 * MIB:
            sampled.set()
        return size

    monkeypatch.setattr(process_memory, "tree_bytes", seen)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None and parent.stdin is not None
        with PeakMemory(parent.pid) as memory:
            assert parent.stdout.read(1) == b"."
            assert sampled.wait(10)
            parent.stdin.close()
            parent.wait(10)
    assert 64 * MIB < memory.peak < 512 * MIB
    assert tree_bytes(parent.pid) == 0


def test_a_process_that_ends_at_once_has_been_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "tree_bytes", lambda pid: 5)
    with PeakMemory(os.getpid()) as memory:
        pass
    assert memory.peak == 5
