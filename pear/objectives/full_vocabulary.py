"""Losses with a divergence over the full vocabulary: plain SFT with a KL penalty, ASFT, and distillation."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pear.objectives.batch import TokenBatch
from pear.objectives.nll import Uniform
from pear.objectives.objective import BaseLoss, Direction, Divergence, Objective, Weighting
from pear.objectives.probability import log_probabilities
from pear.ops.losses import negative_log_likelihood
from pear.ops.masking import keep_response


def divergence_of(batch: TokenBatch) -> Float[Tensor, "batch seq"]:
    """`TokenBatch.divergence`, differentiable, in float32 or wider, 0 at masked positions.

    Raises:
        ValueError: a value at a response token is not finite (names the row).
    """
    assert batch.divergence is not None
    wide = torch.promote_types(batch.divergence.dtype, torch.float32)
    return keep_response("divergence", batch.divergence, batch.response_mask).to(wide)


def check_beta(beta: float) -> None:
    """Raises `ValueError` unless `beta` is a finite number of at least 0."""
    if not (beta >= 0.0 and math.isfinite(beta)):
        raise ValueError(f"beta must be a number of at least 0. Got {beta!r}.")


@final
@dataclass(frozen=True, kw_only=True)
class PenalizedLogLoss(BaseLoss):
    """-log p_t + beta KL_t, the KL between target policy and reference in either direction."""

    beta: float
    direction: Direction

    def __post_init__(self) -> None:
        check_beta(self.beta)

    @property
    def divergence(self) -> Divergence:
        """To the reference."""
        return Divergence(other="reference", direction=self.direction)

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The loss of each token."""
        nll = negative_log_likelihood(batch.log_probs, batch.response_mask)
        return (nll + self.beta * divergence_of(batch)).to(nll.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class SftKl(Objective):
    """SFT+KL: l_t = -log p_t + beta KL(pi_theta || pi_ref) at the token's prefix (arXiv 2602.01058, Section 2).

    Attributes:
        beta: the paper tries 0.03, 0.1, 0.3 and 1; that 0.1 is the default is ours.
        direction: "reverse", KL(theta || ref), as the paper writes; "forward" is KL(ref || theta).
    """

    beta: float = 0.1
    direction: Direction = "reverse"

    def base(self) -> BaseLoss:
        """NLL and KL."""
        return PenalizedLogLoss(beta=self.beta, direction=self.direction)

    def weighting(self) -> Weighting:
        """Weight 1."""
        return Uniform()


@final
@dataclass(frozen=True, kw_only=True)
class AnchoredLoss(BaseLoss):
    """sg[p_t] (-log p_t) + beta KL(pi_ref || pi_theta)."""

    beta: float

    def __post_init__(self) -> None:
        check_beta(self.beta)

    @property
    def divergence(self) -> Divergence:
        """From the reference."""
        return Divergence(other="reference", direction="forward")

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The loss of each token. p is part of the loss, not a weight: the KL is not multiplied by it."""
        nll = negative_log_likelihood(batch.log_probs, batch.response_mask)
        wide = nll.to(torch.promote_types(nll.dtype, torch.float32))
        return (log_probabilities(batch).exp().to(wide) * wide + self.beta * divergence_of(batch)).to(nll.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class Asft(Objective):
    """Anchored SFT: l_t = sg[p_t] (-log p_t) + beta KL(pi_ref || pi_theta) (arXiv 2509.23753).

    Attributes:
        beta: 0.1, the authors' value; 0 is `dft`.
    """

    beta: float = 0.1

    def base(self) -> BaseLoss:
        """DFT's loss and the anchor."""
        return AnchoredLoss(beta=self.beta)

    def weighting(self) -> Weighting:
        """Weight 1."""
        return Uniform()


@final
@dataclass(frozen=True, kw_only=True)
class DistillationLoss(BaseLoss):
    """KL(pi_beta || pi_theta) at the token's prefix, the teacher being the behavior policy."""

    @property
    def divergence(self) -> Divergence:
        """From the teacher."""
        return Divergence(other="teacher", direction="forward")

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The loss of each token."""
        return divergence_of(batch).to(batch.log_probs.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class ForwardKl(Objective):
    """Distillation: l_t = KL(pi_beta(. | x, y_<t) || pi_theta(. | x, y_<t)) (arXiv 2602.01058, Section 4.3)."""

    def base(self) -> BaseLoss:
        """The forward KL from the teacher."""
        return DistillationLoss()

    def weighting(self) -> Weighting:
        """Weight 1."""
        return Uniform()
