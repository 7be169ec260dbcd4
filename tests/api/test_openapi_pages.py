"""The document and the page of parameters, as commands print them and as they are kept in `docs/`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from openapi_table import as_markdown

from ranvier.api.openapi import api_markdown, default_document, request_fields
from ranvier.compose.capabilities import target_parameters

DOCS = Path(__file__).parents[2] / "docs"
ENTRY = "from ranvier.launcher.main import ranvier; ranvier()"


def run(*arguments: str) -> str:
    command = [sys.executable, "-c", ENTRY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_page_of_parameters_is_what_the_command_prints() -> None:
    """If not: `ranvier api-table > docs/api.md`."""
    assert page("api.md") == run("api-table")


def test_every_field_of_every_request_is_on_the_page() -> None:
    text = page("api.md")
    for schema, fields in request_fields().items():
        section = text.partition(f"\n### {schema}\n")[2].partition("\n### ")[0]
        assert [name for name in fields if f"\n| `{name}` |" not in section] == [], schema


def test_every_operation_is_on_the_page() -> None:
    text = page("api.md")
    operations = {
        f"| {method.upper()} `{path}` |" for path, found in default_document()["paths"].items() for method in found
    }
    assert {operation for operation in operations if operation not in text} == set()


def test_a_parameter_that_a_target_does_not_honour_is_shown_as_refused() -> None:
    parameters = target_parameters() | {"poor": frozenset({"temperature"})}
    lines = api_markdown(parameters).splitlines()

    def honoured(name: str) -> list[str]:
        """By cpu, neuron, nxd with logits, nxd without, poor and scripted, in the first table that has the field."""
        row = next(line for line in lines if line.startswith(f"| `{name}` |"))
        return row.split(" | ")[4:10]

    assert honoured("top_k") == ["yes", "yes", "yes", "yes", "refused", "yes"]
    assert honoured("seed") == ["yes", "yes", "yes", "refused", "refused", "yes"]
    assert honoured("temperature") == ["yes"] * 6
    assert honoured("max_new_tokens") == ["yes"] * 6
    assert honoured("watermark") == ["refused"] * 6


def test_every_difference_between_the_documents_is_explained() -> None:
    section = page("differences.md").partition("\n## OpenAPI document\n")[2].partition("\n## ")[0]
    assert as_markdown() in section


def test_print_schema_prints_the_document_of_a_server_with_default_options() -> None:
    assert json.loads(run("print-schema")) == default_document()


def test_printing_the_document_needs_no_engine() -> None:
    told = "print('openvino' in sys.modules, file=sys.stderr)"
    code = f"import sys\ntry:\n    {ENTRY}\nexcept SystemExit:\n    {told}"
    command = [sys.executable, "-c", code, "print-schema"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "False"
