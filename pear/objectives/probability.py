"""The probability of each token, and weightings that are a function of it alone."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float64
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.ops.losses import LOG_PROB_FLOOR
from pear.ops.masking import in_float64, keep_response


def log_probabilities(batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
    """log p_t, detached, between -1e4 and 0 (rounding may lift a log-prob above it), and 0 at masked positions.

    Raises:
        ValueError: a response token's log-prob is NaN or +inf (names the row).
    """
    # The floor goes first, because it makes -inf usable and leaves NaN and +inf to be refused.
    floored = batch.log_probs.detach().clamp(min=LOG_PROB_FLOOR)
    return in_float64(keep_response("log_probs", floored, batch.response_mask)).clamp(max=0.0)


@final
@dataclass(frozen=True, kw_only=True)
class Probability(Weighting):
    """p_t = pi_theta(y_t | x, y_<t)."""

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, in float64 so that float64 log-probs lose nothing."""
        return log_probabilities(batch).exp()


@final
@dataclass(frozen=True, kw_only=True)
class Dft(Objective):
    """Dynamic fine-tuning, NLL x p: sum_t sg[p_t] (-log p_t) (arXiv 2508.05629)."""

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """The token's probability."""
        return Probability()


@final
@dataclass(frozen=True, kw_only=True)
class Uncertainty(Weighting):
    """p_t (1 - p_t): largest, 1/4, at p_t = 1/2."""

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, in float64; 1 - p is `expm1`, which keeps its digits near p = 1."""
        log_p = log_probabilities(batch)
        return -log_p.exp() * log_p.expm1()


@final
@dataclass(frozen=True, kw_only=True)
class ChordPhi(Objective):
    """The off-policy part of CHORD-phi, NLL x p (1 - p): sum_t sg[p_t (1 - p_t)] (-log p_t) (arXiv 2508.11408)."""

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """The token's probability times what it leaves to others."""
        return Uncertainty()
