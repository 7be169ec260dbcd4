"""The tree keeps its shape: short functions, bounded files, every package explained."""

from __future__ import annotations

import ast
import inspect
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "ranvier").rglob("*.py"))


def functions() -> list[tuple[str, int]]:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                found.append((f"{path.relative_to(ROOT)}:{node.name}", length))
    return found


def test_functions_are_short() -> None:
    lengths = functions()
    assert statistics.median(length for _, length in lengths) < 10
    assert [name for name, length in lengths if length > 60] == []


def test_files_are_bounded() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_every_package_is_explained_in_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "src" / "ranvier").glob("*/__init__.py")}
    assert {name for name in packages if f"| `{name}` |" not in page} == set()


def test_every_error_class_is_drawn_in_its_module() -> None:
    from ranvier import errors

    drawn = errors.__doc__ or ""
    names = [name for name, value in vars(errors).items() if isinstance(value, type)]
    assert [name for name in names if name not in drawn] == []


def test_every_request_error_has_a_status() -> None:
    from ranvier import errors
    from ranvier.api.errors import error_body

    leaves = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RequestError)
    ]
    for kind in leaves:
        if kind is not errors.RequestError:
            error = kind(*_some_arguments(kind))
            status, body = error_body(error)
            assert 400 <= status < 600 and body.error and body.error_type


def _some_arguments(kind: type) -> list[object]:
    """One for each that the class wants: a number where it says so, else a text."""
    if kind.__init__ is Exception.__init__:  # type: ignore[misc]
        return ["why"]
    wanted = list(inspect.signature(kind).parameters.values())
    return [3 if each.annotation in (int, "int") else "why" for each in wanted]
