"""A launcher in processes of its own, on a free port of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START_TIMEOUT_S = 120.0
ENTRY = "from ranvier.launcher.main import text_generation_launcher as main; main()"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", ENTRY, *arguments]


def environment(cache: Path, **extra: str) -> dict[str, str]:
    """This process's environment without what would configure the server."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV") if name in os.environ}
    return {**kept, "RANVIER_CACHE": str(cache), **extra}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running launcher. `log` collects standard error of all its processes."""

    process: subprocess.Popen[bytes]
    port: int
    log_path: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    def generate(self, inputs: str, **parameters: Any) -> dict[str, Any]:
        reply = httpx.post(f"{self.url}/generate", json={"inputs": inputs, "parameters": parameters}, timeout=60)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def events(self, inputs: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        body = {"inputs": inputs, "parameters": parameters}
        with httpx.stream("POST", f"{self.url}/generate_stream", json=body, timeout=60) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def is_healthy(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        return False

    def wait_until(self, is_healthy: bool) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.is_healthy() != is_healthy:
            assert time.monotonic() < deadline, f"health did not become {is_healthy}\n{self.log}"
            time.sleep(0.02)

    def children(self) -> dict[str, int]:
        """Process ids of the launcher's children by role."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = {}
        for pid in path.read_text().split():
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found[arguments[-2].decode()] = int(pid)
        return found

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def start(tmp_path: Path, model: str, *arguments: str, cache: Path | None = None, **extra: str) -> Server:
    """Start a launcher; it is not ready yet."""
    port = free_port()
    log_path = tmp_path / f"log-{port}.txt"
    options = ["--model-id", model, "--hostname", "127.0.0.1", "--port", str(port), *arguments]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command(*options), stderr=log, stdout=log, env=environment(cache or tmp_path / "cache", **extra)
        )
    return Server(process, port, log_path)


@contextlib.contextmanager
def serving(tmp_path: Path, model: str, *arguments: str, **extra: Any) -> Iterator[Server]:
    """A healthy server, stopped at the end."""
    with until_stopped(start(tmp_path, model, *arguments, **extra)) as server:
        yield server


@contextlib.contextmanager
def until_stopped(server: Server) -> Iterator[Server]:
    """A server that was started, once it is healthy; stopped at the end."""
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not server.is_healthy():
            assert server.process.poll() is None, server.log
            assert time.monotonic() < deadline, server.log
            time.sleep(0.02)
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def launch_and_fail(tmp_path: Path, *arguments: str, **extra: str) -> tuple[int, str]:
    """Exit code and standard error of a launcher that cannot start."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, env=environment(tmp_path / "cache", **extra)
    )
    return done.returncode, done.stderr


def ask(arguments: Sequence[str]) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout
