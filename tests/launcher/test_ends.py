"""How commands end that are told to."""

from __future__ import annotations

import signal

import pytest

from ranvier.launcher import main


def test_an_interrupted_command_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: object, prog: str) -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        main._exit(interrupted, [], "ranvier export")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_export_that_is_terminated_clears_away_what_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: dict[int, object] = {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: installed.update({number: handler}))
    with pytest.raises(Exception, match="no such file or directory"):
        main._export(["--model-id", "/nowhere", "out"], "ranvier export")
    handler = installed[signal.SIGTERM]
    assert callable(handler)
    # The exception that a building folder is removed for, see `artifacts.publish`.
    with pytest.raises(SystemExit) as ended:
        handler(signal.SIGTERM, None)
    assert ended.value.code == 143
