"""The thread that owns an engine: takes commands between steps, hands events out after each."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from ranvier.core import ConstraintFactory, EngineRequest, Event, StepStats
from ranvier.engine.engine import DeviceLostError, Engine
from ranvier.errors import RequestError

_log = logging.getLogger(__name__)

Deliver: TypeAlias = Callable[[list[Event], StepStats | None], None]
"""Called on the engine's thread; must not block."""

Command: TypeAlias = Callable[[], list[Event]]


class EngineLoop:
    """Runs an engine on a thread of its own. Methods may be called from any thread.

    `on_lost` is called, on the engine's thread, when the device is taken for lost; the loop has ended then.
    `make_constraint` compiles grammars, on a thread of its own so that no step waits for one.
    """

    def __init__(
        self,
        engine: Engine,
        deliver: Deliver,
        on_lost: Callable[[str], None],
        make_constraint: ConstraintFactory | None = None,
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._on_lost = on_lost
        self._make_constraint = make_constraint
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._inbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, request: EngineRequest) -> None:
        """Queue a request; its events go to `deliver`."""
        self._inbox.put(lambda: self._engine.submit(request))
        if request.grammar is not None:
            self._compiler.submit(self._compile, request.request_id, request.grammar, request.eos_token_ids)

    def _compile(self, request_id: str, grammar: str, eos_token_ids: frozenset[int]) -> None:
        if self._make_constraint is None:
            self._inbox.put(lambda: self._engine.fail(request_id, "this engine was started without grammars"))
            return
        try:
            constraint = self._make_constraint(grammar, eos_token_ids)
        except RequestError as error:
            message = str(error)
            self._inbox.put(lambda: self._engine.fail(request_id, message))
        except Exception as error:
            _log.exception("a grammar could not be compiled")
            message = f"the grammar could not be compiled: {type(error).__name__}"
            self._inbox.put(lambda: self._engine.fail(request_id, message))
        else:
            self._inbox.put(lambda: self._engine.admit(request_id, constraint))

    def cancel(self, request_id: str) -> None:
        """End a request before the next step."""
        self._inbox.put(lambda: self._engine.cancel(request_id))

    def cancel_all(self) -> None:
        """End every request before the next step."""
        self._inbox.put(self._engine.cancel_all)

    def stop(self) -> None:
        """End the thread after the step it is in; open requests get no further event. Waits."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._compiler.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        try:
            while self._obey():
                if self._engine.has_work:
                    outcome = self._engine.step()
                    self._deliver(list(outcome.events), outcome.stats)
        except DeviceLostError as error:
            self._on_lost(str(error))
        except Exception as error:
            _log.exception("the engine's thread ended")
            self._on_lost(f"{type(error).__name__}: {error}")

    def _obey(self) -> bool:
        """Carry out all commands there are; wait for one when there is no work. False means stop."""
        events: list[Event] = []
        while True:
            try:
                command = self._inbox.get(block=not self._engine.has_work and not events)
            except queue.Empty:
                break
            if command is None:
                return False
            events += command()
        if events:
            self._deliver(events, self._engine.idle_stats())
        return True
