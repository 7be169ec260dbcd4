"""The checks between options, with TGI's texts."""

from __future__ import annotations

from collections.abc import Mapping

from ranvier.config.reading import Setting
from ranvier.errors import OptionError


def cross_check(settings: Mapping[str, Setting]) -> None:
    """Raise `OptionError` for the first contradiction between values that were given, in TGI's order.

    Only what both sides gave is compared: what an artifact or a model says is not known here.
    """
    old_name = _number(settings, "max_input_length")
    new_name = _number(settings, "max_input_tokens")
    if new_name is not None and old_name is not None:
        # The missing backtick is TGI's.
        raise OptionError(
            f"Both `max_input_tokens` ({new_name}) and `max_input_length` ({old_name}) are set. Please define only "
            f"`max_input_tokens` as `max_input_length is deprecated for naming consistency."
        )
    max_input = old_name if new_name is None else new_name
    _check_input(max_input, _number(settings, "max_total_tokens"))
    _check_budget(settings, "max_total_tokens")
    _check_budget(settings, "max_batch_prefill_tokens")


def check_prefill_budget(*, max_batch_prefill_tokens: int, max_input_tokens: int) -> None:
    """Raise `OptionError`, with TGI's text, if the longest prompt does not fit into one prefill.

    For targets that do not prefill in chunks only, so it is called where the capabilities are known.
    """
    if max_batch_prefill_tokens < max_input_tokens:
        raise OptionError(
            f"`max_batch_prefill_tokens` must be >= `max_input_tokens`. "
            f"Given: {max_batch_prefill_tokens} and {max_input_tokens}"
        )


def _number(settings: Mapping[str, Setting], name: str) -> int | None:
    value = settings[name].value
    assert value is None or isinstance(value, int)
    return value


def _check_input(max_input: int | None, max_total: int | None) -> None:
    if max_input is not None and max_total is not None and max_input >= max_total:
        raise OptionError(f"`max_input_tokens`({max_input}) must be < `max_total_tokens`({max_total})")


def _check_budget(settings: Mapping[str, Setting], name: str) -> None:
    value, budget = _number(settings, name), _number(settings, "max_batch_total_tokens")
    if value is not None and budget is not None and value > budget:
        raise OptionError(f"`{name}` must be <= `max_batch_total_tokens`. Given: {value} and {budget}")
