"""The host sampler: one token for each row of logits.

Shapes: `R` rows, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ranvier.core import SamplingParams, SamplingRow, TokenChoice, TokenLogprob
from ranvier.sampling.candidates import Candidates, inverse_cdf
from ranvier.sampling.masks import masked
from ranvier.sampling.penalties import penalized
from ranvier.sampling.random import uniform
from ranvier.sampling.truncation import keep_top_k, keep_top_p, keep_typical_p

_FLOAT32 = np.finfo(np.float32)


class HostSampler:
    """Chooses tokens on the host from logits that a target has computed. Stateless; safe to share between threads."""

    def choose(
        self,
        logits_RV: npt.NDArray[np.float32],
        lse_R: npt.NDArray[np.float32] | None,
        rows: Sequence[SamplingRow],
    ) -> tuple[TokenChoice | None, ...]:
        """One choice for each row; None where its largest logit is not finite (NaN, +inf, or all masked).

        * `logits_RV` is only read; it may be a read-only view of device memory.
        * `lse_R`: log-sum-exp of each raw row if the device has computed it, which spares greedy rows a pass.

        Order: repetition, frequency and presence penalty; the mask of `allowed`, whose other tokens get -inf; if the
        row samples also temperature, top-k, top-p, typical-p.
        A greedy row takes the largest logit, the smallest id among equals; a sampled row inverts the cumulative
        distribution over ascending ids at `uniform(seed, token_index)`. Log-probabilities, those of `top` too, are of
        the distribution that is left after all this; `top` leaves out tokens that it does not hold.

        A row's choice depends on nothing but that row, to the bit.
        """
        lses = [None] * len(rows) if lse_R is None else lse_R.tolist()
        # Differences from a mask of huge negative numbers may become -inf, as they should.
        with np.errstate(over="ignore"):
            return tuple(_choose(*row) for row in zip(logits_RV, lses, rows, strict=True))


def _choose(logits_V: npt.NDArray[np.float32], lse: float | None, row: SamplingRow) -> TokenChoice | None:
    params = row.params
    if params.needs_history:
        logits_V, lse = _penalized(logits_V, row), None
    if row.allowed is not None:
        logits_V, lse = masked(logits_V, row.allowed), None
    best = int(logits_V.argmax())
    peak = float(logits_V[best])
    if not math.isfinite(peak):
        return None
    if not params.do_sample:
        candidates = Candidates(logits_K=logits_V, peak=peak)
        log_mass = _log_mass(candidates) if lse is None else lse - peak
        return _choice(candidates, best, log_mass, params.top_n_tokens)
    candidates = _kept(logits_V, peak, params)
    index, mass = inverse_cdf(candidates.weights(), uniform(params.seed, row.token_index))
    return _choice(candidates, index, math.log(mass), params.top_n_tokens)


def _penalized(logits_V: npt.NDArray[np.float32], row: SamplingRow) -> npt.NDArray[np.float32]:
    return penalized(
        logits_V,
        row.history,
        repetition_penalty=row.params.repetition_penalty,
        frequency_penalty=row.params.frequency_penalty,
        presence_penalty=row.params.presence_penalty,
        num_generated=row.token_index,
    )


def _kept(logits_V: npt.NDArray[np.float32], peak: float, params: SamplingParams) -> Candidates:
    """The distribution that a sampled row draws from."""
    # Beyond float32's range the quotients would be 0 / 0 or -inf / inf; the distribution is at its limit long before.
    temperature = min(max(params.temperature, float(_FLOAT32.tiny)), float(_FLOAT32.max))
    candidates = Candidates(logits_K=logits_V, peak=peak, temperature=temperature)
    if params.top_k > 0:
        candidates = keep_top_k(candidates, params.top_k)
    if params.top_p < 1.0:
        candidates = keep_top_p(candidates, params.top_p)
    if params.typical_p < 1.0:
        candidates = keep_typical_p(candidates, params.typical_p)
    return candidates


def _log_mass(candidates: Candidates) -> float:
    return math.log(candidates.weights().sum(dtype=np.float64))


def _choice(candidates: Candidates, index: int, log_mass: float, num_top: int) -> TokenChoice:
    """`log_mass` is the log of the sum of the candidates' weights."""
    return TokenChoice(
        token_id=candidates.token_id(index),
        logprob=candidates.exponent(index) - log_mass,
        top=_top(candidates, log_mass, num_top) if num_top else (),
    )


def _top(candidates: Candidates, log_mass: float, num_top: int) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(candidates.token_id(index), candidates.exponent(index) - log_mass)
        for index in candidates.most_likely(num_top).tolist()
    )
