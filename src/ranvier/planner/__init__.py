"""What a model takes and gives on an Inferentia or Trainium instance, before anything is compiled."""

from ranvier.planner.instances import INSTANCES, Instance, find_instance
from ranvier.planner.memory import CoreMemory, HostMemory
from ranvier.planner.picking import Choice, Wish
from ranvier.planner.plan import Plan, make_plan
from ranvier.planner.report import plan_json, plan_text
from ranvier.planner.roofline import Bound, Roofline

__all__ = [
    "INSTANCES",
    "Bound",
    "Choice",
    "CoreMemory",
    "HostMemory",
    "Instance",
    "Plan",
    "Roofline",
    "Wish",
    "find_instance",
    "make_plan",
    "plan_json",
    "plan_text",
]
