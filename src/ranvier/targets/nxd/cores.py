"""NeuronCores as the runtime hands them out: to one process, until it ends. For the stand-in."""

from __future__ import annotations

from collections.abc import Sequence


class CoreRegistry:
    """The cores of a host, `num_cores` of them, and who has them.

    `num_failures`: so many claims fail first, as after a kill, when the driver lets go late.
    """

    def __init__(self, num_cores: int, *, num_failures: int = 0) -> None:
        self._num_cores, self._num_failures = num_cores, num_failures
        self._taken: set[int] = set()

    def claim(self, cores: Sequence[int]) -> None:
        """Take these cores, all or none. Raises `RuntimeError` with a text like the runtime's."""
        if self._num_failures:
            self._num_failures -= 1
            raise RuntimeError(_refusal(cores, "Logical Neuron Core(s) not available, resource busy"))
        missing = [core for core in cores if core >= self._num_cores]
        if missing:
            raise RuntimeError(
                f"nrt_init failed, err: NRT_INVALID (2): core {missing[0]} of {self._num_cores} does not exist"
            )
        busy = [core for core in cores if core in self._taken]
        if busy:
            raise RuntimeError(_refusal(cores, f"core {busy[0]} is already in use by another process"))
        self._taken |= set(cores)

    def free(self, cores: Sequence[int]) -> None:
        """The process that had these cores has ended."""
        self._taken -= set(cores)


def _refusal(cores: Sequence[int], reason: str) -> str:
    return (
        f"nrt_allocate_neuron_cores: {reason} - Requested:{len(cores)} Available:0 "
        "nrt_init failed, err: NRT_RESOURCE (4)"
    )
