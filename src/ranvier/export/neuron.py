"""What an artifact for Neuron devices holds beside its texts: weights by core, programs, what was compiled.

    weights/    see `targets.neuron.shards`
    programs/   see `targets.neuron.stored`
    compiled/   caches of JAX and of the Neuron compiler, found again by every later start

Compiling takes long and may fail late. What is finished is kept beside the artifact that is being written, under a name
that the next export of the same request finds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ranvier.artifacts import COMPILED, Compiled, ExportRequest, NeuronManifest, NeuronWish, StoredFile, digest
from ranvier.core import Limits
from ranvier.errors import CompileError, OptionError, SetupError
from ranvier.export.compilers import Compiler, find_compiler
from ranvier.export.orders import ProgramOrder
from ranvier.export.process_memory import host_bytes
from ranvier.export.program_runs import ProgramRuns, Report
from ranvier.models import Checkpoint, DecoderSpec, WeightPlan, held_weights
from ranvier.models.packing import Progress
from ranvier.neuron_host import CastType, core_environment, discover, drop_damaged, jax_environment
from ranvier.planner import Plan, Wish, find_instance, make_plan
from ranvier.planner.buckets import LARGEST_PREFILL, SCORED_TOKENS, PlannedBuckets, cache_length, plan_buckets

MOST = 1024
"""Slots, and cores: far more than any host has."""

NUM_TOP = 8
"""Most `top_n_tokens` of a request; the launcher's own limit is 5."""

_CAST_TYPES: tuple[CastType, ...] = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The static shape, once everything that was open is chosen. `plan` is there where the instance is known."""

    num_cores: int
    limits: Limits
    buckets: PlannedBuckets
    plan: Plan | None


def settle(request: ExportRequest, wish: NeuronWish, spec: DecoderSpec, defaults: tuple[int, int]) -> Settled:
    """Choose what is open: by the plan for the instance, or the `defaults` (batch, sequence) where none is named.

    Raises `OptionError` or `ModelError`, with the numbers, when it does not fit that instance.
    """
    cast_type = next(known for known in _CAST_TYPES if known == wish.auto_cast_type)
    if wish.instance is not None:
        asked = Wish(num_cores=wish.num_cores, batch_size=request.batch_size, sequence_length=request.sequence_length)
        # What a program needs beside weights and cache grows with the longest prompt it takes.
        longest = max((*wish.prefill, *wish.chunk), default=LARGEST_PREFILL)
        plan = make_plan(
            spec, find_instance(wish.instance), asked, cast_type=cast_type, lnc=wish.lnc, largest_prefill=longest
        )
        choice = plan.choice
        limits = _limits(choice.batch_size, choice.sequence_length)
        return Settled(num_cores=choice.num_cores, limits=limits, buckets=_given(plan.buckets, wish), plan=plan)
    batch_size, sequence_length = defaults
    return Settled(
        num_cores=wish.num_cores or 1,
        limits=_limits(batch_size, sequence_length),
        buckets=_given(plan_buckets(sequence_length), wish),
        plan=None,
    )


def _given(planned: PlannedBuckets, wish: NeuronWish) -> PlannedBuckets:
    """The buckets that were asked for, in place of those planned."""
    return PlannedBuckets(
        prefill=wish.prefill or planned.prefill,
        chunk=wish.chunk or planned.chunk,
        decode=wish.decode or planned.decode,
    )


def _limits(batch_size: int, sequence_length: int) -> Limits:
    """What programs are lowered with; the rest has no part in it."""
    return Limits(
        batch_size=batch_size,
        sequence_length=sequence_length,
        max_input_tokens=sequence_length - 1,
        max_batch_prefill_tokens=sequence_length,
    )


def check_request(request: ExportRequest) -> None:
    """Raise `OptionError` for what no Neuron artifact can have."""
    wish = request.neuron or NeuronWish()
    for name, value in {"batch_size": request.batch_size, "num_cores": wish.num_cores}.items():
        # Of an instance that is named the plan knows the limits better.
        if value is not None and value > MOST and wish.instance is None:
            raise OptionError(f"`{name}` must be <= {MOST} for target neuron. Given: {value}")
    if request.quantize not in ("auto", "none"):
        raise OptionError(
            f"`quantize` {request.quantize} is not served by target neuron, whose programs multiply dense matrices; "
            "leave the option out, and give `--auto-cast-type` bf16 for the smallest weights"
        )
    if request.kv_cache_dtype != "auto":
        raise OptionError(
            f"`kv_cache_dtype` {request.kv_cache_dtype} is not served by target neuron, whose cache is held as the "
            "model computes; leave the option out"
        )


class NeuronExport:
    """Writes the files of one request into a directory that is being built."""

    def __init__(self, request: ExportRequest, settled: Settled, building: Path, progress: Progress, report: Report):
        assert request.neuron is not None
        self._request, self._wish, self._settled = request, request.neuron, settled
        self._building, self._progress, self._report = building, progress, report

    def write(self, checkpoint: Checkpoint, spec: DecoderSpec, kept: Path) -> NeuronManifest:
        """Write all of it. `kept`: where to compile, outside of `building`; moved into it at the end.

        Raises `CompileError` when a program cannot be made and `SetupError` where JAX is missing.
        """
        compiler = find_compiler(self._wish.compile_for)
        here = plan_here(self._settled.plan, compiler)
        if here is not None:
            here.require_compile()
        unnamed = self._manifest(())
        names = self._write_weights(checkpoint, spec, unnamed)
        manifest = replace(unnamed, programs=names)
        # Without a device, and without the names of this host's files, which would be in every program.
        added = {**jax_environment(os.environ, emulated_cores=1), "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0"}
        self._have_done("lower", manifest, added)
        compiled = self._compile(manifest, compiler, kept) if compiler else None
        return replace(manifest, files=_files(self._building), compiled=compiled)

    def _manifest(self, names: tuple[str, ...]) -> NeuronManifest:
        from importlib.metadata import version

        buckets, length = self._settled.buckets, cache_length(self._settled.limits.sequence_length)
        return NeuronManifest(
            num_cores=self._settled.num_cores,
            auto_cast_type=self._wish.auto_cast_type,
            num_top=NUM_TOP,
            prefill=buckets.prefill,
            chunk=buckets.chunk,
            decode=buckets.decode,
            score=min(SCORED_TOKENS, length),
            programs=names,
            files=(),
            jax=version("jax"),
        )

    def _write_weights(self, checkpoint: Checkpoint, spec: DecoderSpec, manifest: NeuronManifest) -> tuple[str, ...]:
        """Write the shards; the names of all programs."""
        from ranvier.targets.neuron import ProgramSet, shapes_of
        from ranvier.targets.neuron.artifact import options_of
        from ranvier.targets.neuron.shards import write_shards

        shapes = shapes_of(spec, self._settled.limits, options_of(manifest))
        # The finest form that the checkpoint may have: it is rounded to the cast type once, at the end.
        plan = WeightPlan(quantize="none", dtype="bfloat16" if self._wish.auto_cast_type == "bf16" else "float32")
        write_shards(shapes, held_weights(checkpoint, plan, self._progress), self._building)
        return ProgramSet(shapes).names

    def _have_done(self, job: str, manifest: NeuronManifest, added: dict[str, str], jobs: int = 1) -> dict[str, float]:
        order = ProgramOrder(
            job="lower" if job == "lower" else "compile",
            directory=str(self._building),
            limits=self._settled.limits,
            neuron=manifest,
            names=manifest.programs,
            jobs=jobs,
        )
        return ProgramRuns(order, {**os.environ, **added}, self._report).run()

    def _compile(self, manifest: NeuronManifest, compiler: Compiler, kept: Path) -> Compiled:
        with _held(kept) as is_ours:
            inside = self._building / COMPILED
            # Whoever compiles the same beside us takes it away when done, so that nothing is shared with them.
            cache = kept if is_ours else inside
            seconds = self._compile_in(cache, manifest, compiler)
            # JAX only warns where it could not write all of an entry, and every later start would compile it again.
            if damaged := drop_damaged(cache):
                raise CompileError(
                    f"{cache}: {len(damaged)} of what was compiled could not be written, perhaps because the disk is "
                    "full; make room and export again"
                )
            if is_ours:
                shutil.move(kept, inside)
        return Compiled(
            platform=compiler.platform,
            compiler=compiler.version,
            target=compiler.target,
            lnc=compiler.lnc,
            seconds={name: round(took, 2) for name, took in seconds.items()},
        )

    def _compile_in(self, cache: Path, manifest: NeuronManifest, compiler: Compiler) -> dict[str, float]:
        emulated = manifest.num_cores if compiler.platform == "cpu" else None
        added = jax_environment(os.environ, emulated_cores=emulated, cache=cache)
        if compiler.platform == "neuron":
            # What stands in the environment is the user's; what is compiled here belongs into the artifact.
            added["NEURON_COMPILE_CACHE_URL"] = str(cache / "neuronx-cc")
            added |= core_environment(discover(), manifest.num_cores)
        return self._have_done("compile", manifest, added, self._jobs(compiler))

    def _jobs(self, compiler: Compiler) -> int:
        """Programs at a time: what the plan finds room for on this host, else what its memory is thought to hold."""
        here = plan_here(self._settled.plan, compiler)
        planned = here.parallel_compiles if here is not None else None
        return max(1, min(planned or compiler.jobs, compiler.jobs))


@contextlib.contextmanager
def _held(kept: Path) -> Iterator[bool]:
    """Make the folder and lock it; whether it is ours, and not another export's that is compiling in it."""
    kept.mkdir(parents=True, exist_ok=True)
    lock = os.open(kept, os.O_RDONLY)
    try:
        yield _is_locked(kept, lock)
    finally:
        os.close(lock)


def _is_locked(kept: Path, lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between the two calls its owner may have finished and taken it away.
        return os.path.samestat(kept.stat(), os.fstat(lock))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        # Some network file systems lock no folders; there one export of a request at a time is the user's part.
        return True


def plan_here(plan: Plan | None, compiler: Compiler | None) -> Plan | None:
    """The plan with this host's memory in place of the instance's: an artifact may be made on a larger one.

    None where nothing is planned, and where no Neuron compiler is to run.
    """
    if plan is None or compiler is None or compiler.platform != "neuron":
        return None
    here = replace(plan.fit.instance, name="this host", host_bytes=host_bytes(), vcpus=os.cpu_count())
    return replace(plan, fit=replace(plan.fit, instance=here))


def kept_directory(directory: Path, key: Mapping[str, str]) -> Path:
    """Where the compiled programs of an export into `directory` are until all are finished. `key`: of its request."""
    return directory.parent / f".compiling-{digest(key)}"


def require_jax() -> None:
    """Raise `SetupError` where programs cannot be lowered."""
    import importlib.util

    missing = [name for name in ("jax", "flatbuffers") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"target neuron needs {' and '.join(missing)}: pip install 'ranvier[neuron]' (Python 3.11 or later)"
        )


def _files(building: Path) -> tuple[StoredFile, ...]:
    """Weights and programs: without any of them the artifact is damaged."""
    paths = sorted(path for folder in ("weights", "programs") for path in (building / folder).iterdir())
    return tuple(StoredFile(path=str(path.relative_to(building)), size=path.stat().st_size) for path in paths)
