"""Every metric of the server: TGI's under TGI's names, ours under `ranvier_`.

TGI's names, labels and buckets are those of Text Generation Inference 3.3.6. Where its words do not fit a server with
slots, the help text says what is counted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from ranvier.observability.moments import Moments
from ranvier.observability.queue_causes import QueueCauses
from ranvier.observability.series import (
    DURATION_BUCKETS,
    Counter,
    FollowedCounter,
    Gauge,
    Histogram,
    Metric,
    Summary,
    even_buckets,
)


def _duration(name: str, help_text: str) -> Histogram:
    return Histogram(name, help_text, DURATION_BUCKETS)


class _RequestMetrics:
    """What is known about requests."""

    def __init__(self, *, max_input_tokens: int, max_total_tokens: int) -> None:
        total = even_buckets(max_total_tokens)
        self.request_count = Counter("tgi_request_count", "Generation requests that arrived.")
        self.request_success = Counter("tgi_request_success", "Generation requests that finished.")
        self.request_failure = Counter("tgi_request_failure", "Generation requests that failed, by `err`.")
        self.request_duration = _duration("tgi_request_duration", "Seconds from arrival to end.")
        self.validation_duration = _duration("tgi_request_validation_duration", "Seconds from arrival to the queue.")
        self.queue_duration = _duration("tgi_request_queue_duration", "Seconds in the queue.")
        self.inference_duration = _duration(
            "tgi_request_inference_duration", "Seconds from leaving the queue to the end."
        )
        self.mean_time_per_token = _duration(
            "tgi_request_mean_time_per_token_duration", "Inference seconds divided by generated tokens."
        )
        self.generated_tokens = Histogram("tgi_request_generated_tokens", "Generated tokens of a request.", total)
        self.input_length = Histogram(
            "tgi_request_input_length", "Prompt tokens of a request.", even_buckets(max_input_tokens)
        )
        self.max_new_tokens = Histogram("tgi_request_max_new_tokens", "Tokens a request may generate.", total)
        self.skipped_tokens = Summary(
            "tgi_request_skipped_tokens", "Tokens beyond the first that a step gave a request, since the start."
        )
        self.queue_size = Gauge("tgi_queue_size", "Requests that wait for a slot.")
        self.time_to_first_token = _duration(
            "ranvier_time_to_first_token_duration", "Seconds from arrival to the first token."
        )
        self.inter_token_duration = _duration(
            "ranvier_inter_token_duration", "Seconds between a token and the one before it."
        )
        self.queue_cause_duration = _duration(
            "ranvier_queue_duration", "Seconds in the queue, by the `cause` that kept requests there."
        )
        self.prompt_tokens = Counter("ranvier_prompt_tokens", "Prompt tokens of finished requests.")
        self.prefix_hits = Counter("ranvier_prefix_hits", "Finished requests that found a prefix in the KV cache.")
        self.reused_tokens = Counter("ranvier_prefix_reused_tokens", "Prompt tokens found in the KV cache.")
        self.tokenizer_queue_size = Gauge(
            "ranvier_tokenizer_queue_size", "Texts that wait for a tokenizer thread or are on one."
        )
        self.tokenize_duration = _duration("ranvier_tokenize_duration", "Seconds until a text was tokenized.")


class _StepMetrics:
    """What is known about steps, which stand for TGI's batches."""

    def __init__(self) -> None:
        self.batch_current_size = Gauge("tgi_batch_current_size", "Slots in use.")
        self.batch_current_max_tokens = Gauge("tgi_batch_current_max_tokens", "Tokens reserved by slots in use.")
        self.batch_next_size = Histogram(
            "tgi_batch_next_size", "Requests that left the queue together.", range(1, 1025)
        )
        self.batch_inference_count = Counter("tgi_batch_inference_count", "Steps, by `method`.")
        self.batch_inference_success = Counter("tgi_batch_inference_success", "Steps that ended well, by `method`.")
        self.batch_inference_failure = Counter("tgi_batch_inference_failure", "Steps that failed, by `method`.")
        self.batch_inference_duration = _duration("tgi_batch_inference_duration", "Seconds of a step, by `method`.")
        self.batch_forward_duration = _duration(
            "tgi_batch_forward_duration", "Seconds of a step that the device took, by `method`."
        )
        self.batch_decode_duration = _duration(
            "tgi_batch_decode_duration",
            "Seconds of a step that choosing tokens took, by `method`; 0 where that is part of the device's.",
        )
        self.batch_filter_duration = _duration(
            "tgi_batch_filter_duration", "Seconds of a step that noting tokens and ending requests took, by `method`."
        )
        self.batch_concat_duration = _duration(
            "tgi_batch_concat_duration", "Seconds of planning a step that requests joined, by `method`."
        )
        self.batch_concat = Counter(
            "tgi_batch_concat", "Times that requests joined others that were being decoded, by `reason`."
        )
        self.slots = Gauge("ranvier_slots", "Slots there are.")
        self.slots_used = Gauge("ranvier_slots_used", "Slots in use.")
        self.computed_tokens = Counter("ranvier_computed_tokens", "Tokens put through the model, by `phase`.")
        self.padded_tokens = Counter("ranvier_padded_tokens", "Tokens put through the model for nobody.")


class ServerMetrics(_RequestMetrics, _StepMetrics):
    """Every metric of the server, declared once."""

    def __init__(self, *, max_input_tokens: int, max_total_tokens: int) -> None:
        _RequestMetrics.__init__(self, max_input_tokens=max_input_tokens, max_total_tokens=max_total_tokens)
        _StepMetrics.__init__(self)
        self.engine_restarts = FollowedCounter("ranvier_engine_restarts", "Engines that were started anew.")
        self.info = Gauge("ranvier_info", "What runs here; always 1.")
        self.queue_causes = QueueCauses(self.queue_cause_duration)
        self.observe_token_gap: Callable[[float], None] = self.inter_token_duration.child().observe
        """Count the seconds between a token and the one before it, of one request."""

    def set_info(self, *, version: str, model: str, target: str) -> None:
        """Tell what runs here. Call it once."""
        self.info.child(version=version, model=model, target=target).set(1)

    def follow_engine_connections(self, read: Callable[[], int]) -> None:
        """Show restarts of the engine; `read` gives the connections to an engine so far, the first one included."""
        self.engine_restarts.follow(lambda: max(0, read() - 1))

    @contextlib.contextmanager
    def tokenizing(self) -> Iterator[None]:
        """Around the tokenizing of one text, the wait for a thread included."""
        began = time.monotonic()
        self.tokenizer_queue_size.add(1)
        try:
            yield
        finally:
            self.tokenizer_queue_size.add(-1)
            self.tokenize_duration.observe(time.monotonic() - began)

    def request_started(self, queued_s: float, started_s: float) -> None:
        """A request has left the queue. Call it as its `StartEvent` arrives; moments of `time.monotonic()`."""
        self.queue_causes.started(queued_s, started_s)

    def request_done(self, moments: Moments, *, num_input: int, num_reused: int, num_generated: int) -> None:
        """A request has ended well. Counts of tokens; `num_generated` >= 1, `num_reused` <= `num_input`."""
        self.request_success.add()
        self.request_duration.observe(moments.total_s)
        self.validation_duration.observe(moments.validation_s)
        self.queue_duration.observe(moments.queue_s)
        self.inference_duration.observe(moments.inference_s)
        self.mean_time_per_token.observe(moments.inference_s / num_generated)
        self.generated_tokens.observe(num_generated)
        self.time_to_first_token.observe(moments.first_token_s - moments.arrived_s)
        self.prompt_tokens.add(num_input)
        self.prefix_hits.add(1 if num_reused else 0)
        self.reused_tokens.add(num_reused)

    def render(self) -> str:
        """All families in text format."""
        families = [metric for metric in vars(self).values() if isinstance(metric, Metric)]
        return "".join(f"{line}\n" for family in families for line in family.lines())
