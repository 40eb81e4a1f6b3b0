"""Single-step importance sampling, the paper's ablation: each token weighted by its own ratio alone."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float64
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.objectives.policies import POLICIES, Policy, check_policy, policy_log_ratios
from pear.ops.diagnostics import WeightSums, sum_clipped, sum_weights
from pear.ops.ratios import check_clip, clipped_log_ratios


@final
@dataclass(frozen=True, kw_only=True)
class SingleStepWeighting(Weighting):
    """exp(clip(log Delta_t)), clipped as PEAR's ratios are (arXiv 2602.01058, Section 3.7)."""

    log_ratio_clip: tuple[float, float]
    policy: Policy = "current"

    def __post_init__(self) -> None:
        check_clip("log_ratio_clip", self.log_ratio_clip)
        check_policy(self.policy)

    @property
    def requires(self) -> frozenset[str]:
        """The behavior policy's log-probs; the reference's where the ratios use it."""
        return POLICIES[self.policy]

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, in float64 so that float64 log-probs lose nothing."""
        return self._weights(batch, policy_log_ratios(batch, self.policy))

    def sums(self, batch: TokenBatch) -> WeightSums:
        """The weights' sums, with log-ratios and clipping."""
        log_ratio = policy_log_ratios(batch, self.policy)
        weights = self._weights(batch, log_ratio) if batch.step_weights is None else batch.step_weights
        sums = sum_weights(weights, batch.response_mask, segment_ids=batch.segment_ids)
        return sum_clipped(sums, log_ratio, batch.response_mask, log_ratio_clip=self.log_ratio_clip)

    def _weights(self, batch: TokenBatch, log_ratio: Float64[Tensor, "batch seq"]) -> Float64[Tensor, "batch seq"]:
        return clipped_log_ratios(log_ratio, batch.response_mask, log_ratio_clip=self.log_ratio_clip).exp()


@final
@dataclass(frozen=True, kw_only=True)
class SingleStep(Objective):
    """NLL x Delta_t, the ratio of the token itself: w_t = exp(clip(log pi_theta - log pi_beta)).

    `policy` says whose log-probs stand in the ratio, as in `PearToken`.
    """

    log_ratio_clip: tuple[float, float] = (-0.08, 0.3)
    policy: Policy = "current"

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """The token's own ratio."""
        return SingleStepWeighting(log_ratio_clip=self.log_ratio_clip, policy=self.policy)
