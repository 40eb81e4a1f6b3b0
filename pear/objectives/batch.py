"""What an objective is given, and what it returns."""

from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from pear.ops.losses import weighted_sum
from pear.ops.masking import check_floating, check_mask, check_shape, find_sequences
from pear.ops.ratios import log_ratios
from pear.ops.spans import pooled_log_ratios

FLOAT_FIELDS = (
    "behavior_log_probs",
    "ref_log_probs",
    "old_log_probs",
    "divergence",
    "entropy",
    "reward",
    "step_weights",
)


@final
@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """What an optimizer step holds, over all its micro-batches and processes.

    Attributes:
        num_tokens: response tokens.
        num_negative_tokens: those of verified failures among them.
        num_sequences: sequences with a response token.
        sum_weights: of the objective's weights, where somebody needs it.
    """

    num_tokens: int
    num_negative_tokens: int
    num_sequences: int
    sum_weights: float | None = None


@final
@dataclass(frozen=True)
class TokenBatch:
    """The tokens of a batch, aligned: index t is about token t, `log_probs[:, t] = log pi(token[t] | token[<t])`.

    All tensors are (batch, seq). Masked positions may hold anything, NaN and inf too.

    Attributes:
        log_probs: the target policy's, differentiable, nats.
        response_mask: bool; True at the tokens that are trained on. May have holes.
        behavior_log_probs: of the policy that produced the tokens.
        ref_log_probs: of a frozen reference.
        old_log_probs: of the model at an earlier step.
        divergence: a differentiable full-vocabulary divergence per token, the one that the objective's base loss names.
        entropy: of the target policy, over as many of the likeliest tokens as the weighting names.
        reward: of the token's trajectory, as its verifier graded it.
        segment_ids: any ints, equal and contiguous per sequence of a packed row. None: one sequence a row.
        is_negative: bool; True at the tokens of verified failures.
        step: counts of the whole optimizer step that this is a part of. None: this batch is the whole step.
        step_weights: the objective's weights, where `pear.objectives.step` worked them out over the whole step.
        spans: any ints, equal over a span of tokens: `behavior_log_probs` are exact for spans alone, as their sums
            (`pear.ops.spans`). None: for each token.

    Raises:
        ValueError: when made, if a shape, dtype or device does not fit.
    """

    log_probs: Float[Tensor, "batch seq"]
    response_mask: Bool[Tensor, "batch seq"]
    _: KW_ONLY
    behavior_log_probs: Float[Tensor, "batch seq"] | None = None
    ref_log_probs: Float[Tensor, "batch seq"] | None = None
    old_log_probs: Float[Tensor, "batch seq"] | None = None
    divergence: Float[Tensor, "batch seq"] | None = None
    entropy: Float[Tensor, "batch seq"] | None = None
    segment_ids: Int[Tensor, "batch seq"] | None = None
    is_negative: Bool[Tensor, "batch seq"] | None = None
    reward: Float[Tensor, "batch seq"] | None = None
    step: StepCounts | None = None
    step_weights: Float[Tensor, "batch seq"] | None = None
    spans: Int[Tensor, "batch seq"] | None = None

    def __post_init__(self) -> None:
        check_floating("log_probs", self.log_probs)
        check_mask(self.response_mask, self.log_probs, self.segment_ids)
        for name in FLOAT_FIELDS:
            values = getattr(self, name)
            if values is None:
                continue
            check_shape(name, values, self.log_probs)
            check_floating(name, values)
        if self.spans is not None:
            check_shape("spans", self.spans, self.log_probs)
        if self.is_negative is not None:
            check_shape("is_negative", self.is_negative, self.log_probs)
            if self.is_negative.dtype != torch.bool:
                raise ValueError(f"is_negative must be of dtype torch.bool. Got {self.is_negative.dtype}.")
        for name in ("response_mask", "segment_ids", "is_negative", "spans", *FLOAT_FIELDS):
            values = getattr(self, name)
            if values is not None and values.device != self.log_probs.device:
                raise ValueError(
                    f"{name} must be on the device of log_probs, {self.log_probs.device}. Got {values.device}."
                )

    @property
    def counts(self) -> StepCounts:
        """Those of the step: `step`, or this batch's own."""
        if self.step is not None:
            return self.step
        if self.response_mask.numel() == 0:
            return StepCounts(num_tokens=0, num_negative_tokens=0, num_sequences=0)
        negative = 0 if self.is_negative is None else int((self.is_negative & self.response_mask).sum())
        sequences = find_sequences(self.response_mask, self.segment_ids)
        prefix = self.response_mask.reshape(-1).long().cumsum(0)
        in_sequence = sequences.at_end(prefix) - sequences.before_start(prefix)
        return StepCounts(
            num_tokens=int(self.response_mask.sum()),
            num_negative_tokens=negative,
            num_sequences=int((in_sequence > 0).sum()),
        )


def behavior_log_ratios(batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
    """log pi_theta - log pi_beta, detached, for an objective that requires `behavior_log_probs`; pooled over spans
    where these are known for spans alone."""
    return ratios_of(batch, batch.log_probs)


def ratios_of(batch: TokenBatch, target: Float[Tensor, "batch seq"]) -> Float64[Tensor, "batch seq"]:
    """`behavior_log_ratios` with `target` in place of the batch's log-probs."""
    assert batch.behavior_log_probs is not None
    found = log_ratios(target, batch.behavior_log_probs, response_mask=batch.response_mask)
    if batch.spans is None:
        return found
    return pooled_log_ratios(found, batch.response_mask, batch.spans, segment_ids=batch.segment_ids)


@final
@dataclass(frozen=True, kw_only=True)
class TokenLoss:
    """An objective's value on a batch, not yet divided by anything.

    Attributes:
        per_token: the base loss, differentiable, in the dtype of the log-probs; 0 at masked positions.
        weights: detached, float32 or wider; 0 at masked positions.
        response_mask: the batch's.
    """

    per_token: Float[Tensor, "batch seq"]
    weights: Float[Tensor, "batch seq"]
    response_mask: Bool[Tensor, "batch seq"]

    @property
    def sum(self) -> Float[Tensor, ""]:
        """Sum over response tokens of weight x loss; 0 for an empty mask. Divide it by the whole step's tokens."""
        return weighted_sum(self.per_token, self.weights, response_mask=self.response_mask)

    @property
    def num_tokens(self) -> Int[Tensor, ""]:
        """The number of response tokens."""
        return self.response_mask.sum()
