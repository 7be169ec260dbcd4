"""A plan: what one model takes and gives on one instance type, before anything is compiled."""

from __future__ import annotations

from dataclasses import dataclass

from ranvier.errors import ModelError, OptionError
from ranvier.models.spec import DecoderSpec
from ranvier.neuron_host import CastType
from ranvier.planner.buckets import LARGEST_PREFILL, PlannedBuckets, plan_buckets
from ranvier.planner.fitting import Fit
from ranvier.planner.instances import Instance
from ranvier.planner.memory import CoreMemory, HostMemory, host_memory
from ranvier.planner.picking import Choice, Wish, choose, gib
from ranvier.planner.roofline import Roofline
from ranvier.planner.sharding import share_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`choice` fits into the memory of its cores, and `host.load` into the host's where that is known."""

    fit: Fit
    choice: Choice
    memory: CoreMemory
    host: HostMemory

    @property
    def roofline(self) -> Roofline:
        """Bounds on speed for the cores chosen."""
        fit = self.fit
        return Roofline(
            spec=fit.spec,
            chip=fit.instance.chip,
            lnc=fit.lnc,
            num_cores=self.choice.num_cores,
            cast_type=fit.cast_type,
        )

    @property
    def buckets(self) -> PlannedBuckets:
        """The programs that an export should make."""
        return plan_buckets(self.choice.sequence_length, self.fit.largest_prefill)

    @property
    def num_engines(self) -> int:
        """Engines of this plan that the instance has cores for."""
        return self.fit.num_cores // self.choice.num_cores

    @property
    def parallel_compiles(self) -> int | None:
        """Programs that can compile at a time in the host's memory (estimate); None where that is not known."""
        available = self.fit.instance.host_bytes
        if available is None:
            return None
        if available < self.host.compile_one:
            return 0
        most = 1 + (available - self.host.compile_one) // self.host.each_more
        return min(most, self.buckets.num_programs, self.fit.instance.vcpus or most)

    def require_compile(self) -> None:
        """Raise `ModelError`, with the numbers, when the host is estimated too small to compile even one program."""
        if self.parallel_compiles == 0:
            raise ModelError(
                f"`model_id`: compiling one program is estimated to take {gib(self.host.compile_one)} of host memory "
                f"and {self.fit.instance.name} has {gib(self.fit.instance.host_bytes or 0)}; "
                f"export on a larger instance of the same chip and copy the artifact here"
            )


def make_plan(
    spec: DecoderSpec,
    instance: Instance,
    wish: Wish | None = None,
    *,
    cast_type: CastType = "bf16",
    lnc: int | None = None,
    largest_prefill: int = LARGEST_PREFILL,
) -> Plan:
    """Plan `spec` on `instance`. `lnc` is the chip's default where it is None.

    Raises `OptionError` for a wish that is out of bounds or does not fit, `ModelError` when the model does not fit at
    all, on the devices or in the host's memory while it is loaded; each with the numbers.
    """
    chosen_lnc = instance.chip.default_lnc if lnc is None else lnc
    if chosen_lnc not in instance.chip.lncs:
        allowed = " or ".join(map(str, instance.chip.lncs))
        raise OptionError(f"`lnc` must be {allowed} on {instance.chip.name}. Given: {chosen_lnc}")
    fit = Fit(spec=spec, instance=instance, lnc=chosen_lnc, cast_type=cast_type, largest_prefill=largest_prefill)
    choice = choose(fit, wish or Wish())
    host = host_memory(spec, share_of(spec, choice.num_cores), cast_type)
    _check_load(fit, choice, host)
    memory = fit.memory(choice.num_cores, choice.batch_size, choice.sequence_length)
    return Plan(fit=fit, choice=choice, memory=memory, host=host)


def _check_load(fit: Fit, choice: Choice, host: HostMemory) -> None:
    available = fit.instance.host_bytes
    if available is not None and host.load > available:
        raise ModelError(
            f"`model_id`: loading on {choice.num_cores} NeuronCores is estimated to take {gib(host.load)} of host "
            f"memory and {fit.instance.name} has {gib(available)}; take more cores or a larger instance"
        )
