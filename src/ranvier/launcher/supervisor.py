"""Starts the engine and router processes, watches them, and ends them in order."""

from __future__ import annotations

import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from ranvier import __version__
from ranvier.compose.neuron_wish import without_effect
from ranvier.compose.plan import ServePlan, find_adapters, limits_of, prepare_artifact, with_target
from ranvier.compose.ports import open_port
from ranvier.compose.processes import EXIT_SETUP
from ranvier.config import LauncherConfig
from ranvier.errors import OptionError
from ranvier.observability import set_up_logs

_log = logging.getLogger(__name__)

_POLL_S = 0.05
_KILL_AFTER_S = 5.0
MAX_RESTARTS = 5
"""Restarts of an engine that did not last `STABLE_S` before the launcher gives up."""
STABLE_S = 60.0
_FIRST_BACK_OFF_S = 0.5


def launch(config: LauncherConfig) -> int:
    """Serve until a signal. Returns the exit code; raises a `SetupError` when start-up cannot go on."""
    set_up_logs(config.log_level, as_json=config.json_output, process="launcher", colorize=config.log_colorize)
    _report(config)
    _check_engine_python(config)
    signals = _Signals()
    artifact = prepare_artifact(config)
    config = with_target(config, artifact)
    for sentence in without_effect(config):
        _log.warning("%s", sentence)
    limits = limits_of(config, artifact)
    adapters = find_adapters(config, artifact)
    _check_port(config)
    if signals.is_stopped:
        return 0
    with tempfile.TemporaryDirectory(prefix="ranvier-") as directory:
        plan = ServePlan(
            config=config.to_json(),
            artifact_directory=str(artifact.directory),
            limits=limits,
            socket_path=str(Path(directory) / "engine.sock"),
            adapters=adapters,
        )
        if config.single_process:
            return _single(plan, signals)
        return Supervisor(plan, signals, config.graceful_termination_timeout).run()


def _check_engine_python(config: LauncherConfig) -> None:
    if config.engine_python is None:
        return
    if config.single_process:
        raise OptionError("`engine_python` and `single_process` contradict each other; leave one of them out")
    if not os.access(config.engine_python, os.X_OK) or os.path.isdir(config.engine_python):
        raise OptionError(f"`engine_python` must be the path of an interpreter. Given: {config.engine_python}")


def _check_port(config: LauncherConfig) -> None:
    """Fail before the model is loaded, not after."""
    if config.port:
        open_port(config).close()


def _single(plan: ServePlan, signals: _Signals) -> int:
    from ranvier.compose.event_loop import run_async
    from ranvier.compose.processes import run_single

    signals.release()
    run_async(run_single(plan))
    return 0


def _report(config: LauncherConfig) -> None:
    _log.info("ranvier %s, Python %s", __version__, platform.python_version())
    if config.print_env:
        _log.info("runtime", extra={"platform": platform.platform(), "cores": os.cpu_count(), "python": sys.executable})
    for line in config.report():
        # Defaults are for those who look for them.
        _log.log(logging.DEBUG if line.endswith("(default)") else logging.INFO, "%s", line)
    for warning in config.warnings:
        _log.warning("%s", warning)


class _Signals:
    """Remembers that the launcher was told to stop."""

    _NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.is_stopped = False
        self._former = {number: signal.signal(number, self._stop) for number in self._NUMBERS}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.is_stopped = True

    def release(self) -> None:
        """Give the handlers back."""
        for number, handler in self._former.items():
            signal.signal(number, handler)


class Supervisor:
    """One router and one engine. The engine is restarted when its device is lost; the router's end is the end."""

    def __init__(self, plan: ServePlan, signals: _Signals, timeout_s: float) -> None:
        self._plan = plan
        self._engine_python = plan.launcher_config().engine_python
        self._signals = signals
        self._timeout_s = timeout_s
        self._num_restarts = 0
        self._engine_began_s = 0.0

    def run(self) -> int:
        """Until a signal (0) or until one of them cannot go on (1)."""
        engine, router = self._start_engine(), self._start("router")
        try:
            while not self._signals.is_stopped:
                if router.poll() is not None:
                    _log.error("the router ended with code %d", router.returncode)
                    return 1
                if engine.poll() is not None:
                    replacement = self._replace(engine.returncode)
                    if replacement is None:
                        return 1
                    engine = replacement
                self._pause(_POLL_S)
            _log.info("stopping")
            return self._stop(router)
        finally:
            for process in (router, engine):
                _end(process)

    def _stop(self, router: subprocess.Popen[bytes]) -> int:
        router.terminate()
        try:
            router.wait(self._timeout_s + _KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            _log.error("the router did not end within %s s", self._timeout_s)
        return 0

    def _replace(self, code: int) -> subprocess.Popen[bytes] | None:
        """A new engine for one that ended, or None when that would not help."""
        if code == EXIT_SETUP:
            return None
        if time.monotonic() - self._engine_began_s > STABLE_S:
            self._num_restarts = 0
        if self._num_restarts >= MAX_RESTARTS:
            _log.error("the engine ended %d times in a row; giving up", self._num_restarts + 1)
            return None
        back_off_s = _FIRST_BACK_OFF_S * 2**self._num_restarts
        self._num_restarts += 1
        _log.error("the engine ended with code %d; starting it again in %s s", code, back_off_s)
        self._pause(back_off_s)
        return self._start_engine()

    def _pause(self, seconds: float) -> None:
        """Sleep in short turns, so that a signal is obeyed soon."""
        deadline = time.monotonic() + seconds
        while not self._signals.is_stopped and time.monotonic() < deadline:
            time.sleep(min(_POLL_S, seconds))

    def _start_engine(self) -> subprocess.Popen[bytes]:
        Path(self._plan.socket_path).unlink(missing_ok=True)
        self._engine_began_s = time.monotonic()
        return self._start("engine")

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        python = (self._engine_python if role == "engine" else None) or sys.executable
        process = subprocess.Popen([python, "-m", "ranvier.launcher.child", role], stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(self._plan.to_json() + b"\n")
        process.stdin.flush()
        _log.debug("started the %s", role, extra={"pid": process.pid})
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL when that does not help."""
    steps: tuple[Callable[[], None], ...] = (process.terminate, process.kill)
    for step in steps:
        if process.poll() is not None:
            return
        step()
        try:
            process.wait(_KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            continue
