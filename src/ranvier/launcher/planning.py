"""`ranvier plan`: a model on an instance, on paper."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from ranvier.artifacts import ModelSource, locate
from ranvier.config.plan import PlanConfig
from ranvier.errors import ModelError, OptionError
from ranvier.models import DecoderSpec, read_json, spec_of
from ranvier.neuron_host import CastType, discover
from ranvier.planner import INSTANCES, Instance, Plan, Wish, find_instance, make_plan, plan_json, plan_text


def plan_page(config: PlanConfig, root: Path = Path("/")) -> str:
    """What the command prints. `root`: where to look for the host's instance type when none is given.

    Raises a `SetupError` for a model that cannot be read and for a plan that does not fit.
    """
    plan = _plan(config, root)
    if config.as_json:
        return json.dumps(plan_json(plan, config.model_id), indent=2) + "\n"
    return plan_text(plan, config.model_id)


def _plan(config: PlanConfig, root: Path) -> Plan:
    wish = Wish(num_cores=config.num_cores, batch_size=config.batch_size, sequence_length=config.sequence_length)
    instance = _instance(config.instance, root)
    # The option's choices are these names.
    cast_type = cast(CastType, config.auto_cast_type)
    return make_plan(read_spec(config.model_id), instance, wish, cast_type=cast_type, lnc=config.lnc)


def _instance(name: str | None, root: Path) -> Instance:
    if name is not None:
        return find_instance(name)
    # Without variables: those of the runtime limit a process, not a plan.
    found = discover(root, {}).instance_type
    if found is None:
        known = ", ".join(instance.name for instance in INSTANCES)
        raise OptionError(
            f"`instance` is missing, and this host is no Neuron instance; give `--instance` one of {known}"
        )
    return find_instance(found)


def read_spec(model_id: str) -> DecoderSpec:
    """The decoder that a model id names, from its config alone; weights need not be there.

    Takes a checkpoint or artifact directory, a config.json file under any name that ends in .json, a GGUF file and
    `package:NAME`. Raises `ModelError`, for hub ids too: nothing is downloaded.
    """
    if model_id.endswith(".json") and os.path.isfile(model_id):
        return spec_of(read_json(Path(model_id)))
    return spec_of(_config(locate(model_id)))


def _config(source: ModelSource) -> Mapping[str, object]:
    if source.kind == "gguf":
        # Imported here: only such a file needs the reader.
        from ranvier.models.gguf_file import GgufCheckpoint

        return GgufCheckpoint(source.path).config
    if source.kind == "hub":
        raise ModelError(
            f"`model_id` {source.model_id}: no such file or directory; `ranvier plan` downloads nothing. Save the "
            f"model's config.json and give its path: hf download {source.model_id} config.json --local-dir DIR"
        )
    return read_json(source.path / "config.json")
