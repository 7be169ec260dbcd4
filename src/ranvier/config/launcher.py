"""The launcher's config: the typed values that the program uses, and how they are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ranvier.config.checks import cross_check
from ranvier.config.command import read_command, values_by_field
from ranvier.config.options import OPTIONS
from ranvier.config.reading import SECRET

_SUMMARY = "Serve a language model with the API of Text Generation Inference."
_SECRET_FIELDS = frozenset(option.field_name for option in OPTIONS if option.is_secret)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LauncherConfig:
    """What the launcher was told. None means: not told, the artifact or the target decides.

    * Counts are 1 or more, except `max_stop_sequences` and `max_top_n_tokens`, 0 or more.
    * `max_input_tokens` < `max_total_tokens` where both are given.
    * `port` is 0 … 65535, 0 for a free one. `payload_limit` is in bytes, `graceful_termination_timeout` in seconds.
    * `cors_allow_origin`: empty for any origin.
    * `sources` has for each field "flag `--port`", "environment variable `PORT`" or "default".
    * `warnings`: sentences to log, about options that were given and have no effect.

    `repr` shows `api_key` as `***`.
    """

    model_id: str | None
    revision: str | None
    tokenizer_config_path: str | None
    hub_cache: str | None
    lora_adapters: tuple[str, ...]
    quantize: str
    dtype: str
    kv_cache_dtype: str
    max_batch_size: int | None
    max_input_tokens: int | None
    max_total_tokens: int | None
    max_batch_prefill_tokens: int | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_client_batch_size: int
    payload_limit: int
    disable_grammar_support: bool
    hostname: str
    port: int
    validation_workers: int
    api_key: str | None
    cors_allow_origin: tuple[str, ...]
    graceful_termination_timeout: int
    json_output: bool
    log_level: str
    log_colorize: str
    log_prompts: bool
    otlp_endpoint: str | None
    otlp_service_name: str
    target: str
    num_cores: int | None
    auto_cast_type: str | None
    emulate_neuron: bool
    num_threads: int | None
    engine_python: str | None
    single_process: bool
    sampling_defaults: str
    artifact_cache: str
    print_env: bool
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        parts = (f"{each.name}={_shown(each.name, getattr(self, each.name))}" for each in fields(self))
        return f"LauncherConfig({', '.join(parts)})"

    def report(self) -> tuple[str, ...]:
        """Return a line for each value with its source, such as "port = 80 (environment variable `PORT`)", masked."""
        return tuple(
            f"{name} = {_shown(name, getattr(self, name))} ({source})" for name, source in self.sources.items()
        )

    def to_json(self) -> str:
        """Return the config as JSON for a child process. It holds `api_key`: pass it by pipe, not in an argument."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def from_json(cls, text: str) -> LauncherConfig:
        """Return the config that `to_json` wrote. Raises `ValueError` or `TypeError` for any other text."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(name: str, value: object) -> str:
    return SECRET if name in _SECRET_FIELDS and value is not None else repr(value)


def load_config(argv: Sequence[str], environ: Mapping[str, str], *, prog: str) -> LauncherConfig:
    """Read the launcher's arguments (without the program's name) and environment.

    A leading `serve` is skipped: SageMaker starts containers with it. Prints and raises `SystemExit(0)` for `--help`
    and `--version`, `SystemExit(2)` for a command line that cannot be read. Raises `OptionError` for a variable that
    cannot be read, for what is refused, and for values that contradict each other.
    """
    arguments = argv[1:] if list(argv[:1]) == ["serve"] else argv
    command = read_command(arguments, environ, options=OPTIONS, prog=prog, summary=_SUMMARY)
    cross_check(command.settings)
    values, sources = values_by_field(command.settings, environ)
    return LauncherConfig(**values, sources=sources, warnings=command.warnings)
