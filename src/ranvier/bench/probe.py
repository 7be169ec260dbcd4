"""How fast this machine reads memory at this moment: the yardstick for steps that are bound by it."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import numpy.typing as npt

_MB = 96
_PASSES = 4


def read_bandwidth_gb_s() -> float:
    """GB/s that all cores together read from memory, summing arrays far larger than the caches."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    arrays = [np.ones(_MB * 2**20 // 4, np.float32) for _ in range(cores)]

    def read(values: npt.NDArray[np.float32]) -> None:
        for _ in range(_PASSES):
            values.sum()

    threads = [threading.Thread(target=read, args=(values,)) for values in arrays]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return cores * _MB * _PASSES * 2**20 / (time.perf_counter() - began) / 1e9
