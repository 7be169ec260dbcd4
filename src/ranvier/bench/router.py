"""`ranvier bench-router`: how many events a second the router streams, and what one costs it.

Three processes: the router as it is served; an engine whose steps cost nothing, the real scheduler over programs that
answer at once; and clients that only count. The figure is events for each second of the router's processor time: what
one core would stream, whatever else the machine is doing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import selectors
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ranvier.bench.over_http import free_port
from ranvier.compose.event_loop import run_async
from ranvier.compose.plan import ServePlan, prepare_artifact, settle_limits
from ranvier.compose.processes import run_router
from ranvier.config import load_config
from ranvier.core import Capabilities, EngineInfo, Limits, StepPlan, StepResult, TokenChoice
from ranvier.engine import Engine, EngineLoop
from ranvier.errors import SetupError
from ranvier.ipc import EngineServer

_CONTEXT = multiprocessing.get_context("spawn")
_START_TIMEOUT_S = 60.0
_BODIES: dict[str, dict[str, object]] = {
    "/generate_stream": {"inputs": "The nerve signal", "parameters": {}},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "The nerve signal"}], "stream": True},
    "/v1/completions": {"prompt": "The nerve signal", "stream": True},
}


class _InstantPrograms:
    """Chooses by counting; a step costs what the scheduler costs."""

    capabilities = Capabilities(mixed_steps=True, chunk_multiple=32, prefix_sharing=False)
    details = {"steps": "instant"}

    def run(self, plan: StepPlan) -> StepResult:
        """One choice for each row."""
        return StepResult(tuple(TokenChoice(300 + row.token_index % 200, -0.5) for row in plan.rows))

    def release(self) -> None:
        """Nothing to let go of."""


def _serve_engine(path: str, limits: Limits) -> None:
    programs = _InstantPrograms()
    info = EngineInfo(target="instant", limits=limits, capabilities=programs.capabilities, details=programs.details)
    server = EngineServer(Path(path), info)
    loop = EngineLoop(Engine(programs, limits), server.deliver, server.lost)
    loop.start()
    server.serve(loop)


def _serve_router(plan_json: bytes) -> None:
    run_async(run_router(ServePlan.from_json(plan_json)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """One round: events, seconds of the wall clock and of the router's processor."""

    num_events: int
    wall_s: float
    cpu_s: float


def bench_router(arguments: Sequence[str], prog: str) -> int:
    """Run and print the table. Options it does not know go to the server."""
    options, rest = _parse(arguments, prog)
    port = free_port()
    server_arguments = [*rest, "--hostname", "127.0.0.1", "--port", str(port), "--log-level", "warn"]
    config = load_config(server_arguments, os.environ, prog=prog)
    artifact = prepare_artifact(config)
    limits = replace(settle_limits(config, artifact.manifest), batch_size=options.streams)
    print(f"load average {os.getloadavg()[0]:.2f}; {options.streams} streams of {options.tokens} tokens\n")
    print("| route | events/s of router CPU | us/event | events/s of wall clock |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "engine.sock")
        plan = ServePlan(
            config=config.to_json(), artifact_directory=str(artifact.directory), limits=limits, socket_path=path
        )
        with _processes(plan, port) as router_pid:
            for route in _BODIES:
                rounds = [_round(route, port, router_pid, options) for _ in range(options.rounds + 1)][1:]
                _print(route, rounds)
    return 0


def _parse(arguments: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog=prog, description="Measure what a streamed event costs the router.", epilog="Other options: the server's."
    )
    parser.add_argument("--streams", type=int, default=64, help="streams at once (64)")
    parser.add_argument("--tokens", type=int, default=500, help="tokens of a stream (500)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one to warm up (5)")
    return parser.parse_known_args(list(arguments))


@contextmanager
def _processes(plan: ServePlan, port: int) -> Iterator[int]:
    """A router, whose process id this gives, over an instant engine."""
    engine = _CONTEXT.Process(target=_serve_engine, args=(plan.socket_path, plan.limits), daemon=True)
    router = _CONTEXT.Process(target=_serve_router, args=(plan.to_json(),), daemon=True)
    engine.start()
    router.start()
    try:
        _await_port(port, router)
        assert router.pid is not None, "it has been started"
        yield router.pid
    finally:
        assert router.pid is not None, "it has been started"
        os.kill(router.pid, signal.SIGTERM)
        router.join(10)
        for process in (router, engine):
            process.kill()
            process.join()


def _await_port(port: int, router: multiprocessing.process.BaseProcess) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and router.is_alive():
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SetupError("the router did not start")


def _round(route: str, port: int, router_pid: int, options: argparse.Namespace) -> _Figures:
    request = _request(route, options.tokens)
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(options.streams)]
    began, cpu_began = time.perf_counter(), _cpu_s(router_pid)
    for each in sockets:
        each.sendall(request)
    num_events = _count_events(sockets)
    wall_s, cpu_s = time.perf_counter() - began, _cpu_s(router_pid) - cpu_began
    if num_events < options.streams * options.tokens:
        raise SetupError(f"{num_events} events came where {options.streams} x {options.tokens} were asked for")
    return _Figures(num_events=num_events, wall_s=wall_s, cpu_s=cpu_s)


def _request(route: str, num_tokens: int) -> bytes:
    body = dict(_BODIES[route])
    if "inputs" in body:
        body["parameters"] = {"max_new_tokens": num_tokens}
    else:
        body["max_tokens"] = num_tokens
    data = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def _count_events(sockets: list[socket.socket]) -> int:
    """Read all streams to their end, with as little work as can be."""
    count = 0
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ, each)
        while selector.get_map():
            for key, _ in selector.select():
                stream: socket.socket = key.data
                data = stream.recv(65536)
                count += data.count(b"data: {")
                if not data:
                    selector.unregister(stream)
                    stream.close()
    return count


def _cpu_s(pid: int) -> float:
    """Processor seconds that a process has used (`proc(5)`: user and system time)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _print(route: str, rounds: list[_Figures]) -> None:
    per_cpu = statistics.median(each.num_events / each.cpu_s for each in rounds)
    per_wall = statistics.median(each.num_events / each.wall_s for each in rounds)
    print(f"| `{route}` | {per_cpu:,.0f} | {1e6 / per_cpu:.1f} | {per_wall:,.0f} |")
