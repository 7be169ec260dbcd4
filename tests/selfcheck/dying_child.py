"""A child whose programs are made up and whose steps go wrong: `python dying_child.py <how>`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, cast

from ranvier.selfcheck import child, device_steps
from ranvier.selfcheck.device_steps import Device
from ranvier.selfcheck.orders import CheckOrder
from ranvier.selfcheck.outcome import Notes

HOW = sys.argv[1]


def load(order: CheckOrder, notes: Notes) -> Device:
    if HOW == "cannot load":
        raise RuntimeError("nrt_init failed")
    if HOW == "dies while loading":
        sys.stderr.write("NRT_EXEC_HW_ERR while loading\n")
        sys.stderr.flush()
        os._exit(70)
    notes.say("loaded")
    return cast(Device, object())


def passes(device: Device, notes: Notes) -> None:
    notes.say("good")


def dies(device: Device, notes: Notes) -> None:
    sys.stderr.write("NRT_EXEC_HW_ERR in a step\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGABRT)


def raises(device: Device, notes: Notes) -> None:
    notes.say("so far so good")
    raise ValueError("a step's own error")


steps: dict[str, Any] = {"first": passes, "dies": dies, "raises": raises, "last": passes}
device_steps.STEPS = steps
child.main(load)
if HOW == "dies at its end":
    os._exit(9)
