"""The engine's end of the socket, seen by a router that is a bare socket."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest
from bare_ends import BareRouter, Commands, serving
from ipc_helpers import make_info, make_stats

from ranvier.core import Event, FinishEvent, StartEvent, TokenEvent
from ranvier.ipc import EngineServer
from ranvier.ipc.messages import (
    LENGTH_BYTES,
    MAX_FRAME_BYTES,
    Cancel,
    Lost,
    StepFrame,
    frame,
    hello_frame,
    step_frame,
    submit_frame,
)
from scripted_requests import GUARD_S, make_request

HELLO = hello_frame(make_info())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def welcomed(path: Path) -> BareRouter:
    router = BareRouter(path)
    assert router.heard() == HELLO
    return router


# One router


def test_a_router_is_told_first_what_the_engine_is(path: Path) -> None:
    with serving(path, Commands()):
        router = BareRouter(path)
        assert router.heard() == HELLO
        router.close()


def test_commands_of_the_router_are_carried_out_in_order(path: Path) -> None:
    commands = Commands()
    request = make_request("r", [5, 6, 7], 4, [34], do_sample=True, seed=2**64 - 1)
    with serving(path, commands):
        router = welcomed(path)
        router.say(submit_frame(request))
        router.say(Cancel("r"))
        assert [commands.next_call() for _ in range(2)] == [("submit", "r"), ("cancel", "r")]
        router.close()
    assert commands.requests == [request]


def test_commands_may_come_in_pieces(path: Path) -> None:
    commands = Commands()
    with serving(path, commands):
        router = welcomed(path)
        for byte in frame(Cancel("r")) * 2:
            router.send(bytes([byte]))
        assert [commands.next_call() for _ in range(2)] == [("cancel", "r")] * 2
        router.close()


def test_what_a_step_says_is_one_frame(path: Path) -> None:
    events: list[Event] = [StartEvent("r", 1.5, 4), TokenEvent("r", 55, -0.25, ()), FinishEvent("r", "length")]
    with serving(path, Commands()) as server:
        router = welcomed(path)
        server.deliver(events, make_stats())
        message = router.heard()
        assert isinstance(message, StepFrame)
        assert (list(message.events()), message.stats) == (events, make_stats())
        router.close()


# Routers that go


def test_when_a_router_goes_its_requests_are_cancelled_and_the_next_is_served(path: Path) -> None:
    commands = Commands()
    with serving(path, commands):
        for _ in range(3):
            router = welcomed(path)
            router.close()
            assert commands.next_call() == ("cancel_all", "")


def test_a_router_that_only_stops_sending_is_gone_too(path: Path) -> None:
    commands = Commands()
    with serving(path, commands):
        router = welcomed(path)
        router.end_sending()
        assert commands.next_call() == ("cancel_all", "")
        router.close()


def test_the_next_router_hears_nothing_of_what_was_said_in_between(path: Path) -> None:
    commands = Commands()
    with serving(path, commands) as server:
        welcomed(path).close()
        assert commands.next_call() == ("cancel_all", "")
        server.deliver([TokenEvent("old", 1, 0.0, ())], None)
        router = welcomed(path)
        server.deliver([TokenEvent("new", 2, 0.0, ())], None)
        assert router.heard() == step_frame([TokenEvent("new", 2, 0.0, ())], None)
        router.close()


def test_no_command_of_a_router_comes_after_its_requests_were_cancelled(path: Path) -> None:
    """The writer noticed first that the router was gone, and what the reader still held was submitted afterwards."""
    entered: queue.SimpleQueue[None] = queue.SimpleQueue()
    go_on = threading.Event()

    class Slow(Commands):
        def submit(self, request: object) -> None:
            entered.put(None)
            assert go_on.wait(GUARD_S)
            self.calls.put(("submit", ""))

    commands = Slow()
    with serving(path, commands) as server:
        router = welcomed(path)
        for name in ("a", "b"):
            router.say(submit_frame(make_request(name, [1])))
        entered.get(timeout=GUARD_S)
        router.close()
        server.deliver([], make_stats())
        go_on.set()
        calls = [commands.next_call()[0] for _ in range(3)]
    assert calls == ["submit", "submit", "cancel_all"]


def test_a_router_that_leaves_before_the_hello_does_not_end_the_server(path: Path) -> None:
    """The hello was sent outside of what watches for broken connections."""
    commands = Commands()
    with serving(path, commands):
        first = welcomed(path)
        BareRouter(path).close()
        first.close()
        assert [commands.next_call() for _ in range(2)] == [("cancel_all", "")] * 2
        welcomed(path).close()


def test_a_frame_cut_off_by_the_end_of_the_stream_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    commands = Commands()
    with serving(path, commands):
        router = welcomed(path)
        router.send(frame(Cancel("r"))[:-1])
        router.close()
        assert commands.next_call() == ("cancel_all", "")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            (MAX_FRAME_BYTES + 1).to_bytes(LENGTH_BYTES, "little"),
            f"a frame of {MAX_FRAME_BYTES + 1} bytes is over the limit of {MAX_FRAME_BYTES}",
        ),
        (framed(b"\xc1\xc1\xc1"), "a frame of 3 bytes is no message: MessagePack data is malformed"),
        (frame(Lost("sorry")), "a frame of 12 bytes is no message: Invalid value 'lost'"),
        (framed(b""), "a frame of 0 bytes is no message: Input data was truncated"),
        (framed(b"\x92\xa6cancel\xa1\xff"), "a frame of 10 bytes is no message: 'utf-8' codec can't decode"),
        (framed(b"\x93\xa6cancel\xa1r" + b"\x91" * 5000), "a frame of 5010 bytes is no message: "),
    ],
    ids=["oversize", "garbage", "an engine's message", "empty", "not utf-8", "nested too deep"],
)
def test_a_router_that_sends_nonsense_is_hung_up_on(
    path: Path, data: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    commands = Commands()
    with serving(path, commands):
        router = welcomed(path)
        router.send(data)
        assert router.rest() == b""
        router.close()
        assert commands.next_call() == ("cancel_all", "")
        welcomed(path).close()
        assert commands.next_call() == ("cancel_all", "")
    (record,) = caplog.records
    assert record.message.startswith(f"the router's connection broke: {reason}")


# Losing the device


def test_a_lost_device_is_told_to_the_router_and_ends_the_server(path: Path) -> None:
    commands = Commands()
    with serving(path, commands) as server:
        router = welcomed(path)
        server.lost("the chip is on fire")
        assert router.heard() == Lost("the chip is on fire")
        assert router.rest() == b""
        router.close()


def test_a_device_lost_while_no_router_is_connected_ends_the_server(path: Path) -> None:
    """The next router dropped the word of the loss with the old frames, and was served by nobody."""
    commands = Commands()
    with serving(path, commands) as server:
        welcomed(path).close()
        assert commands.next_call() == ("cancel_all", "")
        server.lost("the chip is on fire")


def test_a_device_lost_before_the_first_router_ends_the_server(path: Path) -> None:
    server = EngineServer(path, make_info())
    server.lost("the chip was never there")
    server.serve(Commands())
    with pytest.raises(ConnectionRefusedError):
        BareRouter(path)


def test_a_device_lost_while_a_router_is_being_welcomed_ends_the_server(path: Path) -> None:
    """The word of the loss may go with the old frames; the router sees the end of the stream all the same."""

    class Unlucky(EngineServer):
        def _drop_old_frames(self) -> None:
            self.lost("just now")
            super()._drop_old_frames()

    commands = Commands()
    with serving(path, commands, Unlucky):
        router = BareRouter(path)
        assert router.rest() == b""
        assert commands.next_call() == ("cancel_all", "")
        router.close()


def test_loss_may_be_reported_again_when_the_server_has_ended(path: Path) -> None:
    with serving(path, Commands()) as server:
        server.lost("once")
    server.lost("twice")
