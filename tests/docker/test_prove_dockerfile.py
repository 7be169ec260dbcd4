"""How `scripts/prove-dockerfile` reads a Dockerfile. Running one takes minutes and root, so no test does."""

from __future__ import annotations

from pathlib import Path

import pytest
from dockerfiles import DOCKER, prove_dockerfile


def stages(text: str) -> object:
    return prove_dockerfile.stages_of(prove_dockerfile.read_dockerfile(text))


def test_lines_are_joined_and_comments_between_them_left_out() -> None:
    text = (
        "# first\nFROM debian:bookworm-slim AS a\n\nRUN one \\\n # why\n && two \\\n\n && three\nENV A=1 \\\n    B=2\n"
    )
    found = prove_dockerfile.read_dockerfile(text)
    assert [(each.name, each.text, each.line) for each in found] == [
        ("FROM", "debian:bookworm-slim AS a", 2),
        ("RUN", "one && two && three", 4),
        ("ENV", "A=1 B=2", 9),
    ]


def test_stages_have_names_or_numbers() -> None:
    found = prove_dockerfile.stages_of(
        prove_dockerfile.read_dockerfile("FROM debian:bookworm-slim AS base\nRUN x\nFROM base\nRUN y\nRUN z")
    )
    assert [(each.base, each.name, len(each.steps)) for each in found] == [
        ("debian:bookworm-slim", "base", 1),
        ("base", "1", 2),
    ]


def test_the_cpu_file_can_be_proven() -> None:
    stages((DOCKER / "Dockerfile").read_text())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM debian:bookworm-slim\nONBUILD RUN x", "line 2: unknown instruction ONBUILD; known are ADD, ARG"),
        ("FROM debian:bookworm-slim\nRUN x \\\n", "line 2: the file ends inside an instruction"),
        ("FROM debian:bookworm-slim\nADD a b", "line 2: ADD cannot be proven here"),
        ("RUN x", "line 1: RUN before FROM"),
        ("FROM ubuntu:24.04", "FROM ubuntu:24.04: only debian:SUITE-slim and earlier stages can be made here"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(text: str, message: str) -> None:
    with pytest.raises(prove_dockerfile.DockerfileError, match=f"^{message}"):
        stages(text)


def test_pairs_may_be_quoted() -> None:
    assert prove_dockerfile.pairs('A=1 B="two words" C=x=y') == {"A": "1", "B": "two words", "C": "x=y"}
    with pytest.raises(prove_dockerfile.DockerfileError, match="^name=value is needed: A 1$"):
        prove_dockerfile.pairs("A 1")


@pytest.mark.parametrize(
    ("path", "is_out"),
    [
        ("README.md", False),
        ("other.md", True),
        ("src/ranvier/a/b.py", False),
        ("src/ranvier.egg-info/PKG-INFO", True),
        ("src/ranvier/a/__pycache__/b.pyc", True),
    ],
)
def test_the_last_pattern_that_fits_keeps_a_file_in_or_out(path: str, is_out: bool) -> None:
    patterns = ["*", "!README.md", "!src/ranvier", "**/__pycache__"]
    assert prove_dockerfile.ignored(path, patterns) == is_out


def test_only_wanted_files_are_in_the_context(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("# why\n*\n!src\n!A\n**/__pycache__\n")
    for name in ("A", "B", "src/x.py", "src/__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.as_posix() for path in prove_dockerfile.context_files(tmp_path)] == ["A", "src/x.py"]


@pytest.mark.parametrize(
    ("copy", "places"),
    [
        ("COPY A src/x.py /to/", {"/to/A", "/to/x.py"}),
        ("COPY src /to", {"/to/x.py", "/to/deep/y.py"}),
        ("COPY A to", {"/app/to"}),
    ],
)
def test_files_are_copied_where_an_engine_would_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: str, places: set[str]
) -> None:
    context, root = tmp_path / "context", tmp_path / "root"
    for name in ("A", "src/x.py", "src/deep/y.py"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).touch()
    (context / ".dockerignore").write_text("*\n!A\n!src\n")
    root.mkdir()
    monkeypatch.setattr(prove_dockerfile, "CONTEXT", context)
    image = prove_dockerfile.Image(root, {}, directory="/app")
    (step,) = prove_dockerfile.read_dockerfile(copy)
    prove_dockerfile.Builder(tmp_path, "", print)._copy(image, step)
    assert {"/" + path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == places
