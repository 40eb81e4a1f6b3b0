"""Proximal SFT (arXiv 2508.17784): a clipped step away from the model at an earlier step."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pear.objectives.batch import TokenBatch
from pear.objectives.nll import Uniform
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.ops.losses import LOG_PROB_FLOOR, negative_log_likelihood
from pear.ops.masking import keep_response

_LOG_RATIO_CAP = 80.0
"""exp(80) fits float32. Far above every clip, where the loss is constant, so neither value nor gradient change."""


@final
@dataclass(frozen=True, kw_only=True)
class ClippedSurrogate(BaseLoss):
    """-min(r_t, clip(r_t, 1 - low, 1 + high)) with r_t = pi_theta(y_t) / pi_old(y_t): PPO's at advantage 1."""

    clip: tuple[float, float]

    def __post_init__(self) -> None:
        if not (0.0 <= self.clip[0] <= 1.0 and 0.0 <= self.clip[1] <= 1e6):
            raise ValueError(f"clip must be (low, high) with low from 0 to 1 and high from 0 to 1e6. Got {self.clip}.")

    @property
    def requires(self) -> frozenset[str]:
        """The log-probs of the model at the earlier step."""
        return frozenset({"old_log_probs"})

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The loss of each token; no gradient above the upper clip."""
        assert batch.old_log_probs is not None
        nll = negative_log_likelihood(batch.log_probs, batch.response_mask)
        wide = torch.promote_types(nll.dtype, torch.float32)
        floored = batch.old_log_probs.detach().clamp(min=LOG_PROB_FLOOR)
        old = keep_response("old_log_probs", floored, batch.response_mask).to(wide)
        ratio = (-nll.to(wide) - old).clamp(max=_LOG_RATIO_CAP).exp()
        surrogate = torch.minimum(ratio, ratio.clamp(1.0 - self.clip[0], 1.0 + self.clip[1]))
        return -torch.where(batch.response_mask, surrogate, 0.0).to(nll.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class Psft(Objective):
    """PSFT, PPO's surrogate at advantage 1: -min(r_t, clip(r_t, 1 - low, 1 + high)) (arXiv 2508.17784).

    Attributes:
        clip: (low, high), the authors' values. At advantage 1 the lower one never acts. While the model is the one at
            the snapshot, r_t = 1 and the gradient is plain SFT's.
    """

    clip: tuple[float, float] = (0.2, 0.28)

    def base(self) -> BaseLoss:
        """The surrogate."""
        return ClippedSurrogate(clip=self.clip)

    def weighting(self) -> Weighting:
        """Weight 1."""
        return Uniform()
