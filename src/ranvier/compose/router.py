"""Wiring of the text half, and its life: wait for the engine, open the port, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import uvicorn

from ranvier import __version__
from ranvier.api import ApiOptions, build_app
from ranvier.compose.http_protocol import ConnectionLimits, http_protocol
from ranvier.compose.plan import ServePlan, open_any
from ranvier.compose.ports import open_port
from ranvier.core import Capabilities, EngineClient, Limits
from ranvier.errors import OptionError, ValidationError
from ranvier.grammar import GrammarCompiler, any_json_object
from ranvier.observability import ServerMetrics, Tracing, open_tracing
from ranvier.service import GenerationService, GrammarChecker, ModelText, Recorder, ServiceLimits, load_model_text

_log = logging.getLogger(__name__)

_DRAIN_POLL_S = 0.05


def load_text(plan: ServePlan) -> ModelText:
    """The artifact's text files. Raises a `SetupError`."""
    artifact = open_any(Path(plan.artifact_directory), plan.launcher_config())
    config = plan.launcher_config()
    given = config.tokenizer_config_path
    return load_model_text(
        artifact.directory,
        artifact.manifest.model_id,
        artifact.manifest.revision,
        Path(given) if given else None,
        with_sampling_defaults=config.sampling_defaults == "model",
    )


def make_grammars(plan: ServePlan, text: ModelText) -> GrammarChecker:
    """The checker of grammars, with its tokenizer read: that stops every thread for a part of a second."""
    if plan.launcher_config().disable_grammar_support:
        return GrammarChecker(None)
    compiler = GrammarCompiler(plan.tokenizer_json, eos_token_ids=text.eos_token_ids)
    # A tokenizer that cannot be used is told to whoever sends a grammar.
    with contextlib.suppress(ValidationError):
        compiler.compile(any_json_object())
    return GrammarChecker(compiler)


def build_service(
    plan: ServePlan,
    text: ModelText,
    grammars: GrammarChecker,
    engine: EngineClient,
    metrics: ServerMetrics,
    tracing: Tracing,
) -> GenerationService:
    """The use case over an engine."""
    config = plan.launcher_config()
    limits = ServiceLimits(
        max_concurrent_requests=config.max_concurrent_requests,
        max_best_of=config.max_best_of,
        max_stop_sequences=config.max_stop_sequences,
        max_top_n_tokens=config.max_top_n_tokens,
        max_client_batch_size=config.max_client_batch_size,
        validation_workers=config.validation_workers,
    )
    metrics.set_info(version=__version__, model=text.model_id, target=engine.info.target)
    recorder = Recorder(metrics=metrics, tracing=tracing, log_prompts=config.log_prompts)
    text = with_honoured_defaults(text, engine.info.capabilities)
    return GenerationService(text, engine, limits, metrics, grammars, recorder)


def with_honoured_defaults(text: ModelText, capabilities: Capabilities) -> ModelText:
    """The text without sampling defaults that the engine would refuse every request for."""
    if text.sampling_defaults is None:
        return text
    kept, dropped = text.sampling_defaults.honoured_by(capabilities)
    if dropped:
        _log.warning(
            "not taken from the model's generation_config.json, for the target cannot do it: %s", ", ".join(dropped)
        )
    return replace(text, sampling_defaults=kept)


@contextlib.contextmanager
def traced(plan: ServePlan) -> Iterator[Tracing]:
    """Tracing while the block runs, on where an endpoint was given. Raises a `SetupError`."""
    config = plan.launcher_config()
    tracing = open_tracing(config.otlp_endpoint, config.otlp_service_name)
    try:
        yield tracing
    finally:
        tracing.close()


def make_metrics(limits: Limits) -> ServerMetrics:
    """Metrics with buckets for these limits."""
    return ServerMetrics(max_input_tokens=limits.max_input_tokens, max_total_tokens=limits.sequence_length)


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: ours drain instead of closing the door."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`."""
        yield


async def serve(plan: ServePlan, service: GenerationService, stop: asyncio.Event) -> None:
    """Open the port and serve until `stop` is set, then until requests in flight are done.

    Raises `OptionError` when the port cannot be opened.
    """
    config = plan.launcher_config()
    options = ApiOptions(
        payload_limit=config.payload_limit,
        api_key=config.api_key,
        cors_allow_origin=config.cors_allow_origin,
        compute_type=os.environ.get("COMPUTE_TYPE", "gpu+optimized"),
        vertex_predict_route=_route("AIP_PREDICT_ROUTE"),
        vertex_health_route=_route("AIP_HEALTH_ROUTE"),
    )
    # Its own start and stop lines say less than ours.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    listener = open_port(config)
    server = _Server(
        uvicorn.Config(
            build_app(service, options),
            http=http_protocol(ConnectionLimits()),
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
    )
    drainer = asyncio.create_task(_drain(server, service, stop, config.graceful_termination_timeout))
    info = service.engine.info
    address = "http://{}:{}".format(*listener.getsockname()[:2])
    _log.info("ready", extra={"address": address, "model_id": service.text.model_id, **_limits(info.limits)})
    try:
        await server.serve(sockets=[listener])
    finally:
        drainer.cancel()
        service.close()
        await service.engine.close()


def _route(variable: str) -> str | None:
    path = os.environ.get(variable)
    if path and not path.startswith("/"):
        raise OptionError(f"environment variable `{variable}` must be a path that begins with `/`. Given: {path!r}")
    return path or None


def _limits(limits: Limits) -> dict[str, int]:
    return {
        "batch_size": limits.batch_size,
        "sequence_length": limits.sequence_length,
        "max_input_tokens": limits.max_input_tokens,
        "max_batch_prefill_tokens": limits.max_batch_prefill_tokens,
    }


async def _drain(server: uvicorn.Server, service: GenerationService, stop: asyncio.Event, timeout_s: float) -> None:
    await stop.wait()
    service.drain()
    _log.info("draining", extra={"in_flight": service.num_in_flight})
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while service.num_in_flight and loop.time() < deadline:
        await asyncio.sleep(_DRAIN_POLL_S)
    # Streams still open have had their time; uvicorn would wait for them without end.
    server.force_exit = service.num_in_flight > 0
    server.should_exit = True


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM, SIGINT and SIGHUP set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop
