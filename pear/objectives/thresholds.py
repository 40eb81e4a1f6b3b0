"""Hard selection of tokens by their probability (arXiv 2602.01058, Table 1 and E.2, after arXiv 2510.00526)."""

from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float64
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch
from pear.objectives.family import PowerLoss
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.objectives.probability import log_probabilities

Side = Literal["top", "bottom"]
Denominator = Literal["all", "kept"]


@final
@dataclass(frozen=True, kw_only=True)
class Threshold(Weighting):
    """1[p_t >= q] (top) or 1[p_t <= q] (bottom), times N / (tokens kept in the step) with denominator "kept".

    The paper sums over all N target tokens: "all". Its source's code drops the other tokens from the loss mask, so that
    its mean is over those kept: "kept", which needs the whole optimizer step.
    """

    side: Side
    q: float
    denominator: Denominator

    def __post_init__(self) -> None:
        if not 0.0 <= self.q <= 1.0:
            raise ValueError(f"q must be a probability, from 0 to 1. Got {self.q!r}.")

    @property
    def whole_step(self) -> bool:
        """Whether the weights are scaled by the number of tokens that the step keeps."""
        return self.denominator == "kept"

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, in float64; all 0 where the step keeps no token."""
        p = log_probabilities(batch).exp()
        kept = (p >= self.q if self.side == "top" else p <= self.q) & batch.response_mask.to(p.device)
        weights = kept.to(p.dtype)
        if self.denominator == "all":
            return weights
        return weights * (batch.response_mask.sum().to(p) / weights.sum().clamp(min=1.0))


@final
@dataclass(frozen=True, kw_only=True)
class TopP(Objective):
    """Plain p on likely tokens: (1 - p_t) 1[p_t >= q] (2602.01058, Table 1).

    Attributes:
        q: the threshold. 0.2 is ours here; the paper states it for `top_log_p`.
        denominator: "all" divides by all target tokens, "kept" by those that pass the threshold (its source's code).

    >>> import torch
    >>> batch = TokenBatch(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[True, True]]))
    >>> TopP()(batch).weights, TopP(denominator="kept")(batch).weights
    (tensor([[1., 0.]]), tensor([[2., 0.]]))
    """

    q: float = 0.2
    denominator: Denominator = "all"

    def base(self) -> BaseLoss:
        """1 - p."""
        return PowerLoss(alpha=1.0)

    def weighting(self) -> Weighting:
        """1 where p >= q."""
        return Threshold(side="top", q=self.q, denominator=self.denominator)


@final
@dataclass(frozen=True, kw_only=True)
class BottomP(Objective):
    """Plain p on unlikely tokens: (1 - p_t) 1[p_t <= q] (2602.01058, Table 1). Fields as `TopP`'s."""

    q: float = 0.2
    denominator: Denominator = "all"

    def base(self) -> BaseLoss:
        """1 - p."""
        return PowerLoss(alpha=1.0)

    def weighting(self) -> Weighting:
        """1 where p <= q."""
        return Threshold(side="bottom", q=self.q, denominator=self.denominator)


@final
@dataclass(frozen=True, kw_only=True)
class TopLogP(Objective):
    """NLL on likely tokens: -log p_t 1[p_t >= q] (2602.01058, Table 1; q of Appendix E.2). Fields as `TopP`'s."""

    q: float = 0.2
    denominator: Denominator = "all"

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """1 where p >= q."""
        return Threshold(side="top", q=self.q, denominator=self.denominator)


@final
@dataclass(frozen=True, kw_only=True)
class BottomLogP(Objective):
    """NLL on unlikely tokens: -log p_t 1[p_t <= q] (2602.01058, Table 1). Fields as `TopP`'s."""

    q: float = 0.2
    denominator: Denominator = "all"

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """1 where p <= q."""
        return Threshold(side="bottom", q=self.q, denominator=self.denominator)
