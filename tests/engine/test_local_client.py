"""What `LocalEngineClient` does beside what every engine client does (`tests/ipc` has the suite they share)."""

from __future__ import annotations

import asyncio
from functools import partial

from engine_helpers import Gated, make_limits

from ranvier.core import Capabilities, EngineInfo, Event, FailEvent, is_terminal
from ranvier.engine import Engine, LocalEngineClient
from ranvier.targets.scripted import ScriptedPrograms
from scripted_requests import GUARD_S, make_request

INFO = EngineInfo(
    target="scripted",
    limits=make_limits(),
    capabilities=Capabilities(mixed_steps=True, chunk_multiple=4, prefix_sharing=True),
    details={},
)


def test_close_waits_for_the_step_in_progress_then_fails_requests_then_releases_the_device() -> None:
    happened: list[str] = []
    gate = Gated(ScriptedPrograms(num_slots=2, sequence_length=20000))

    def note(event: Event) -> None:
        if is_terminal(event):
            happened.append("ended")
            assert event == FailEvent("p", "the engine was stopped")

    async def main() -> None:
        engine = Engine(gate, make_limits(sequence_length=20000))
        client = LocalEngineClient(engine, INFO, lambda stats: None, partial(happened.append, "released"))
        client.submit(make_request("p", [5, 6, 7], 19000), note)
        await asyncio.to_thread(gate.wait_for_run)
        closing = asyncio.ensure_future(client.close())
        # One turn, so that the close has begun.
        await asyncio.sleep(0)
        assert (client.is_healthy, happened) == (False, [])
        # The stop comes long before the request would have its last token.
        gate.permit(20000)
        await asyncio.wait_for(closing, GUARD_S)
        assert happened == ["ended", "released"]
        await client.close()
        assert happened == ["ended", "released"]

    asyncio.run(main())
