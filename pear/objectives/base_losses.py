"""Base losses that several objectives share."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from pear.objectives.batch import TokenBatch
from pear.objectives.objective import BaseLoss
from pear.ops.losses import negative_log_likelihood


@final
@dataclass(frozen=True, kw_only=True)
class LogLoss(BaseLoss):
    """-log pi_theta(y_t | x, y_<t): the SFT loss (arXiv 2602.01058, Section 3.2)."""

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The loss of each token."""
        return negative_log_likelihood(batch.log_probs, batch.response_mask)
