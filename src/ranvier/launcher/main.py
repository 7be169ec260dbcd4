"""The command line: `ranvier <command>` and `text-generation-launcher`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from ranvier.errors import OptionError, SetupError

_INTERRUPTED, _TERMINATED = 130, 143
"""Exit codes as shells give them: 128 and the signal's number."""

_WITHOUT_OPTIONS = ("models", "options", "print-schema", "api-table")

_COMMANDS = """usage: ranvier <command> [options]

commands:
  serve     serve a model (the same as text-generation-launcher)
  export    write an artifact directory for a model
  eval      perplexity on a fixed text and step times, one row for each way to hold the weights
  bench     measure bare steps and the same load over HTTP
  bench-router  measure what a streamed event costs the router
  cache     look a model up in the Neuron Model Cache; list, pull, push and prune
  self-check  check this host's Neuron devices; a report to paste into an issue
  plan      say what a model takes and gives on an Inferentia or Trainium instance
  models    print the model families and what is supported on which target
  options   print every option as a Markdown table

  print-schema   print the OpenAPI document
  api-table      print every route and parameter as Markdown tables

ranvier <command> --help tells more; ranvier --version prints the version.
"""


def text_generation_launcher() -> None:
    """Entry point of `text-generation-launcher`."""
    _exit(_serve, sys.argv[1:], "text-generation-launcher")


def ranvier() -> None:
    """Entry point of `ranvier`."""
    commands: dict[str, Callable[[Sequence[str], str], int]] = {
        "serve": _serve,
        "export": _export,
        "eval": _eval,
        "bench": _bench,
        "bench-router": _bench_router,
        "cache": _cache,
        "self-check": _self_check,
        "plan": _plan,
        "models": _models,
        "options": _options,
        "print-schema": _print_schema,
        "api-table": _api_table,
    }
    arguments = sys.argv[1:]
    name = arguments[0] if arguments else "--help"
    if name in _WITHOUT_OPTIONS and arguments[1:] in (["--help"], ["-h"]):
        print(f"usage: ranvier {name}\n\nIt takes no options; ranvier --help says what it does.")
        raise SystemExit(0)
    if name in commands:
        _exit(commands[name], arguments[1:], f"ranvier {name}")
    if name in ("--version", "-V"):
        from ranvier import __version__

        print(f"ranvier {__version__}")
        raise SystemExit(0)
    if name in ("--help", "-h"):
        print(_COMMANDS, end="")
        raise SystemExit(0)
    print(f"error: unknown command {name!r}\n\n{_COMMANDS}", end="", file=sys.stderr)
    raise SystemExit(2)


def _exit(command: Callable[[Sequence[str], str], int], arguments: Sequence[str], prog: str) -> None:
    try:
        code = command(arguments, prog)
    except OptionError as error:
        print(f'Error: ArgumentValidation("{error}")', file=sys.stderr)
        code = 1
    except SetupError as error:
        print(f"Error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` has; nothing may be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    raise SystemExit(code)


def _serve(arguments: Sequence[str], prog: str) -> int:
    from ranvier.config import load_config

    config = load_config(arguments, os.environ, prog=prog)
    # Imported after the options are read: `--help` must not wait for it.
    from ranvier.launcher.supervisor import launch

    return launch(config)


def _export(arguments: Sequence[str], prog: str) -> int:
    from ranvier.config import load_export_config

    config = load_export_config(arguments, os.environ, prog)
    # So that what was begun is cleared away, as it is after Ctrl-C.
    signal.signal(signal.SIGTERM, _terminate)
    from ranvier.compose.plan import export_artifact

    artifact = export_artifact(config)
    manifest = artifact.manifest
    print(
        f"{artifact.directory}: {manifest.model_id} for {manifest.target}, "
        f"[{manifest.batch_size}, {manifest.sequence_length}], weights {manifest.weights_bytes / 1e6:.0f} MB"
    )
    return 0


def _cache(arguments: Sequence[str], prog: str) -> int:
    from ranvier.launcher.cache import cache_command

    return cache_command(arguments, prog, os.environ)


def _self_check(arguments: Sequence[str], prog: str) -> int:
    from ranvier.selfcheck import self_check

    return self_check(arguments, prog)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)


def _plan(arguments: Sequence[str], prog: str) -> int:
    from ranvier.config.plan import load_plan_config

    config = load_plan_config(arguments, os.environ, prog)
    from ranvier.launcher.planning import plan_page

    print(plan_page(config), end="")
    return 0


def _models(arguments: Sequence[str], prog: str) -> int:
    if arguments:
        raise OptionError(f"`{prog}` takes no arguments. Given: {' '.join(arguments)}")
    from ranvier.launcher.models import models_markdown

    print(models_markdown(), end="")
    return 0


def _options(arguments: Sequence[str], prog: str) -> int:
    from ranvier.config import options_markdown

    print(options_markdown(), end="")
    return 0


def _print_schema(arguments: Sequence[str], prog: str) -> int:
    import json

    from ranvier.api.openapi import default_document

    print(json.dumps(default_document(), ensure_ascii=False, indent=2))
    return 0


def _api_table(arguments: Sequence[str], prog: str) -> int:
    from ranvier.api.openapi import api_markdown
    from ranvier.compose.capabilities import target_parameters

    print(api_markdown(target_parameters()), end="")
    return 0


def _eval(arguments: Sequence[str], prog: str) -> int:
    from ranvier.bench.quality import evaluate

    return evaluate(arguments, prog)


def _bench(arguments: Sequence[str], prog: str) -> int:
    from ranvier.bench.main import bench

    return bench(arguments, prog)


def _bench_router(arguments: Sequence[str], prog: str) -> int:
    from ranvier.bench.router import bench_router

    return bench_router(arguments, prog)
