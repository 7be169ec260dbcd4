"""The process that has the devices, or answers as the reference: an order on standard input, events as JSON lines."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import msgspec

from ranvier.selfcheck import device_steps, reference
from ranvier.selfcheck.children import LOAD
from ranvier.selfcheck.device_steps import Device
from ranvier.selfcheck.orders import CheckEvent, CheckOrder
from ranvier.selfcheck.outcome import Notes, Outcome, run_step, skipped

Load: TypeAlias = Callable[[CheckOrder, Notes], Device]


def main(load: Load = device_steps.load) -> None:
    """Carry the order out. What libraries print goes to standard error."""
    events = os.dup(1)
    os.dup2(2, 1)
    # A warning of JAX or of ours may be all that is left when this process dies.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    order = CheckOrder.from_json(sys.stdin.buffer.read())

    def tell(event: CheckEvent) -> None:
        os.write(events, msgspec.json.encode(event) + b"\n")

    if order.job == "reference":
        _begin("references", partial(reference.write_answers, order), tell)
        return
    _on_devices(order, load, tell)


def _on_devices(order: CheckOrder, load: Load, tell: Callable[[CheckEvent], None]) -> None:
    loaded: list[Device] = []
    _begin(LOAD, lambda notes: loaded.append(load(order, notes)), tell)
    for name in order.steps:
        if loaded:
            _begin(name, partial(device_steps.STEPS[name], loaded[0]), tell)
        else:
            tell(CheckEvent(outcome=skipped(name, "not begun: the programs could not be loaded")))


def _begin(name: str, work: Callable[[Notes], None], tell: Callable[[CheckEvent], None]) -> Outcome:
    tell(CheckEvent(started=name))
    outcome = run_step(name, work)
    tell(CheckEvent(outcome=outcome))
    return outcome


if __name__ == "__main__":
    main()
