"""`ranvier bench`: bare steps and HTTP in turns, medians over rounds, beside the memory bandwidth of the moment."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ranvier.bench.bare import run_bare
from ranvier.bench.load import Load, Measured
from ranvier.bench.over_http import Server, run_http
from ranvier.bench.probe import read_bandwidth_gb_s
from ranvier.compose.engine import load_engine
from ranvier.compose.plan import find_adapters, limits_of, prepare_artifact, with_target
from ranvier.config import load_config


@dataclass(slots=True)
class _Point:
    """Everything measured with one number of clients; one entry a round."""

    load: Load
    bare: list[Measured] = field(default_factory=list)
    http: list[Measured] = field(default_factory=list)


def bench(arguments: Sequence[str], prog: str) -> int:
    """Run and print the table. Options it does not know go to the server."""
    options, server_arguments = _parse(arguments, prog)
    config = load_config(server_arguments, os.environ, prog=prog)
    artifact = prepare_artifact(config)
    config = with_target(config, artifact)
    limits = limits_of(config, artifact)
    adapters = find_adapters(config, artifact)
    _, info, programs = load_engine(config, Path(artifact.directory), limits, adapters)
    points = [_Point(_load(options, clients)) for clients in options.clients]
    bandwidths: list[float] = []
    print(f"load average {os.getloadavg()[0]:.2f}; {' '.join(f'{k}={v}' for k, v in info.details.items())}")
    with Server(server_arguments) as server:
        for round_number in range(options.rounds + 1):
            seed = 1_000_003 * round_number
            for point in points:
                bandwidths.append(read_bandwidth_gb_s())
                bare = run_bare(
                    programs,
                    point.load,
                    prefill_tokens=limits.max_batch_prefill_tokens,
                    vocab_size=options.vocab_size,
                    seed=seed,
                )
                http = run_http(server.port, point.load, seed=seed, is_stream=not options.whole)
                if round_number:  # the first round warms up
                    point.bare.append(bare)
                    point.http.append(http)
        rss = server.rss_mb()
    _print(points, statistics.median(bandwidths))
    print(f"start to first healthy answer: {server.start_s:.2f} s; resident memory in MB: {rss}")
    return 0


def _load(options: argparse.Namespace, num_clients: int) -> Load:
    return Load(
        num_clients=num_clients,
        num_requests=options.requests,
        num_prompt_tokens=options.prompt_tokens,
        num_output_tokens=options.output_tokens,
    )


def _print(points: list[_Point], bandwidth: float) -> None:
    print(f"memory reads at {bandwidth:.1f} GB/s (median between runs)\n")
    print("| clients | bare tok/s | bare step ms | HTTP tok/s | HTTP/bare | TTFT ms | TPOT ms | bare tok per GB read |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for point in points:
        bare = statistics.median(each.tokens_per_s for each in point.bare)
        ratios = [http.tokens_per_s / bare.tokens_per_s for http, bare in zip(point.http, point.bare, strict=True)]
        step_ms = 1e3 * statistics.median(each.tpot_s for each in point.bare)
        print(
            f"| {point.load.num_clients} | {bare:.0f} | {step_ms:.2f} "
            f"| {statistics.median(each.tokens_per_s for each in point.http):.0f} | {statistics.median(ratios):.2f} "
            f"| {1e3 * statistics.median(each.ttft_s for each in point.http):.0f} "
            f"| {1e3 * statistics.median(each.tpot_s for each in point.http):.2f} "
            f"| {point.load.num_clients * 1e3 / step_ms / bandwidth:.2f} |"
        )
    print()


def _parse(arguments: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog=prog, description="Measure bare steps and HTTP in turns.", epilog="All other options go to the server."
    )
    parser.add_argument("--clients", type=_counts, default=[1, 4, 16], help="clients at once, a list (1,4,16)")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="prompt length (128)")
    parser.add_argument("--output-tokens", type=int, default=64, help="tokens to generate (64)")
    parser.add_argument("--requests", type=int, default=2, help="requests of each client in a round (2)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count, after one to warm up (3)")
    parser.add_argument("--vocab-size", type=int, default=40_000, help="ids of bare prompts are below this (40000)")
    parser.add_argument("--whole", action="store_true", help="use /generate instead of /generate_stream")
    options, rest = parser.parse_known_args(list(arguments))
    return options, rest


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
