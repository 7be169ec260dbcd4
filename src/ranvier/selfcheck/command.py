"""The command: options, run, report, exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ranvier.errors import OptionError


def self_check(arguments: Sequence[str], prog: str, root: Path = Path("/")) -> int:
    """Check this host and write the report: 0 where nothing failed, else 1.

    Progress goes to standard error. `root`: where devices are looked for. Raises `OptionError` for options that are
    wrong, `ModelError` for a model that is not there, and `SystemExit` as every command.
    """
    from ranvier.config.self_check import load_self_check_config

    config = load_self_check_config(arguments, os.environ, prog)
    _check_output(config.output)
    if config.model_id is not None:
        _check_model(config.model_id)
    # Imported after the options are read: `--help` must not wait for it.
    from ranvier.selfcheck.outcome import Outcome
    from ranvier.selfcheck.privacy import private_words
    from ranvier.selfcheck.report import is_passed, markdown
    from ranvier.selfcheck.run import SelfCheck

    def tell(outcome: Outcome) -> None:
        sys.stderr.write(f"{outcome.name}: {outcome.status} ({outcome.seconds:.1f} s)\n")
        sys.stderr.flush()

    check = SelfCheck(config, root=root, tell=tell)
    outcomes = check.run()
    text = markdown(outcomes, check.host, private_words(os.environ), emulate=config.emulate_neuron)
    if config.output is None:
        sys.stdout.write(text)
    else:
        Path(config.output).write_text(text, encoding="utf-8")
        sys.stderr.write(f"{text.rstrip().splitlines()[-1]}\nThe report is in {config.output}\n")
    return 0 if is_passed(outcomes) else 1


def _check_model(model_id: str) -> None:
    """Before the steps that are about the tiny model are spent on a name that is wrong."""
    from ranvier.artifacts import locate

    locate(model_id)


def _check_output(output: str | None) -> None:
    """Before minutes are spent on what cannot be written."""
    if output is None:
        return
    directory = Path(output).absolute().parent
    if not directory.is_dir() or not os.access(directory, os.W_OK) or Path(output).is_dir():
        raise OptionError(f"`output` must be a file in a directory that can be written to. Given: {output}")
