"""The same load over HTTP: a client as light as one can be, so that it takes little from the server it shares with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from ranvier.bench.load import Load, Measured, prompt_text
from ranvier.compose.event_loop import run_async
from ranvier.errors import SetupError

_START_TIMEOUT_S = 600.0


class Server:
    """A launcher started for the benchmark on a free port of this machine; use as a context manager."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.port = free_port()
        command = [sys.executable, "-c", "from ranvier.launcher.main import text_generation_launcher as f; f()"]
        options = ["--hostname", "127.0.0.1", "--port", str(self.port), "--log-level", "warn"]
        self._began_s = time.perf_counter()
        self._process = subprocess.Popen([*command, *arguments, *options])
        self.start_s = 0.0

    def __enter__(self) -> Server:
        """Wait for the first healthy answer. Raises `SetupError` when the launcher ends instead."""
        while time.perf_counter() - self._began_s < _START_TIMEOUT_S:
            if self._process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.01)
                continue
            self.start_s = time.perf_counter() - self._began_s
            return self
        self.__exit__()
        raise SetupError("the server did not start; see its messages above")

    def __exit__(self, *error: object) -> None:
        """End the launcher."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)

    def rss_mb(self) -> dict[str, int]:
        """Resident memory of the launcher's processes, by role, where the system tells (Linux)."""
        sizes = {"launcher": _rss_mb(self._process.pid)}
        for child in _children(self._process.pid):
            role = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[-2].decode()
            sizes[role] = _rss_mb(child)
        return sizes


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _rss_mb(pid: int) -> int:
    path = Path(f"/proc/{pid}/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20 if path.exists() else 0


def run_http(port: int, load: Load, *, seed: int, is_stream: bool) -> Measured:
    """Put the load on `/generate_stream` (or `/generate`). Raises `SetupError` when a reply is not what was asked."""
    return run_async(_run(port, load, seed, is_stream))


async def _run(port: int, load: Load, seed: int, is_stream: bool) -> Measured:
    began = time.perf_counter()
    work = [_client(port, load, seed + client * load.num_requests, is_stream) for client in range(load.num_clients)]
    times = [each for one_client in await asyncio.gather(*work) for each in one_client]
    elapsed = time.perf_counter() - began
    num_tokens = sum(count for _, _, count in times)
    per_token = [(last - first) / (count - 1) for first, last, count in times if count > 1]
    return Measured(
        tokens_per_s=num_tokens / elapsed,
        ttft_s=statistics.median(first for first, _, _ in times),
        tpot_s=statistics.median(per_token) if is_stream else 0.0,
    )


async def _client(port: int, load: Load, seed: int, is_stream: bool) -> list[tuple[float, float, int]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return [await _request(reader, writer, load, seed + number, is_stream) for number in range(load.num_requests)]
    finally:
        writer.close()


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, load: Load, seed: int, is_stream: bool
) -> tuple[float, float, int]:
    """Seconds to the first and to the last token, and the number of tokens."""
    body = json.dumps(
        {
            "inputs": prompt_text(seed, load.num_prompt_tokens + 16),
            "parameters": {
                "max_new_tokens": load.num_output_tokens,
                "truncate": load.num_prompt_tokens,
                "details": True,
            },
        }
    ).encode()
    path = "/generate_stream" if is_stream else "/generate"
    began = time.perf_counter()
    writer.write(
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SetupError(f"the server answered {head.splitlines()[0].decode()!r} to the benchmark's request")
    first_s, data = await (_read_chunks if is_stream else _read_whole)(reader, head, began)
    last_s = time.perf_counter() - began
    last = data.rsplit(b"data: ", 1)[-1] if is_stream else data
    reply = json.loads(last)
    if "details" not in reply or reply["details"] is None:
        raise SetupError(f"the server ended a request with {reply}")
    return first_s, last_s, int(reply["details"]["generated_tokens"])


async def _read_chunks(reader: asyncio.StreamReader, head: bytes, began: float) -> tuple[float, bytes]:
    """Seconds to the first chunk of a chunked body, and its last event."""
    first_s, last = 0.0, b""
    while True:
        size = int(await reader.readline(), 16)
        data = await reader.readexactly(size + 2)
        if not size:
            return first_s, last
        first_s = first_s or time.perf_counter() - began
        last = data[:-2]


async def _read_whole(reader: asyncio.StreamReader, head: bytes, began: float) -> tuple[float, bytes]:
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    data = await reader.readexactly(int(fields[b"content-length"]))
    return time.perf_counter() - began, data
