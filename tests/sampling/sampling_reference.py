"""What the sampler has to do, written as plainly as possible: float64, full sorts, full softmax.

Where a mass comes within `slack` of a limit, rounding decides what is kept. So the reference answers with every
outcome that is right within the slack; away from such edges there is exactly one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ranvier.core import SamplingParams, SamplingRow, TokenChoice
from ranvier.sampling import uniform

Floats = npt.NDArray[np.float64]


def assert_is_right(
    choice: TokenChoice | None, logits: npt.NDArray[np.float32], row: SamplingRow, slack: float
) -> None:
    """`choice` is one of the outcomes that are right for the row."""
    assert choice is not None
    processed = reference_penalties(logits, row.params, row.history, row.token_index)
    complaints = [_complaint(choice, kept, row, slack) for kept in _kept_logits(processed, row.params, slack)]
    assert None in complaints, complaints


def reference_penalties(
    logits: npt.NDArray[np.float32], params: SamplingParams, history: Sequence[int], num_generated: int
) -> Floats:
    processed = [float(logit) for logit in logits]
    for token_id in set(history):
        logit = processed[token_id]
        logit = logit * params.repetition_penalty if logit < 0 else logit / params.repetition_penalty
        logit -= params.frequency_penalty * list(history).count(token_id) / len(history)
        processed[token_id] = float(np.float32(logit))
    for token_id in set(list(history)[max(0, len(history) - num_generated) :]):
        processed[token_id] = float(np.float32(processed[token_id]) - np.float32(params.presence_penalty))
    return np.array(processed)


def reference_log_softmax(logits: Floats, temperature: float) -> Floats:
    exponents = (logits - logits.max()) / temperature
    result: Floats = exponents - np.log(np.exp(exponents).sum())
    return result


def _kept_logits(logits: Floats, params: SamplingParams, slack: float) -> Iterator[Floats]:
    """Rows in which every token that is not kept has become -inf."""
    if not params.do_sample:
        yield logits
        return
    if 0 < params.top_k < len(logits):
        logits = np.where(logits >= np.sort(logits)[-params.top_k], logits, -np.inf)
    for after_top_p in _top_p(logits, params, slack):
        yield from _typical_p(after_top_p, params, slack)


def _top_p(logits: Floats, params: SamplingParams, slack: float) -> Iterator[Floats]:
    if params.top_p == 1.0:
        yield logits
        return
    probabilities = np.exp(reference_log_softmax(logits, params.temperature))
    order = np.lexsort((np.arange(len(logits)), -logits))
    mass_before = np.cumsum(probabilities[order]) - probabilities[order]
    for top_p in (params.top_p, params.top_p - slack, params.top_p + slack):
        is_dropped = mass_before >= top_p
        is_dropped[0] = False
        kept = logits.copy()
        kept[order[is_dropped]] = -np.inf
        yield kept


def _typical_p(logits: Floats, params: SamplingParams, slack: float) -> Iterator[Floats]:
    if params.typical_p == 1.0:
        yield logits
        return
    log_p = reference_log_softmax(logits, params.temperature)
    probabilities = np.exp(log_p)
    entropy = -np.where(probabilities > 0, probabilities * np.maximum(log_p, -1e300), 0.0).sum()
    distances = np.abs(-log_p - entropy)
    order = np.argsort(distances, kind="stable")
    masses = np.cumsum(probabilities[order])
    for typical_p in (params.typical_p, params.typical_p - slack, params.typical_p + slack):
        is_enough = np.flatnonzero(masses >= typical_p)
        last = is_enough[0] if len(is_enough) else -1
        for near in (0.0, slack):
            yield np.where(distances <= distances[order[last]] + near, logits, -np.inf)


def _complaint(choice: TokenChoice, logits: Floats, row: SamplingRow, slack: float) -> str | None:
    """What is wrong with the choice if exactly the finite logits are kept."""
    params = row.params
    log_p = reference_log_softmax(logits, params.temperature if params.do_sample else 1.0)
    if not params.do_sample and choice.token_id != np.argmax(logits):
        return f"the largest logit is {np.argmax(logits)}, not {choice.token_id}"
    if params.do_sample and not _is_drawn(choice.token_id, log_p, uniform(params.seed, row.token_index), slack):
        return f"{choice.token_id} is not where u falls"
    likely = [i for i in np.lexsort((np.arange(len(logits)), -logits)) if logits[i] > -np.inf][: params.top_n_tokens]
    if [entry.token_id for entry in choice.top] != likely:
        return f"the most likely are {likely}, not {choice.top}"
    for token_id, logprob in [(choice.token_id, choice.logprob), *((t.token_id, t.logprob) for t in choice.top)]:
        if abs(logprob - log_p[token_id]) > (slack + 1e-6) * (1 + abs(log_p[token_id])):
            return f"log-probability of {token_id} is {log_p[token_id]}, not {logprob}"
    return None


def _is_drawn(token_id: int, log_p: Floats, u: float, slack: float) -> bool:
    """Whether u lies in the token's part of the cumulative distribution over ascending ids."""
    ends = np.cumsum(np.exp(log_p))
    start = ends[token_id - 1] if token_id else 0.0
    return bool(log_p[token_id] > -np.inf and start - slack <= u <= ends[token_id] + slack)
