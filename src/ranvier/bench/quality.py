"""`ranvier eval`: what each way to hold the weights costs in perplexity and takes in time, beside dense weights."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ranvier.artifacts import Artifact, ExportRequest, ModelSource
from ranvier.bench.bare import run_bare
from ranvier.bench.load import Load
from ranvier.bench.perplexity import WINDOW, Perplexity, perplexity, prose, windows
from ranvier.bench.probe import read_bandwidth_gb_s
from ranvier.compose.engine import load_engine
from ranvier.compose.exporting import Reporter
from ranvier.compose.plan import find_source, limits_of, prepare_artifact, with_target
from ranvier.config import LauncherConfig, load_config
from ranvier.export import export, open_checkpoint
from ranvier.models import DequantizedCheckpoint, WeightPlan, write_weights
from ranvier.targets import Programs
from ranvier.text import Tokenizer

_FORMS = ("none", "auto", "int8", "int4")
_DEFAULT_FORMS = ("auto", "int8", "int4")
_PROMPT_TOKENS = 64


@dataclass(slots=True)
class _Row:
    """One way to hold the weights. `steps_ms` has for each number of clients one entry a round."""

    name: str
    megabytes: float
    quality: Perplexity
    programs: Programs | None
    steps_ms: dict[int, list[float]] = field(default_factory=dict)


def evaluate(arguments: Sequence[str], prog: str) -> int:
    """Run and print the table. Options it does not know go to the server. Raises a `SetupError`."""
    options, server_arguments = _parse(arguments, prog)
    shape = ["--max-batch-size", str(max(options.clients)), "--max-total-tokens", str(WINDOW)]
    base = load_config([*shape, *server_arguments], os.environ, prog=prog)
    source = find_source(base.model_id, base.revision, base.hub_cache)
    rows: list[_Row] = []
    with tempfile.TemporaryDirectory(prefix="ranvier-eval-") as scratch:
        if source.kind == "artifact":
            rows.append(_row("as exported", base, prepare_artifact(base), options))
        else:
            rows.append(_reference(base, source, Path(scratch), options))
            for form in options.quantize or _DEFAULT_FORMS:
                config = load_config([*shape, *server_arguments, "--quantize", form], os.environ, prog=prog)
                rows.append(_row(form, config, prepare_artifact(config), options))
        bandwidth = _time(rows, options)
    _print(rows, options, bandwidth)
    return 0


def _reference(config: LauncherConfig, source: ModelSource, scratch: Path, options: argparse.Namespace) -> _Row:
    """Dense weights, whatever the checkpoint holds."""
    dtype = "float32" if config.dtype == "float32" else "bfloat16"
    report, dense = Reporter(as_json=config.json_output), scratch / "dense.safetensors"
    checkpoint = DequantizedCheckpoint(open_checkpoint(source))
    write_weights(
        checkpoint, WeightPlan(quantize="none", dtype="float32" if dtype == "float32" else "bfloat16"), dense, report
    )
    request = ExportRequest(
        source=source,
        revision=config.revision,
        target=config.target,
        batch_size=config.max_batch_size,
        sequence_length=config.max_total_tokens,
        quantize=config.quantize,
        dtype=config.dtype,
        kv_cache_dtype=config.kv_cache_dtype,
    )
    artifact = export(request, scratch / "dense", report, weights=dense)
    return _row(f"dense {dtype}", config, artifact, options)


def _row(name: str, config: LauncherConfig, artifact: Artifact, options: argparse.Namespace) -> _Row:
    config = with_target(config, artifact)
    limits = limits_of(config, artifact)
    _, _, programs = load_engine(config, artifact.directory, limits)
    tokenizer = Tokenizer.from_file(artifact.directory / "tokenizer.json")
    text = options.text.read_text(encoding="utf-8") if options.text else prose()
    quality = perplexity(programs, windows(tokenizer, text, limits.sequence_length))
    if options.rounds == 0:
        programs.release()
    return _Row(name, artifact.manifest.weights_bytes / 1e6, quality, programs if options.rounds else None)


def _time(rows: list[_Row], options: argparse.Namespace) -> float:
    """Bare decode steps of all rows in turns, so that a busy neighbour meets them all. Returns GB/s read meanwhile."""
    bandwidths = [read_bandwidth_gb_s()]
    for round_number in range(options.rounds + 1 if options.rounds else 0):
        for clients in options.clients:
            load = _load(clients, options.output_tokens)
            for row in rows:
                assert row.programs is not None
                measured = run_bare(
                    row.programs, load, prefill_tokens=WINDOW, vocab_size=options.vocab_size, seed=round_number
                )
                if round_number:  # the first round warms up
                    row.steps_ms.setdefault(clients, []).append(1e3 * measured.tpot_s)
            bandwidths.append(read_bandwidth_gb_s())
    return statistics.median(bandwidths)


def _load(clients: int, output_tokens: int) -> Load:
    return Load(num_clients=clients, num_requests=1, num_prompt_tokens=_PROMPT_TOKENS, num_output_tokens=output_tokens)


def _print(rows: list[_Row], options: argparse.Namespace, bandwidth: float) -> None:
    timed = options.clients if options.rounds else []
    print(f"{rows[0].quality.num_tokens} tokens scored in windows of {WINDOW}; load average {os.getloadavg()[0]:.2f}")
    if timed:
        print(f"memory reads at {bandwidth:.1f} GB/s; each step is the best of {options.rounds} rounds in turns")
    print("\n| weights | MB | perplexity | loss |" + "".join(f" step ms, {n} |" for n in timed))
    print("| --- | --- | --- | --- |" + " --- |" * len(timed))
    for row in rows:
        loss = row.quality.value / rows[0].quality.value - 1
        shown = "–" if row is rows[0] else f"{100 * loss:+.1f} %"
        steps = "".join(f" {min(row.steps_ms[n]):.2f} |" for n in timed)
        print(f"| {row.name} | {row.megabytes:.0f} | {row.quality.value:.2f} | {shown} |{steps}")


def _parse(arguments: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Perplexity on a fixed text and time of bare steps, for dense weights and for each --quantize.",
        epilog="All other options go to the server, --model-id above all. With --rounds 0 one model is in memory at a "
        "time, otherwise all.",
    )
    parser.add_argument(
        "--quantize", action="append", choices=_FORMS, help=f"may be repeated ({', '.join(_DEFAULT_FORMS)})"
    )
    parser.add_argument("--text", type=Path, help="a file to score instead of the text that ships with the package")
    parser.add_argument("--clients", type=_counts, default=[1, 4, 16], help="requests at once, a list (1,4,16)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of steps, after one to warm up; 0 for none (5)")
    parser.add_argument("--output-tokens", type=int, default=48, help="steps of each round (48)")
    parser.add_argument("--vocab-size", type=int, default=10_000, help="ids of timed prompts are below this (10000)")
    return parser.parse_known_args(list(arguments))


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
