"""The one concept: an objective multiplies a differentiable base loss by detached weights."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from pear.objectives.batch import TokenBatch, TokenLoss
from pear.ops.diagnostics import WeightSums, sum_weights


@dataclass(frozen=True, kw_only=True)
class Weighting(ABC):
    """From a `TokenBatch` to the weight of each token. Subclasses are final frozen dataclasses."""

    @abstractmethod
    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The weights; anything at masked positions. `Objective` cuts gradients through them off."""

    def sums(self, batch: TokenBatch) -> WeightSums:
        """The weights' sums for logging; a weighting by ratios adds those and their clipping."""
        return sum_weights(self(batch), batch.response_mask, segment_ids=batch.segment_ids)


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A base loss x a weighting. Subclasses are final frozen dataclasses whose fields are the hyper-parameters.

    Attributes:
        requires: the fields of `TokenBatch`, beyond log_probs and response_mask, that must be given.
        version: raised whenever the objective's numbers change.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    version: ClassVar[int] = 1

    @abstractmethod
    def base_loss(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The unweighted loss of each token, differentiable, 0 at masked positions."""

    @abstractmethod
    def weighting(self) -> Weighting:
        """The weighting that these hyper-parameters describe. Raises `ValueError` for one outside its domain."""

    def __post_init__(self) -> None:
        self.weighting()

    @final
    def __call__(self, batch: TokenBatch) -> TokenLoss:
        """sum_t sg[weight_t] x loss_t over the response tokens (arXiv 2602.01058, Section 3.2), as a `TokenLoss`.

        Raises:
            ValueError: a required field is missing, verified failures are given to an objective that would imitate
                them, or a value at a response token is not finite (names the row).
        """
        self._check_fields(batch)
        wide = torch.promote_types(batch.log_probs.dtype, torch.float32)
        # The one place where gradients through the weights end.
        weights = self.weighting()(batch).detach().to(device=batch.log_probs.device, dtype=wide)
        return TokenLoss(
            per_token=self.base_loss(batch),
            weights=torch.where(batch.response_mask, weights, 0.0),
            response_mask=batch.response_mask,
        )

    @final
    def diagnostics(self, batch: TokenBatch) -> WeightSums:
        """Sums for logging the weights; add them over the micro-batches and processes of a step, then `.metrics()`.

        Raises:
            ValueError: as when called.
        """
        self._check_fields(batch)
        with torch.no_grad():
            return self.weighting().sums(batch)

    def _check_fields(self, batch: TokenBatch) -> None:
        name = type(self).__name__
        missing = sorted(field for field in self.requires if getattr(batch, field) is None)
        if missing:
            raise ValueError(f"{name} requires {', '.join(missing)} in the TokenBatch. Got None.")
        if "is_negative" in self.requires or batch.is_negative is None:
            return
        if bool((batch.is_negative & batch.response_mask).any()):
            raise ValueError(f"{name} has no term for verified failures and would imitate them. Remove the negatives.")
