"""From the engine's step figures to metrics."""

from __future__ import annotations

from typing import Literal

from ranvier.core import Limits, StepStats
from ranvier.observability import ServerMetrics


class _Method:
    """The series of one kind of step."""

    def __init__(self, metrics: ServerMetrics, method: Literal["prefill", "decode"]) -> None:
        self.count = metrics.batch_inference_count.child(method=method)
        self.success = metrics.batch_inference_success.child(method=method)
        self.failure = metrics.batch_inference_failure.child(method=method)
        self.duration = metrics.batch_inference_duration.child(method=method)
        self.forward = metrics.batch_forward_duration.child(method=method)
        self.choose = metrics.batch_decode_duration.child(method=method)
        self.commit = metrics.batch_filter_duration.child(method=method)

    def record(self, stats: StepStats) -> None:
        self.count.add()
        if stats.is_failed:
            self.failure.add()
            return
        self.success.add()
        self.duration.observe(stats.duration_s)
        self.forward.observe(stats.forward_s)
        self.choose.observe(stats.choose_s)
        self.commit.observe(stats.commit_s)


class StepRecorder:
    """Turns an engine's step figures into metrics. A step with any prompt token counts as `prefill`."""

    def __init__(self, metrics: ServerMetrics, limits: Limits) -> None:
        self._metrics = metrics
        self._limits = limits
        self._prefill = _Method(metrics, "prefill")
        self._decode = _Method(metrics, "decode")
        self._skipped = metrics.skipped_tokens.child()
        self._prefill_tokens = metrics.computed_tokens.child(phase="prefill")
        self._decode_tokens = metrics.computed_tokens.child(phase="decode")
        self._padded_tokens = metrics.padded_tokens.child()
        self._queue_size = metrics.queue_size.child()
        self._current_size = metrics.batch_current_size.child()
        self._current_max_tokens = metrics.batch_current_max_tokens.child()
        self._slots = metrics.slots.child()
        self._slots_used = metrics.slots_used.child()

    def __call__(self, stats: StepStats) -> None:
        """Record one step, or what a cancel has changed."""
        if stats.is_step:
            self._record_step(stats)
        if stats.num_started:
            self._record_start(stats)
        if stats.waiting_for:
            self._metrics.queue_causes.left_waiting(stats.waiting_for, stats.began_s)
        self._queue_size.set(stats.num_waiting)
        self._current_size.set(stats.num_slots_used)
        self._current_max_tokens.set(stats.num_slots_used * self._limits.sequence_length)
        self._slots.set(self._limits.batch_size)
        self._slots_used.set(stats.num_slots_used)

    def _record_step(self, stats: StepStats) -> None:
        (self._prefill if stats.num_prefill_tokens else self._decode).record(stats)
        self._prefill_tokens.add(stats.num_prefill_tokens)
        self._decode_tokens.add(stats.num_decode_tokens)
        self._padded_tokens.add(stats.num_padded_tokens)
        if stats.num_chosen:
            # Without speculation no step gives a request more than one token.
            self._skipped.observe(0, stats.num_chosen)

    def _record_start(self, stats: StepStats) -> None:
        self._metrics.batch_next_size.observe(stats.num_started)
        if stats.num_running:
            # TGI's words: the others go on beside the prompts, or pause for them.
            reason = "chunking" if stats.num_decode_tokens else "wait_exceeded"
            self._metrics.batch_concat.add(reason=reason)
            self._metrics.batch_concat_duration.observe(stats.plan_s, method="decode")
