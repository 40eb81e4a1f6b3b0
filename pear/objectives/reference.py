"""Importance-weighted SFT (arXiv 2507.12856): weights by the ratio to a frozen reference."""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float64
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.objectives.probability import log_probabilities
from pear.ops.losses import LOG_PROB_FLOOR
from pear.ops.masking import find_sequences, in_float64, keep_response

RatioLevel = Literal["sequence", "token"]

SEQUENCE_CLAMP = (0.0, 16.0)
TOKEN_CLAMP = (0.2, 1.8)


@final
@dataclass(frozen=True, kw_only=True)
class ReferenceRatio(Weighting):
    """The ratio of the target policy to a frozen reference, of a whole sequence or token by token.

        sequence:  w = clamp(exp(temperature (1/T) sum_t (log pi_theta(y_t) - log pi_ref(y_t))), 0, 16)
        token:     w_t = clamp(pi_theta(y_t) / pi_ref(y_t), 0.2, 1.8)

    Both clamps are those of the authors' code, which uses the temperature at sequence level only.
    """

    level: RatioLevel
    temperature: float

    def __post_init__(self) -> None:
        if not (self.temperature >= 0.0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be a number of at least 0. Got {self.temperature!r}.")

    @property
    def requires(self) -> frozenset[str]:
        """The reference's log-probs."""
        return frozenset({"ref_log_probs"})

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, in float64 so that float64 log-probs lose nothing."""
        assert batch.ref_log_probs is not None
        floored = batch.ref_log_probs.detach().clamp(min=LOG_PROB_FLOOR)
        reference = in_float64(keep_response("ref_log_probs", floored, batch.response_mask))
        log_ratio = log_probabilities(batch) - reference
        if self.level == "token":
            return log_ratio.exp().clamp(*TOKEN_CLAMP)
        return (self.temperature * _mean_over_sequence(log_ratio, batch)).exp().clamp(*SEQUENCE_CLAMP)


def _mean_over_sequence(values: Float64[Tensor, "batch seq"], batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
    """At each position the mean over its sequence's response tokens; 0 for a sequence without any."""
    if values.numel() == 0:
        return values
    sequences = find_sequences(batch.response_mask, batch.segment_ids).to(values.device)
    prefix, counts = values.reshape(-1).cumsum(0), batch.response_mask.to(values.device).reshape(-1).long().cumsum(0)
    totals = sequences.at_end(prefix) - sequences.before_start(prefix)
    lengths = sequences.at_end(counts) - sequences.before_start(counts)
    return (
        torch.where(lengths > 0, totals / lengths.clamp(min=1), 0.0)
        .repeat_interleave(sequences.lengths)
        .view_as(values)
    )


@final
@dataclass(frozen=True, kw_only=True)
class IwSft(Objective):
    """iw-SFT, NLL x a clamped ratio to a frozen reference (arXiv 2507.12856; clamps of its authors' code).

        w = clamp(exp(temperature mean_t(log pi_theta(y_t) - log pi_ref(y_t))), 0, 16)

    Attributes:
        level: "sequence", the formula above; "token" takes each token's own ratio, clamped to [0.2, 1.8].
        temperature: of the sequence's ratio; 1, the authors' value, is the geometric mean of the tokens' ratios.
    """

    level: RatioLevel = "sequence"
    temperature: float = 1.0

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """The clamped ratio."""
        return ReferenceRatio(level=self.level, temperature=self.temperature)
