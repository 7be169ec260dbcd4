"""What a user sees who gets something wrong: one line, the exit code, no traceback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from server import command, environment, free_port, launch_and_fail, serving

from tiny_checkpoints import TinyModel, write_checkpoint, write_gguf


def fails(tmp_path: Path, *arguments: str, **extra: str) -> str:
    """The one error line of a launcher that exits with 1."""
    code, output = launch_and_fail(tmp_path, *arguments, **extra)
    assert code == 1, output
    assert "Traceback" not in output
    errors = [line for line in output.splitlines() if "Error:" in line or "ERROR" in line]
    assert len(errors) == 1, output
    return errors[0]


def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "checkpoint", TinyModel())
    return tmp_path / "checkpoint"


def test_no_model(tmp_path: Path) -> None:
    assert "`model_id` is missing" in fails(tmp_path)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    error = fails(tmp_path, "--model-id", str(tmp_path / "nowhere"))
    assert "no such file or directory" in error and "config.json" in error


def test_an_empty_directory(tmp_path: Path) -> None:
    assert "no config.json, ranvier.json or .gguf file" in fails(tmp_path, "--model-id", str(tmp_path))


def test_an_unsupported_architecture(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "lama"}))
    error = fails(tmp_path, "--model-id", str(model))
    assert "`model_type` 'lama' is not supported; supported: falcon, gemma, " in error
    assert "; the nearest: `llama`" in error


def test_a_truncated_safetensors_file(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert re.search(r"model.safetensors: cut short: \d+ bytes of \d+", fails(tmp_path, "--model-id", str(model)))


def test_a_truncated_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, TinyModel())
    path.write_bytes(path.read_bytes()[:5000])
    assert "model.gguf: not a GGUF file, or cut short" in fails(tmp_path, "--model-id", str(path))


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    (model / "tokenizer.json").unlink()
    error = fails(tmp_path, "--model-id", str(model))
    assert "tokenizer.json" in error and str(model) in error


def test_a_package_that_is_not_installed(tmp_path: Path) -> None:
    assert "no installed package 'no_such_model'" in fails(tmp_path, "--model-id", "package:no-such-model")


def test_more_tokens_than_the_model_was_made_for(tmp_path: Path) -> None:
    error = fails(tmp_path, "--model-id", str(checkpoint(tmp_path)), "--max-total-tokens", "100000")
    assert "`max_total_tokens` (`sequence_length` of an export) must be <= 256" in error and "Given: 100000" in error


def test_a_prefill_budget_that_cannot_make_progress(tmp_path: Path) -> None:
    error = fails(tmp_path, "--model-id", str(checkpoint(tmp_path)), "--max-batch-prefill-tokens", "40")
    assert "`max_batch_prefill_tokens` must be >= 64. Given: 40" in error


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        error = fails(tmp_path, "--model-id", str(checkpoint(tmp_path)), "--hostname", "127.0.0.1", "--port", str(port))
    assert f"`port` {port} on 127.0.0.1 cannot be opened" in error and "--port" in error


def test_an_unknown_flag_is_a_usage_error(tmp_path: Path) -> None:
    code, output = launch_and_fail(tmp_path, "--max-batch-sise", "4")
    assert code == 2 and "--max-batch-size" in output and "Traceback" not in output


def test_help_names_every_variable(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--help"), capture_output=True, text=True, timeout=30, env=environment(tmp_path), check=True
    )
    assert "MAX_BATCH_PREFILL_TOKENS" in done.stdout and "--kv-cache-dtype" in done.stdout


def run_export(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    entry = "from ranvier.launcher.main import ranvier; ranvier()"
    return subprocess.run(
        [sys.executable, "-c", entry, "export", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(tmp_path / "cache"),
    )


def test_an_exported_artifact_serves_with_its_own_limits(tmp_path: Path) -> None:
    model, out = checkpoint(tmp_path), tmp_path / "out"
    done = run_export(
        tmp_path,
        "--model-id",
        str(model),
        "--batch-size",
        "3",
        "--sequence-length",
        "96",
        "--quantize",
        "int8",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    assert "[3, 96]" in done.stdout
    model.rename(tmp_path / "moved")  # the artifact stands alone
    with serving(tmp_path, str(out)) as server:
        reply = server.generate("hello", max_new_tokens=5, details=True)
        assert reply["details"]["generated_tokens"] == 5
        assert "batch_size=3 sequence_length=96 max_input_tokens=95" in server.log


@pytest.mark.parametrize(
    ("flag", "given", "made_for"),
    [("max-batch-size", "4", "3"), ("max-total-tokens", "128", "96"), ("quantize", "int4", "int8")],
)
def test_a_limit_that_contradicts_the_artifact_is_refused(tmp_path: Path, flag: str, given: str, made_for: str) -> None:
    out = tmp_path / "out"
    arguments = ["--batch-size", "3", "--sequence-length", "96", "--quantize", "int8", str(out)]
    assert run_export(tmp_path, "--model-id", str(checkpoint(tmp_path)), *arguments).returncode == 0
    field = flag.replace("-", "_")
    error = fails(tmp_path, "--model-id", str(out), f"--{flag}", given)
    assert f"`{field}` is {given} by flag `--{flag}`, but the artifact was exported for {made_for}" in error
    error = fails(tmp_path, "--model-id", str(out), **{field.upper(): given})
    assert f"`{field}` is {given} by environment variable `{field.upper()}`" in error


def test_export_into_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    model = checkpoint(tmp_path)
    done = run_export(tmp_path, "--model-id", str(model), str(model))
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {model}: exists and is not empty") and "Traceback" not in done.stderr


def test_json_output_is_one_object_a_line(tmp_path: Path) -> None:
    with serving(tmp_path, str(checkpoint(tmp_path)), "--json-output") as server:
        server.generate("a secret prompt", max_new_tokens=2)
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert {line["process"] for line in lines} == {"launcher", "engine", "router"}
    assert any(line["message"] == "request done" and line["output_tokens"] == 2 for line in lines)
    assert "a secret prompt" not in server.log


def test_the_second_start_does_not_pack_again(tmp_path: Path) -> None:
    model = str(checkpoint(tmp_path))
    for expected in (True, False):
        with serving(tmp_path, model) as server:
            assert ("packing weights" in server.log) == expected


def test_the_launcher_takes_serve_as_its_first_argument(tmp_path: Path) -> None:
    """Managed platforms start containers so; the variable names the model."""
    code, output = launch_and_fail(tmp_path, "serve", HF_MODEL_ID=os.fspath(tmp_path / "gone"))
    assert code == 1 and "gone" in output


def test_the_engine_runs_under_the_interpreter_that_is_named(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/started\nexec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    arguments = ("--target", "scripted", "--engine-python", str(interpreter))
    with serving(tmp_path, str(checkpoint(tmp_path)), *arguments) as server:
        assert server.generate("hello", max_new_tokens=2)["generated_text"]
    assert (tmp_path / "started").read_text() == "-m ranvier.launcher.child engine\n"


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    model = str(checkpoint(tmp_path))
    arguments = ("--model-id", model, "--target", "scripted", "--engine-python")
    assert f"`engine_python` must be the path of an interpreter. Given: {tmp_path}" in fails(
        tmp_path, *arguments, str(tmp_path)
    )
    assert "contradict each other" in fails(tmp_path, *arguments, sys.executable, "--single-process")
