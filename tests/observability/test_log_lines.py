"""Log lines: their fields, and what must never be in them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_driver import AsgiCall, client_of
from ranvier.core import FailEvent
from ranvier.observability import set_up_logs
from ranvier.observability.logs import JsonFormatter, PlainFormatter
from serving import END, HandEngine, PlayingEngine, make_service, scripted_service, until


def record(message: str = "ready", *arguments: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    """A record of 2001-09-09, 01:46:40.25 UTC, which is a billion seconds after the epoch."""
    made = logging.makeLogRecord({"name": "ranvier.api", "levelno": level, "levelname": logging.getLevelName(level)})
    made.msg, made.args = message, arguments
    made.created, made.msecs = 1_000_000_000.25, 250.0
    vars(made).update(extra)
    return made


def raised() -> Any:
    try:
        raise ValueError("out of luck")
    except ValueError:
        return sys.exc_info()


def test_a_json_line_has_fixed_fields_first_and_then_what_the_record_adds() -> None:
    line = JsonFormatter("router").format(record("%d slots", 4, address="http://x:80", port=80))
    assert line == (
        '{"timestamp":"2001-09-09T01:46:40.250Z","level":"INFO","message":"4 slots","target":"ranvier.api",'
        '"process":"router","address":"http://x:80","port":80}'
    )


def test_a_json_line_is_one_line_whatever_it_tells() -> None:
    line = JsonFormatter("router").format(record("a\nb", text='"\u2028\x00', exc_info=raised()))
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["message"], fields["text"]) == ("a\nb", '"\u2028\x00')
    assert fields["exception"].startswith("Traceback ")
    assert fields["exception"].endswith("ValueError: out of luck")


def test_values_that_json_does_not_have_are_told_as_text() -> None:
    line = JsonFormatter("engine").format(record(path=complex(1, 2), seed=2**64 - 1, nothing=None, none_of=[]))
    fields = json.loads(line)
    assert (fields["path"], fields["seed"], fields["nothing"], fields["none_of"]) == ("(1+2j)", 2**64 - 1, None, [])


def test_a_plain_line_ends_with_the_fields() -> None:
    line = PlainFormatter("engine").format(record("loaded", level=logging.WARNING, seconds=1.5, dtype="int4"))
    assert line == "2001-09-09T01:46:40.250Z WARNING engine: loaded seconds=1.5 dtype=int4"
    assert PlainFormatter("engine").format(record()) == "2001-09-09T01:46:40.250Z INFO  engine: ready"


def test_a_plain_line_is_followed_by_the_traceback() -> None:
    lines = PlainFormatter("engine").format(record(exc_info=raised())).splitlines()
    assert lines[0] == "2001-09-09T01:46:40.250Z INFO  engine: ready"
    assert (lines[1], lines[-1]) == ("  Traceback (most recent call last):", "  ValueError: out of luck")


def test_values_of_a_plain_line_are_quoted_where_they_could_be_taken_for_more() -> None:
    line = PlainFormatter("x").format(
        record(a="two words", b='say "x"', c="", d="a=b", e=r"c:\d", f=r"c:\d e", g={"k": 1})
    )
    assert line.split(": ready ")[1] == (
        r'a="two words" b="say \"x\"" c="" d=a=b e=c:\d f="c:\\d e" ' + "g=\"{'k': 1}\""
    )


FORGED = "x\x1b[2J\r\n2001-09-09T01:46:40.250Z INFO  engine: forged"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\nb", r"a\r\nb"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x00\x7f\x85", r"\x00\x7f\x85"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u202eright to left", r"\u202eright to left"),
        ("\ud800", r"\ud800"),
        ("naïve 神経 🙂", "naïve 神経 🙂"),
    ],
)
def test_what_does_not_print_is_escaped_in_plain_lines(text: str, told: str) -> None:
    line = PlainFormatter("engine").format(record("%s", text, value=text + " "))
    assert line == f'2001-09-09T01:46:40.250Z INFO  engine: {told} value="{told} "'


def test_nobody_can_write_a_line_of_their_own() -> None:
    """Neither in a message nor in a value nor in the text of an exception."""
    try:
        raise ValueError(FORGED)
    except ValueError:
        problem = sys.exc_info()
    made = record(FORGED, value=FORGED, exc_info=problem)
    plain = PlainFormatter("engine").format(made).split("\n")
    assert [line for line in plain[1:] if not line.startswith("  ")] == []
    assert [line for line in plain if not line.isprintable()] == []
    assert "\n" not in JsonFormatter("engine").format(made)


@given(st.text())
def test_any_text_is_one_line_that_can_be_written(text: str) -> None:
    for formatter in (PlainFormatter("x"), JsonFormatter("x")):
        line = formatter.format(record("%s", text, value=text))
        assert "\n" not in line and "\r" not in line
        assert line.encode().decode() == line


def test_json_takes_what_its_encoder_does_not() -> None:
    line = JsonFormatter("x").format(record("half a pair: \ud800", huge=2**70, path=complex(1, 2)))
    fields = json.loads(line)
    assert (fields["message"], fields["huge"], fields["path"]) == ("half a pair: \ud800", 2**70, "(1+2j)")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards, and ours."""
    logger, ours = logging.getLogger(), logging.getLogger("ranvier")
    handlers, levels = list(logger.handlers), (logger.level, ours.level)
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", logging.DEBUG), ("info", logging.INFO), ("warn", logging.WARNING), ("error", logging.ERROR)],
)
def test_a_level_lets_itself_and_what_is_worse_through(
    level: str, expected: int, root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logs(level, as_json=True, process="router")
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("ranvier.x").log(number, "at %d", number)
    captured = capsys.readouterr()
    told = [json.loads(line)["message"] for line in captured.err.splitlines()]
    assert told == [f"at {number}" for number in (10, 20, 30, 40) if number >= expected]
    assert captured.out == ""


@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        ("trace", {"debug", "info", "warning", "error"}, {"debug", "info", "warning", "error"}),
        ("debug", {"debug", "info", "warning", "error"}, {"warning", "error"}),
        ("info", {"info", "warning", "error"}, {"warning", "error"}),
        ("warn", {"warning", "error"}, {"warning", "error"}),
        ("error", {"error"}, {"error"}),
    ],
)
def test_libraries_have_their_say_from_warnings_on_or_with_trace(
    level: str, ours: set[str], theirs: set[str], root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logs(level, as_json=True, process="router")
    for name in ("ranvier.x", "library.x"):
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(number, "told")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for name, expected in (("ranvier.x", ours), ("library.x", theirs)):
        assert {line["level"].lower() for line in lines if line["target"] == name} == expected


@pytest.mark.parametrize(
    ("colorize", "is_terminal", "no_color", "has_colours"),
    [
        ("auto", True, "", True),
        ("auto", True, "1", False),
        ("auto", False, "", False),
        ("true", False, "1", True),
        ("1", False, "", True),
        ("false", True, "", False),
        ("0", True, "", False),
    ],
)
def test_colours_are_for_terminals_or_for_those_who_ask(
    colorize: str,
    is_terminal: bool,
    no_color: str,
    has_colours: bool,
    root: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("NO_COLOR", no_color)
    set_up_logs("info", as_json=False, process="router", colorize=colorize)
    logging.getLogger("ranvier.x").warning("hot")
    word = "\x1b[33mWARNING\x1b[0m" if has_colours else "WARNING"
    assert f" {word} router: hot\n" in screen.getvalue()
    set_up_logs("info", as_json=True, process="router", colorize=colorize)
    logging.getLogger("ranvier.x").warning("cold")
    assert json.loads(screen.getvalue().splitlines()[1])["level"] == "WARNING"


def test_setting_up_twice_does_not_tell_twice(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        set_up_logs("info", as_json=False, process="router")
    logging.getLogger("ranvier.x").info("once")
    assert capsys.readouterr().err.count("once") == 1


def done_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The JSON lines of requests that ended well."""
    lines = [json.loads(JsonFormatter("router").format(each)) for each in caplog.records]
    return [line for line in lines if line["message"] == "request done"]


def test_one_line_tells_what_a_request_was(caplog: pytest.LogCaptureFixture) -> None:
    """`signal` is 6 tokens and gives 2."""

    async def main() -> None:
        async with scripted_service() as service, client_of(service) as client:
            body = {"inputs": "signal", "parameters": {"seed": 9, "top_k": 1}}
            assert (await client.post("/generate", json=body)).status_code == 200

    caplog.set_level(logging.INFO, "ranvier")
    asyncio.run(main())
    (line,) = done_lines(caplog)
    assert (line["level"], line["target"], line["process"]) == ("INFO", "ranvier.service.recording", "router")
    counts = {name: line[name] for name in ("input_tokens", "output_tokens", "reused_tokens", "finish_reason", "seed")}
    assert counts == {
        "input_tokens": 6,
        "output_tokens": 2,
        "reused_tokens": 0,
        "finish_reason": "eos_token",
        "seed": 9,
    }
    assert line["parameters"] == {"seed": 9, "top_k": 1}
    times = {name for name in line if "time" in name and name != "timestamp"}
    assert times == {"total_time", "validation_time", "queue_time", "inference_time", "time_per_token"}


def test_best_of_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with client_of(make_service(PlayingEngine([97, END]))) as client:
            body = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}
            assert (await client.post("/generate", json=body)).status_code == 200

    caplog.set_level(logging.INFO, "ranvier")
    asyncio.run(main())
    assert len(done_lines(caplog)) == 1


def test_a_failure_of_the_engine_is_told_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        engine = PlayingEngine([], ending=lambda request_id: FailEvent(request_id, "out of luck"))
        async with client_of(make_service(engine)) as client:
            assert (await client.post("/generate", json={"inputs": "a"})).status_code == 424

    caplog.set_level(logging.INFO, "ranvier")
    asyncio.run(main())
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("ERROR", "request failed: out of luck")
    ]


SECRET = "ThePromptThatNobodyShallRead"


async def every_kind_of_request() -> None:
    """Served, refused for each reason, failed, dropped: each with the secret in its prompt or its text."""
    engine = PlayingEngine(list(SECRET.encode()), [97], ending=lambda request_id: FailEvent(request_id, "broken"))
    async with client_of(make_service(engine)) as client:
        for path in ("/generate", "/generate_stream", "/"):
            for body in (
                {"inputs": SECRET, "parameters": {"stop": [SECRET], "details": True}},
                {"inputs": SECRET, "parameters": {"temperature": 0}},
                {"inputs": SECRET * 5},
                {"inputs": SECRET + "\ud800"},
                {"inputs": SECRET, "parameters": {"adapter_id": SECRET}},
                {"inputs": SECRET, "parameters": {"grammar": {"type": "regex", "value": SECRET}}},
                {"inputs": [SECRET]},
                {SECRET: SECRET},
            ):
                await client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
            await client.post(path, content=SECRET, headers={"content-type": "application/json"})
    hand = HandEngine()
    call = AsgiCall(make_service(hand), "/generate_stream", {"inputs": SECRET})
    await until(lambda: len(hand.requests) == 1, "submitted")
    hand.say(0, SECRET)
    call.leave()
    await call.done()
    async with scripted_service(fault_token=ord("T")) as service, client_of(service) as client:
        assert (await client.post("/generate", json={"inputs": SECRET})).status_code == 424


def test_no_line_at_any_level_holds_a_prompt_or_a_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asyncio.run(every_kind_of_request())
    lines = [
        formatter.format(each) for each in caplog.records for formatter in (JsonFormatter("x"), PlainFormatter("x"))
    ]
    assert len(lines) > 20
    told = [line for line in lines if SECRET in line or SECRET[:12] in line or str(list(SECRET.encode()))[1:20] in line]
    assert told == []
