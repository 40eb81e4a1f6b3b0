"""Entropy-adaptive fine-tuning (arXiv 2601.02151)."""

import math
from dataclasses import dataclass
from typing import final

from jaxtyping import Float64
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.ops.masking import in_float64, keep_response

TOP = 20
NEARLY_LOG_TOP = 3.0
"""What the authors divide by: log 20 = 2.996 is the largest entropy of 20 tokens."""


@final
@dataclass(frozen=True, kw_only=True)
class EntropyWeighting(Weighting):
    """(H_t / 3.0)^alpha, H_t in nats the entropy of the softmax over the 20 largest logits."""

    alpha: float

    def __post_init__(self) -> None:
        if not (self.alpha >= 0.0 and math.isfinite(self.alpha)):
            raise ValueError(f"alpha must be a number of at least 0. Got {self.alpha!r}.")

    @property
    def requires(self) -> frozenset[str]:
        """The target policy's entropy."""
        return frozenset({"entropy"})

    @property
    def entropy_of_top(self) -> int:
        """The 20 likeliest tokens."""
        return TOP

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, in float64; rounding below 0 counts as 0."""
        assert batch.entropy is not None
        entropy = in_float64(keep_response("entropy", batch.entropy.detach(), batch.response_mask))
        return (entropy.clamp(min=0.0) / NEARLY_LOG_TOP) ** self.alpha


@final
@dataclass(frozen=True, kw_only=True)
class Eaft(Objective):
    """EAFT, NLL x the policy's entropy: sum_t sg[(H_t / 3.0)^alpha] (-log p_t), H_t over the top 20 (arXiv 2601.02151).

    Attributes:
        alpha: 1, the authors' value; 0 is plain SFT.
    """

    alpha: float = 1.0

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """The entropy."""
        return EntropyWeighting(alpha=self.alpha)
