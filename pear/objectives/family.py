"""Losses by powers of the probability (arXiv 2602.01058, Table 1 and Appendix E.2, after arXiv 2510.00526)."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pear.objectives.batch import TokenBatch
from pear.objectives.nll import Uniform
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.ops.losses import negative_log_likelihood

_LIMIT = 1e-20
"""Below this alpha the loss is the NLL in every bit: with log p >= -1e4 they differ by a share of 5e3 alpha at most."""


@final
@dataclass(frozen=True, kw_only=True)
class PowerLoss(BaseLoss):
    """(1 - p_t^alpha) / alpha, with gradient through p_t: d/d log p_t = -p_t^alpha."""

    alpha: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1e6:
            raise ValueError(f"alpha must be from 0 (the NLL) to 1e6. Got {self.alpha!r}.")

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The loss of each token, as -expm1(alpha log p) / alpha in float32 or wider."""
        nll = negative_log_likelihood(batch.log_probs, batch.response_mask)
        if self.alpha < _LIMIT:
            return nll
        wide = nll.to(torch.promote_types(nll.dtype, torch.float32))
        return (-torch.expm1(-self.alpha * wide) / self.alpha).to(nll.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class GeneralFamily(Objective):
    """The probability family: l_t = (1 - p_t^alpha) / alpha, and -log p_t at alpha = 0 (2602.01058, Table 1).

    Attributes:
        alpha: from 0, the NLL, over 1, `plain_p`, to powers that leave unlikely tokens without gradient. 10 is the
            example of such a power in Appendix E.2.

    >>> batch = TokenBatch(torch.tensor([[0.5]]).log(), torch.tensor([[True]]))
    >>> GeneralFamily(alpha=2.0)(batch).sum
    tensor(0.3750)
    """

    alpha: float = 10.0

    def base(self) -> BaseLoss:
        """The power."""
        return PowerLoss(alpha=self.alpha)

    def weighting(self) -> Weighting:
        """Weight 1."""
        return Uniform()


@final
@dataclass(frozen=True, kw_only=True)
class PlainP(Objective):
    """l_t = 1 - p_t: `general_family` at alpha = 1 (2602.01058, Table 1 and Appendix E.2)."""

    def base(self) -> BaseLoss:
        """The power 1."""
        return PowerLoss(alpha=1.0)

    def weighting(self) -> Weighting:
        """Weight 1."""
        return Uniform()
