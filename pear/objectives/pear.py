"""PEAR (arXiv 2602.01058): NLL weighted by importance ratios of the sequence, of suffixes, or of suffixes after blocks.

Defaults are the paper's (Section 4.2), except for the block size, which it does not give: that one is ours.
"""

import math
from dataclasses import dataclass
from typing import final

from jaxtyping import Float64
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch, behavior_log_ratios
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.ops.diagnostics import WeightSums, sum_clipped, sum_weights
from pear.ops.ratios import Level, check_weighting, precise_log_weights


@final
@dataclass(frozen=True, kw_only=True)
class ImportanceWeighting(Weighting):
    """G-hat of Algorithm 1: `pear.ops.ratios.log_importance_weights`, exponentiated and kept in float64."""

    level: Level
    block_size: int = 1
    gamma: float = 1.0
    log_ratio_clip: tuple[float, float]
    log_weight_clip: tuple[float, float]

    def __post_init__(self) -> None:
        check_weighting(
            level=self.level,
            block_size=self.block_size,
            gamma=self.gamma,
            log_ratio_clip=self.log_ratio_clip,
            log_weight_clip=self.log_weight_clip,
        )

    @property
    def requires(self) -> frozenset[str]:
        """The behavior policy's log-probs."""
        return frozenset({"behavior_log_probs"})

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, in float64 so that float64 log-probs lose nothing."""
        return self._log_weights(batch, behavior_log_ratios(batch), self.log_weight_clip).exp()

    def sums(self, batch: TokenBatch) -> WeightSums:
        """The weights' sums, with log-ratios and clipping."""
        log_ratio = behavior_log_ratios(batch)
        log_weights = self._log_weights(batch, log_ratio, (-math.inf, math.inf))
        weights = log_weights.clamp(*self.log_weight_clip).exp()
        return sum_clipped(
            sum_weights(weights, batch.response_mask, segment_ids=batch.segment_ids),
            log_ratio,
            batch.response_mask,
            log_ratio_clip=self.log_ratio_clip,
            log_weights=log_weights,
            log_weight_clip=self.log_weight_clip,
        )

    def _log_weights(
        self, batch: TokenBatch, log_ratio: Float64[Tensor, "batch seq"], log_weight_clip: tuple[float, float]
    ) -> Float64[Tensor, "batch seq"]:
        return precise_log_weights(
            log_ratio,
            batch.response_mask,
            level=self.level,
            block_size=self.block_size,
            gamma=self.gamma,
            log_ratio_clip=self.log_ratio_clip,
            log_weight_clip=log_weight_clip,
            segment_ids=batch.segment_ids,
        )


@final
@dataclass(frozen=True, kw_only=True)
class PearToken(Objective):
    """NLL x the discounted ratio of the token's suffix: G_t = gamma^(T-t) prod_{j>t} Delta_j (Section 3.4)."""

    gamma: float = 0.999
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3)
    log_weight_clip: tuple[float, float] = (-10.0, 5.0)

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """Suffix ratios token by token."""
        return ImportanceWeighting(
            level="token",
            gamma=self.gamma,
            log_ratio_clip=self.log_ratio_clip,
            log_weight_clip=self.log_weight_clip,
        )


@final
@dataclass(frozen=True, kw_only=True)
class PearBlock(Objective):
    """NLL x the discounted ratio of what follows the token's block: G_k = gamma^(T-e_k) prod_{j>e_k} Delta_j (3.5)."""

    block_size: int = 8
    gamma: float = 0.999
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3)
    log_weight_clip: tuple[float, float] = (-10.0, 5.0)

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """Suffix ratios block by block."""
        return ImportanceWeighting(
            level="block",
            block_size=self.block_size,
            gamma=self.gamma,
            log_ratio_clip=self.log_ratio_clip,
            log_weight_clip=self.log_weight_clip,
        )


@final
@dataclass(frozen=True, kw_only=True)
class PearSequence(Objective):
    """NLL x the ratio of the whole sequence: G_t = prod_{j=1}^T Delta_j for every token (Section 3.3)."""

    log_ratio_clip: tuple[float, float] = (-0.08, 0.3)
    log_weight_clip: tuple[float, float] = (-10.0, 5.0)

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """The sequence's ratio."""
        return ImportanceWeighting(
            level="sequence", log_ratio_clip=self.log_ratio_clip, log_weight_clip=self.log_weight_clip
        )
