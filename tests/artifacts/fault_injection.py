"""Faults at the n-th write of a process: the disk is full from there on, or the process is killed there.

Where writes are met, with nothing but the standard library:

- An audit hook sees each open for writing, rename, link, mkdir, chmod, remove and so on before it happens, whoever
  calls it. It cannot be taken away again, so it is set in a forked child only.
- Data are not audited. `open` gives files whose lowest layer is a `FileIO` with a `write` of its own, which is where
  buffers end and the system call begins; `os.write`, `os.fsync` and `os.sendfile` are wrapped.

A write that meets the fault leaves half of its data in the file. Only what lies below one folder counts. The warm
parent forks a child per fault and stays without threads; what a child does with threads is its own affair.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import itertools
import json
import os
import pathlib
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["full", "killed"]
_GROWING = ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.chmod", "os.truncate", "os.utime")
_FREEING = ("os.remove", "os.rmdir")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: "passed", "killed", or the error's type. `hit` is the operation that met the fault, if one did.

    `num_bytes` went through `write` before the end, when it was not killed.
    """

    end: str
    message: str = ""
    hit: str = ""
    num_bytes: int = 0


class _Injector:
    def __init__(self, kind: Kind, at: int, root: Path, report: Callable[[str], object]) -> None:
        self._kind, self._at, self._root, self._report = kind, at, str(root), report
        self._lock = threading.Lock()
        self._count = 0
        self.num_bytes = 0
        self.hit = ""

    def step(self, operation: str, half: Callable[[], object] = lambda: None, *, frees: bool = False) -> None:
        """One operation that is about to happen; a full disk still lets files go."""
        with self._lock:
            if frees and self._kind == "full":
                return
            self._count += 1
            if self._count < self._at:
                return
            self.hit = self.hit or operation
            half()
            if self._kind == "killed":
                self._report(operation)
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[2], int) and args[2] & _WRITES and self._is_inside(args[0]):
            self.step(f"open {os.fspath(args[0])!s}")
        elif event in _GROWING + _FREEING and (any(map(self._is_inside, args)) or self._has_folder(args)):
            self.step(f"{event} {args[0]}", frees=event in _FREEING)

    def wrapped(self, name: str, real: Callable[..., Any], at: int) -> Callable[..., Any]:
        """A function of `os` whose argument number `at` is the descriptor that is written."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if stat.S_ISREG(os.fstat(args[at]).st_mode) or stat.S_ISDIR(os.fstat(args[at]).st_mode):
                self.step(name)
            result = real(*args, **kwargs)
            self.num_bytes += result or 0
            return result

        return call

    def _is_inside(self, path: object) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self._root)

    @staticmethod
    def _has_folder(args: tuple[Any, ...]) -> bool:
        """`shutil.rmtree` removes by names relative to an open folder."""
        return isinstance(args[-1], int) and args[-1] > 0 and not os.path.isabs(args[0])


def _install(injector: _Injector) -> None:
    class Raw(io.FileIO):
        def write(self, data: Any, /) -> int:
            view = memoryview(data).cast("B")
            if stat.S_ISREG(os.fstat(self.fileno()).st_mode):
                injector.step(f"write {self.name}", lambda: super(Raw, self).write(view[: len(view) // 2]))
                injector.num_bytes += len(view)
            return super().write(view)

    real_open = io.open

    def open_(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wax+"):
            return real_open(file, mode, buffering, *args, **kwargs)
        names = ("encoding", "errors", "newline", "closefd", "opener")
        options = dict(zip(names, args, strict=False)) | kwargs
        raw = Raw(file, mode.replace("b", "").replace("t", ""), options.get("closefd", True), options.get("opener"))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        texts = {name: options[name] for name in names[:3] if name in options}
        return buffered if "b" in mode else io.TextIOWrapper(buffered, **texts)

    for module, name in ((io, "open"), (builtins, "open")):
        setattr(module, name, open_)
    # Python 3.10 keeps `io.open` by another name for `Path.open`.
    accessor = getattr(pathlib, "_NormalAccessor", None)
    if accessor is not None:
        accessor.open = staticmethod(open_)
    for name in ("write", "pwrite", "fsync", "fdatasync", "sendfile", "copy_file_range"):
        if hasattr(os, name):
            # The descriptor that is written comes second in one of them.
            at = 1 if name == "copy_file_range" else 0
            setattr(os, name, injector.wrapped(f"os.{name}", getattr(os, name), at))
    sys.addaudithook(injector.audit)


def inject(kind: Kind, at: int, root: Path, report: Callable[[str], object]) -> _Injector:
    """Let this process meet a fault; for one that was started for it alone. `report` is told before a kill."""
    injector = _Injector(kind, at, root, report)
    _install(injector)
    return injector


def in_child(act: Callable[[], object], kind: Kind, at: int, root: Path) -> Outcome:
    """Do it in a forked child with a fault at the operation number `at` below `root`; 0 is no fault."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _run(act, kind, at, root, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Outcome("killed", hit=text.decode())
    return Outcome(**json.loads(text))


def _run(act: Callable[[], object], kind: Kind, at: int, root: Path, writer: int) -> None:
    # Before it is wrapped.
    write = os.write
    injector = _Injector(kind, at or sys.maxsize, root, lambda operation: write(writer, operation.encode()))
    try:
        _install(injector)
        end, message = "passed", str(act())
    except BaseException as error:
        end, message = type(error).__name__, str(error)
    outcome = asdict(Outcome(end, message, injector.hit, injector.num_bytes))
    with contextlib.suppress(BaseException):
        write(writer, json.dumps(outcome).encode())
    # No finalizer may tidy up what a run has left.
    os._exit(0)


def each_fault(prepare: Callable[[], Callable[[], object]], kind: Kind, root: Path) -> Iterator[Outcome]:
    """Runs with a fault at the first operation, the second, and so on; the last one met none.

    `prepare` makes each run's start and gives what to do.
    """
    for at in itertools.count(1):
        outcome = in_child(prepare(), kind, at, root)
        yield outcome
        if not outcome.hit:
            return
