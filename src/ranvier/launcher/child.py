"""Entry of the router and engine processes: `python -m ranvier.launcher.child router|engine`.

The plan comes through standard input, one line of JSON, so that no secret stands in an argument list; the pipe stays
open as long as the launcher lives.
"""

from __future__ import annotations

import logging
import os
import sys

from ranvier.compose.event_loop import run_async
from ranvier.compose.plan import ServePlan
from ranvier.compose.processes import EXIT_SETUP, end_with_parent, run_engine, run_router
from ranvier.errors import OptionError, SetupError
from ranvier.observability import set_up_logs


def main(role: str) -> int:
    """Run one process to its end; the exit code tells the launcher whether a restart makes sense."""
    plan = ServePlan.from_json(_read_line(0))
    config = plan.launcher_config()
    set_up_logs(config.log_level, as_json=config.json_output, process=role, colorize=config.log_colorize)
    end_with_parent(0)
    try:
        if role == "engine":
            return run_engine(plan)
        run_async(run_router(plan))
        return 0
    except OptionError as error:
        logging.getLogger(__name__).error('ArgumentValidation("%s")', error)
    except SetupError as error:
        logging.getLogger(__name__).error("%s", error)
    return EXIT_SETUP


def _read_line(descriptor: int) -> bytes:
    """One line without reading past it: the rest of the pipe is the launcher's sign of life."""
    line = bytearray()
    while (byte := os.read(descriptor, 1)) not in (b"\n", b""):
        line += byte
    return bytes(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
