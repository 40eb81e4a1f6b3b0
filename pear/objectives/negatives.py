"""Verified failures: pushed away from, sequence by sequence, beside another objective (arXiv 2602.01058, 3.6)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from pear.objectives.batch import StepCounts, TokenBatch, behavior_log_ratios
from pear.objectives.composed import named
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.ops.diagnostics import WeightSums
from pear.ops.masking import in_float64
from pear.ops.ratios import check_weighting, precise_log_weights


@final
@dataclass(frozen=True, kw_only=True)
class NegativesWeighting(Weighting):
    """N/N+ times the positives' own weight; at negatives -lambda N/N- times their sequence's ratio.

    N, N+ and N- count the whole step's response tokens, its positive and its negative ones, so that dividing the
    weighted sum by N gives both means. `positive` sees a batch without the negatives.
    """

    positive: Weighting
    negative_weight: float
    log_ratio_clip: tuple[float, float]
    log_weight_clip: tuple[float, float]
    release: float

    def __post_init__(self) -> None:
        if "is_negative" in self.positive.requires:
            raise ValueError("positive must be an objective without a term for verified failures.")
        if not 0.0 <= self.negative_weight < math.inf:
            raise ValueError(f"negative_weight must be a number of at least 0. Got {self.negative_weight!r}.")
        if not self.release > 0.0:
            raise ValueError(f"release must be above 0. Got {self.release!r}.")
        check_weighting(level="sequence", log_ratio_clip=self.log_ratio_clip, log_weight_clip=self.log_weight_clip)

    @property
    def requires(self) -> frozenset[str]:
        """What the positives' weights require, the marks of the negatives, and the behavior policy's log-probs."""
        return self.positive.requires | {"is_negative", "behavior_log_probs"}

    @property
    def entropy_of_top(self) -> int | None:
        """As the positives' weighting has it."""
        return self.positive.entropy_of_top

    @property
    def token_ratios(self) -> bool:
        """As the positives' weighting has it: the negatives' ratio is of the whole sequence."""
        return self.positive.token_ratios

    @property
    def whole_step(self) -> bool:
        """As the positives' weighting has it: the negatives' weights need the step's counts alone."""
        return self.positive.whole_step

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, below 0 at negatives; 0 at masked positions."""
        counts = batch.counts
        positives = _positives(batch)
        own = in_float64(self.positive(positives))
        negative = batch.response_mask & ~positives.response_mask
        pushed = -self.negative_weight * self._negative_weights(batch, negative)
        pushed = torch.where(self._released(batch, negative).to(pushed.device), 0.0, pushed)
        num_positive = counts.num_tokens - counts.num_negative_tokens
        return torch.where(
            positives.response_mask.to(own.device),
            own * (counts.num_tokens / max(num_positive, 1)),
            torch.where(
                negative.to(own.device), pushed * (counts.num_tokens / max(counts.num_negative_tokens, 1)), 0.0
            ),
        )

    def step_metrics(self, batch: TokenBatch) -> dict[str, float]:
        """The positives' metrics; the negatives' mean weight before lambda, and the share of their tokens let go."""
        positives = _positives(batch)
        metrics = self.positive.step_metrics(positives)
        negative = batch.response_mask & ~positives.response_mask
        if not bool(negative.any()):
            return metrics
        weights = self._negative_weights(batch, negative)
        return {
            **metrics,
            "weights/negatives/mean": weights[negative.to(weights.device)].mean().item(),
            "weights/negatives/released": (self._released(batch, negative).sum() / negative.sum()).item(),
        }

    def sums(self, batch: TokenBatch) -> WeightSums:
        """Those of the positives, as their own weighting has them without the factor N/N+."""
        positives = _positives(batch)
        if batch.step_weights is not None:
            counts = batch.counts
            scale = (counts.num_tokens - counts.num_negative_tokens) / max(counts.num_tokens, 1)
            positives = replace(positives, step_weights=batch.step_weights * scale)
        return self.positive.sums(positives)

    def _negative_weights(self, batch: TokenBatch, negative: Bool[Tensor, "batch seq"]) -> Float64[Tensor, "batch seq"]:
        """G-hat^-, the ratio of the whole sequence; 1 where there is no negative."""
        log_weights = precise_log_weights(
            behavior_log_ratios(replace(batch, response_mask=negative)),
            negative,
            level="sequence",
            log_ratio_clip=self.log_ratio_clip,
            log_weight_clip=self.log_weight_clip,
            segment_ids=batch.segment_ids,
        )
        return log_weights.exp()

    def _released(self, batch: TokenBatch, negative: Bool[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq"]:
        """Negative tokens that are unlikely enough."""
        return negative & (-batch.log_probs.detach() > self.release)


def _positives(batch: TokenBatch) -> TokenBatch:
    """The batch with the positives as its only response tokens, without weights."""
    assert batch.is_negative is not None
    counts = batch.step
    if counts is not None:
        # How many sequences are negative is not counted; only a weighting of the whole step, which gets a batch without
        # `step`, may ask for the number of sequences.
        counts = StepCounts(
            num_tokens=counts.num_tokens - counts.num_negative_tokens,
            num_negative_tokens=0,
            num_sequences=counts.num_sequences,
        )
    return replace(
        batch,
        response_mask=batch.response_mask & ~batch.is_negative,
        is_negative=None,
        step=counts,
        step_weights=None,
    )


@final
@dataclass(frozen=True, kw_only=True)
class Negatives(Objective):
    """An objective on the positives minus lambda times the verified failures' loss (arXiv 2602.01058, Section 3.6).

        L = sum+ sg[w_t] l_t / N+  -  lambda sum- sg[G^-] l_t / N-
        log G^- = clip(sum_{j=1}^T clip(log Delta_j, *log_ratio_clip), *log_weight_clip)

    N+ and N- are the positive and the negative response tokens of the whole optimizer step; the loss must be divided by
    N = N+ + N-. A step without negatives is the positive objective's loss; one without positives has the second term.
    Gradient ascent has no end: a negative token with -log p > `release` has weight 0. The log shows the positives'
    weights, without the factor N/N+. A sequence is positive or negative as a whole.

    Attributes:
        positive: the objective of the positives, whose base loss l_t both terms have; `positive_kwargs`, its fields.
        negative_weight: lambda. The paper states none; this one is ours.
        log_ratio_clip: of the negatives' ratios; the positives' is among `positive_kwargs`.
        log_weight_clip: of the negatives' weights, likewise.
        release: nats. Ours; infinity switches it off.

    Raises:
        ValueError: when made, if a field is outside its domain, or the base loss of `positive` holds a divergence,
            which could be driven up without end at tokens that are still likely.
    """

    positive: str = "pear_token"
    positive_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    negative_weight: float = 0.1
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3)
    log_weight_clip: tuple[float, float] = (-10.0, 5.0)
    release: float = 10.0

    @cached_property
    def _of_positives(self) -> Objective:
        return named(self.positive, self.positive_kwargs)

    @property
    def requires(self) -> frozenset[str]:
        """What the positives' objective and the weights require."""
        return self._of_positives.requires | self.weighting().requires

    def base(self) -> BaseLoss:
        """The positives' objective's."""
        base = self._of_positives.base()
        if base.divergence is not None:
            raise ValueError(
                f"the base loss of '{self.positive}' holds a divergence, and pushing that up at failures has no end. "
                "Take an objective without one."
            )
        return base

    def weighting(self) -> Weighting:
        """The positives' weights and the negatives'."""
        return NegativesWeighting(
            positive=self._of_positives.weighting(),
            negative_weight=self.negative_weight,
            log_ratio_clip=self.log_ratio_clip,
            log_weight_clip=self.log_weight_clip,
            release=self.release,
        )
