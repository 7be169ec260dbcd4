"""Every option declared once; configs of the commands, each value with its source."""

from ranvier.config.checks import check_prefill_budget
from ranvier.config.export import ExportConfig, load_export_config
from ranvier.config.launcher import LauncherConfig, load_config
from ranvier.config.option import Option, Status
from ranvier.config.options import EXPORT_OPTIONS, OPTIONS
from ranvier.config.text import options_markdown

__all__ = [
    "EXPORT_OPTIONS",
    "OPTIONS",
    "ExportConfig",
    "LauncherConfig",
    "Option",
    "Status",
    "check_prefill_budget",
    "load_config",
    "load_export_config",
    "options_markdown",
]
