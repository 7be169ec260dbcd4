"""`ranvier eval` on a tiny checkpoint: one row for each way to hold the weights, dense first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ranvier.bench.quality import evaluate
from ranvier.export import export
from tiny_checkpoints import TinyModel, write_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", TinyModel(num_layers=1, max_positions=512))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("hello world in the land " * 12)
    return path


def rows(output: str) -> list[list[str]]:
    lines = [line for line in output.splitlines() if re.match(r"\| (?!---)", line)]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]


def arguments(tmp_path: Path, model: Path, text: Path, *more: str) -> list[str]:
    cache = str(tmp_path / "cache")
    return ["--model-id", str(model), "--artifact-cache", cache, "--text", str(text), "--clients", "2", *more]


def test_each_way_to_hold_the_weights_has_a_row_beside_dense_ones(
    tmp_path: Path, model: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(tmp_path, model, text, "--rounds", "0", "--quantize", "int8", "--quantize", "int4")
    assert evaluate([*given, "--dtype", "float32"], "ranvier eval") == 0
    head, dense, int8, int4 = rows(capsys.readouterr().out)

    assert head == ["weights", "MB", "perplexity", "loss"]
    assert [row[0] for row in (dense, int8, int4)] == ["dense float32", "int8", "int4"]
    assert dense[3] == "–"
    for row in (int8, int4):
        assert float(row[2]) == pytest.approx(float(dense[2]), rel=0.1)
        assert re.fullmatch(r"[+-]\d+\.\d %", row[3])


def test_steps_are_timed_for_each_number_of_requests(
    tmp_path: Path, model: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(tmp_path, model, text, "--rounds", "1", "--output-tokens", "3", "--vocab-size", "200")
    assert evaluate([*given, "--quantize", "int8", "--clients", "1,2"], "ranvier eval") == 0
    output = capsys.readouterr().out
    head, *timed = rows(output)

    assert head[4:] == ["step ms, 1", "step ms, 2"]
    assert all(float(cell) > 0 for row in timed for cell in row[4:])
    assert "the best of 1 rounds in turns" in output


def test_an_artifact_is_scored_as_it_is(
    tmp_path: Path, model: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ranvier.artifacts import ExportRequest, locate

    request = ExportRequest(
        source=locate(str(model)),
        revision=None,
        target="cpu",
        batch_size=2,
        sequence_length=512,
        quantize="int8",
        dtype="auto",
        kv_cache_dtype="auto",
    )
    artifact = export(request, tmp_path / "artifact", lambda done, total: None)
    assert evaluate(arguments(tmp_path, artifact.directory, text, "--rounds", "0"), "ranvier eval") == 0

    assert [row[0] for row in rows(capsys.readouterr().out)] == ["weights", "as exported"]
