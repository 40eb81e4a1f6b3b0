"""Plain SFT."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch
from pear.objectives.objective import BaseLoss, Objective, Weighting


@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Weighting):
    """Weight 1 for every token."""

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """Ones."""
        return torch.ones_like(batch.log_probs)


@final
@dataclass(frozen=True, kw_only=True)
class Nll(Objective):
    """Negative log-likelihood, every response token with weight 1: standard SFT.

    >>> batch = TokenBatch(torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]]))
    >>> Nll()(batch).sum
    tensor(3.)
    """

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """Weight 1."""
        return Uniform()
