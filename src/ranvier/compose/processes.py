"""What each process does from start to end. The router's imports no device library, the engine's no HTTP library."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path

from ranvier.compose.plan import ServePlan
from ranvier.ipc import EngineServer, RemoteEngineClient

_log = logging.getLogger(__name__)

EXIT_SETUP = 1
"""The user has to change something; a restart would not help."""

EXIT_LOST = 3
"""The device was lost; a new process may find it again."""


def run_engine(plan: ServePlan) -> int:
    """Load, serve the router, and return the exit code once the device is lost. Raises a `SetupError`."""
    from ranvier.compose.constraints import constraint_factory
    from ranvier.compose.engine import load_planned
    from ranvier.engine import EngineLoop

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine, info, programs = load_planned(plan)
    server = EngineServer(Path(plan.socket_path), info)
    loop = EngineLoop(engine, server.deliver, server.lost, constraint_factory(plan.tokenizer_json))
    loop.start()
    _log.info("engine warm", extra=info.details)
    server.serve(loop)
    programs.release()
    return EXIT_LOST


async def run_router(plan: ServePlan) -> None:
    """Wait for the engine, then serve until a signal. Raises a `SetupError`."""
    from ranvier.compose import router
    from ranvier.compose.step_recorder import StepRecorder

    stop = router.stop_on_signals()
    metrics = router.make_metrics(plan.limits)
    with router.traced(plan) as tracing:
        connecting = asyncio.ensure_future(
            RemoteEngineClient.connect(Path(plan.socket_path), StepRecorder(metrics, plan.limits))
        )
        stopping = asyncio.ensure_future(stop.wait())
        # Meanwhile the engine loads.
        text = router.load_text(plan)
        grammars = router.make_grammars(plan, text)
        await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            connecting.cancel()
            return
        stopping.cancel()
        client = connecting.result()
        metrics.follow_engine_connections(lambda: client.num_connections)
        await router.serve(plan, router.build_service(plan, text, grammars, client, metrics, tracing), stop)


async def run_single(plan: ServePlan) -> None:
    """Both halves in this process. Raises a `SetupError`."""
    from ranvier.compose import router
    from ranvier.compose.constraints import constraint_factory
    from ranvier.compose.engine import load_planned
    from ranvier.compose.step_recorder import StepRecorder
    from ranvier.engine import LocalEngineClient

    stop = router.stop_on_signals()
    metrics = router.make_metrics(plan.limits)
    with router.traced(plan) as tracing:
        engine, info, programs = load_planned(plan)
        _log.info("engine warm", extra=info.details)
        recorder = StepRecorder(metrics, plan.limits)
        constraints = constraint_factory(plan.tokenizer_json)
        client = LocalEngineClient(engine, info, recorder, programs.release, constraints)
        text = router.load_text(plan)
        grammars = router.make_grammars(plan, text)
        await router.serve(plan, router.build_service(plan, text, grammars, client, metrics, tracing), stop)


def end_with_parent(descriptor: int) -> None:
    """End this process when the pipe from the launcher closes: a killed launcher leaves nobody behind."""

    def watch() -> None:
        while os.read(descriptor, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
