"""`ranvier models`: what can be served."""

from __future__ import annotations

from ranvier.models import refused_families, supported_families
from ranvier.models.families import family_of

_HEAD = (
    "| model_type | models | cpu | GGUF (cpu) | refused |",
    "| --- | --- | --- | --- | --- |",
)
_FORMS = "float32, bfloat16, int8, int4"
_ROPE = (
    "Rotary scaling: linear, llama3, yarn and longrope everywhere; dynamic is refused, for it changes with each\n"
    "request's length and cached keys cannot be rotated anew. longrope takes its long factors when the artifact's\n"
    "sequence length exceeds the original context, else its short ones."
)


def models_markdown() -> str:
    """The families as a Markdown table, then those that are refused and why."""
    rows = [_row(name) for name in supported_families()]
    refused = [f"| {name} | {reason} |" for name, reason in sorted(refused_families().items())]
    parts = [*_HEAD, *rows, "", _ROPE, "", "| refused | reason |", "| --- | --- |", *refused]
    return "\n".join(parts) + "\n"


def _row(model_type: str) -> str:
    family = family_of({"model_type": model_type})
    gguf = "yes" if family.gguf_architecture else "no"
    return f"| {model_type} | {family.serves} | {_FORMS} | {gguf} | {family.limits or '-'} |"
