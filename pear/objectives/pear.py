"""PEAR (arXiv 2602.01058): NLL weighted by importance ratios of the sequence, of suffixes, or of suffixes after blocks.

Defaults are the paper's (Section 4.2), except for the block size, which it does not give: that one is ours.

Three options are off by default. All three objectives have them:

- `policy`: whose log-probs stand in the ratios. The paper does not say; the current model is what Algorithm 1 reads
  like. "reference" freezes it at the reference model.
- `graded`: the weights are G x R, R being the trajectory's graded reward: G_t = gamma^(T-t) R(tau) w_{t+1:T}
  (Appendix C, Equation 3). Off, every trajectory counts as R = 1.
- `ess_target`: tempering, ours. log G = clip(a u, log_weight_clip), u being the log-weight before its clip and a <= 1
  one exponent for the whole optimizer step: the largest at which exp(a u) has that effective sample size. It is
  counted over all response tokens of the step at every level, as the logged `weights/effective_sample_size` is: at
  sequence level a sequence counts as often as it has tokens, and so it does in the loss. R is no part of it.

Tempering evens weights out and does not set their size. When the base is at chance on every trajectory, all weights are
tiny alike, the exponent stays near 1 and the loss is close to 0: nothing here raises it. `weights/mean` then says
so; the normalizer "weights" or a higher lower bound of `log_weight_clip` are the ways out.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.objectives.policies import POLICIES, Policy, check_policy, graded_rewards, policy_log_ratios
from pear.ops.diagnostics import WeightSums, sum_clipped, sum_weights
from pear.ops.masking import in_float64
from pear.ops.ratios import Level, check_weighting, precise_log_weights
from pear.ops.spans import span_block_log_weights
from pear.ops.tempering import check_ess_target, log_effective_sample_size, tempering_exponent

UNCLIPPED = (-math.inf, math.inf)


@final
@dataclass(frozen=True, kw_only=True)
class ImportanceWeighting(Weighting):
    """G-hat of Algorithm 1: `pear.ops.ratios.log_importance_weights`, exponentiated and kept in float64.

    With `graded`, times the trajectory's reward; with `ess_target`, tempered before the final clip.
    """

    level: Level
    block_size: int = 1
    gamma: float = 1.0
    log_ratio_clip: tuple[float, float]
    log_weight_clip: tuple[float, float]
    policy: Policy = "current"
    graded: bool = False
    ess_target: float | None = None

    def __post_init__(self) -> None:
        check_weighting(
            level=self.level,
            block_size=self.block_size,
            gamma=self.gamma,
            log_ratio_clip=self.log_ratio_clip,
            log_weight_clip=self.log_weight_clip,
        )
        check_policy(self.policy)
        if self.ess_target is None:
            return
        check_ess_target(self.ess_target)
        low, high = self.log_weight_clip
        if not low <= 0.0 <= high:
            raise ValueError(f"With ess_target, log_weight_clip must hold 0, where tempering leads. Got {(low, high)}.")

    @property
    def requires(self) -> frozenset[str]:
        """The behavior policy's log-probs; those of the reference or the rewards where they are used."""
        return POLICIES[self.policy] | (frozenset({"reward"}) if self.graded else frozenset())

    @property
    def token_ratios(self) -> bool:
        """At token level. Blocks can end where spans do, and a sequence does."""
        return self.level == "token"

    @property
    def whole_step(self) -> bool:
        """Tempering has one exponent for the optimizer step."""
        return self.ess_target is not None

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, in float64 so that float64 log-probs lose nothing."""
        log_ratio = policy_log_ratios(batch, self.policy)
        if self.ess_target is None:
            return self._rewarded(self._log_weights(batch, log_ratio, self.log_weight_clip).exp(), batch)
        suffix = self._log_weights(batch, log_ratio, UNCLIPPED)
        exponent = tempering_exponent(suffix, batch.response_mask, ess_target=self.ess_target)
        return self._rewarded((exponent * suffix).clamp(*self.log_weight_clip).exp(), batch)

    def step_metrics(self, batch: TokenBatch) -> dict[str, float]:
        """With tempering: the exponent, and the effective sample size before and after it, both before the clip."""
        if self.ess_target is None or not bool(batch.response_mask.any()):
            return {}
        suffix = self._log_weights(batch, policy_log_ratios(batch, self.policy), UNCLIPPED)
        exponent = tempering_exponent(suffix, batch.response_mask, ess_target=self.ess_target)
        return {
            "weights/exponent": exponent,
            "weights/effective_sample_size_before": log_effective_sample_size(suffix, batch.response_mask),
            "weights/effective_sample_size_tempered": log_effective_sample_size(
                suffix, batch.response_mask, exponent=exponent
            ),
        }

    def sums(self, batch: TokenBatch) -> WeightSums:
        """The weights' sums, with log-ratios and clipping."""
        log_ratio = policy_log_ratios(batch, self.policy)
        log_weights = self._log_weights(batch, log_ratio, UNCLIPPED)
        if self.ess_target is not None:
            log_weights = self._exponent(batch, log_weights, ess_target=self.ess_target) * log_weights
        weights: Float[Tensor, "batch seq"]
        if batch.step_weights is None:
            weights = self._rewarded(log_weights.clamp(*self.log_weight_clip).exp(), batch)
        else:
            weights = batch.step_weights
        return sum_clipped(
            sum_weights(weights, batch.response_mask, segment_ids=batch.segment_ids),
            log_ratio,
            batch.response_mask,
            log_ratio_clip=self.log_ratio_clip,
            log_weights=log_weights,
            log_weight_clip=self.log_weight_clip,
        )

    def _exponent(self, batch: TokenBatch, suffix: Float64[Tensor, "batch seq"], *, ess_target: float) -> float:
        """The step's exponent, read off its weights where this batch is only a part of the step."""
        if batch.step_weights is None:
            return tempering_exponent(suffix, batch.response_mask, ess_target=ess_target)
        weights = in_float64(torch.where(batch.response_mask, batch.step_weights, 0.0))
        if self.graded:
            weights = weights / graded_rewards(batch).to(weights.device)
        tempered = weights.log()
        low, high = self.log_weight_clip
        # Away from the bounds the log-weight is a u; where it is largest, a is known best. NaN, from a reward of 0,
        # is not inside.
        response = batch.response_mask.to(suffix.device)
        inside = response & (suffix != 0) & (tempered > low + 1e-6) & (tempered < high - 1e-6)
        if not bool(inside.any()):
            # Every weight is at a bound, and an exponent of 1 counts the same tokens as clipped; or its reward is 0.
            return 1.0
        index = torch.where(inside, suffix.abs(), 0.0).argmax()
        return (tempered.reshape(-1)[index] / suffix.reshape(-1)[index]).item()

    def _rewarded(self, weights: Float64[Tensor, "batch seq"], batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        return weights * graded_rewards(batch).to(weights.device) if self.graded else weights

    def _log_weights(
        self, batch: TokenBatch, log_ratio: Float64[Tensor, "batch seq"], log_weight_clip: tuple[float, float]
    ) -> Float64[Tensor, "batch seq"]:
        if batch.spans is not None and self.level == "block":
            return span_block_log_weights(
                log_ratio,
                batch.response_mask,
                batch.spans,
                block_size=self.block_size,
                gamma=self.gamma,
                log_ratio_clip=self.log_ratio_clip,
                log_weight_clip=log_weight_clip,
                segment_ids=batch.segment_ids,
            )
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
    policy: Policy = "current"
    graded: bool = False
    ess_target: float | None = None

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
            policy=self.policy,
            graded=self.graded,
            ess_target=self.ess_target,
        )


@final
@dataclass(frozen=True, kw_only=True)
class PearBlock(Objective):
    """NLL x the discounted ratio of what follows the token's block: G_k = gamma^(T-e_k) prod_{j>e_k} Delta_j (3.5)."""

    block_size: int = 8
    gamma: float = 0.999
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3)
    log_weight_clip: tuple[float, float] = (-10.0, 5.0)
    policy: Policy = "current"
    graded: bool = False
    ess_target: float | None = None

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
            policy=self.policy,
            graded=self.graded,
            ess_target=self.ess_target,
        )


@final
@dataclass(frozen=True, kw_only=True)
class PearSequence(Objective):
    """NLL x the ratio of the whole sequence: G_t = prod_{j=1}^T Delta_j for every token (Section 3.3)."""

    log_ratio_clip: tuple[float, float] = (-0.08, 0.3)
    log_weight_clip: tuple[float, float] = (-10.0, 5.0)
    policy: Policy = "current"
    graded: bool = False
    ess_target: float | None = None

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """The sequence's ratio."""
        return ImportanceWeighting(
            level="sequence",
            log_ratio_clip=self.log_ratio_clip,
            log_weight_clip=self.log_weight_clip,
            policy=self.policy,
            graded=self.graded,
            ess_target=self.ess_target,
        )
