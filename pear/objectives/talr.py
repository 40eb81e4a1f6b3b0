"""Token-adaptive loss reweighting (arXiv 2602.01058, Table 1 and Appendix E.1)."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.objectives.probability import log_probabilities
from pear.ops.masking import find_sequences


@final
@dataclass(frozen=True, kw_only=True)
class TalrWeighting(Weighting):
    """w_t = max(sg[exp(-l_t / tau)], w_min) with l_t = -log p_t and tau the step's median of mean sequence losses."""

    w_min: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.w_min <= 1.0:
            raise ValueError(f"w_min must be from 0 to 1. Got {self.w_min!r}.")

    @property
    def whole_step(self) -> bool:
        """The median is over all sequences of the optimizer step."""
        return True

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The weights, in float64. At tau = 0, half of the sequences being certain, the limit: 1 where p = 1."""
        log_p = log_probabilities(batch)
        tau = median_sequence_loss(batch)
        # The smallest normal number in place of 0: 0 / tau stays 0, and any loss / tau is huge.
        return (log_p / max(tau or 0.0, torch.finfo(torch.float64).tiny)).exp().clamp(min=self.w_min)

    def step_metrics(self, batch: TokenBatch) -> dict[str, float]:
        """`weights/talr_tau`: the median, nats per token; absent for a step without response tokens."""
        tau = median_sequence_loss(batch)
        return {} if tau is None else {"weights/talr_tau": tau}


def median_sequence_loss(batch: TokenBatch) -> float | None:
    """The median over sequences of a sequence's mean -log p_t; of the two middle ones their mean. None without any.

    >>> import torch
    >>> batch = TokenBatch(torch.tensor([[-1.0, -3.0], [-5.0, 0.0]]), torch.tensor([[True, True], [True, False]]))
    >>> median_sequence_loss(batch)
    3.5
    """
    nll = -log_probabilities(batch).reshape(-1)
    if nll.numel() == 0:
        return None
    mask = batch.response_mask.to(nll.device).reshape(-1)
    sequences = find_sequences(batch.response_mask, batch.segment_ids).to(nll.device)
    losses, counts = nll.cumsum(0), mask.long().cumsum(0)
    lengths = sequences.at_end(counts) - sequences.before_start(counts)
    totals = sequences.at_end(losses) - sequences.before_start(losses)
    means = (totals[lengths > 0] / lengths[lengths > 0]).sort().values
    if len(means) == 0:
        return None
    # `torch.median` takes the lower of two middle ones.
    middle = means[(len(means) - 1) // 2 : len(means) // 2 + 1]
    return middle.mean().item()


@final
@dataclass(frozen=True, kw_only=True)
class Talr(Objective):
    """TALR: NLL x max(sg[exp(-l_t / tau)], w_min) (2602.01058, Appendix E.1).

    Attributes:
        w_min: floor of the weights; the paper's value. tau is the median over the optimizer step, over all its
            micro-batches and processes, of the mean losses of its sequences.
    """

    w_min: float = 0.01

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """Likely tokens first."""
        return TalrWeighting(w_min=self.w_min)
