"""SFT objectives: a base loss x a weighting, by name. Needs torch alone.

>>> import torch
>>> objective = OBJECTIVES["pear_token"](gamma=0.99)
>>> batch = TokenBatch(
...     torch.tensor([[-1.0, -2.0]], requires_grad=True),
...     torch.tensor([[True, True]]),
...     behavior_log_probs=torch.tensor([[-1.0, -2.0]]),
... )
>>> loss = objective(batch)
>>> (loss.sum / loss.num_tokens).backward()
"""

from pear.objectives.batch import StepCounts, TokenBatch, TokenLoss
from pear.objectives.objective import BaseLoss, Divergence, Objective, Weighting
from pear.objectives.registry import OBJECTIVES, make_objective
from pear.objectives.step import prepare_step

__all__ = [
    "OBJECTIVES",
    "BaseLoss",
    "Divergence",
    "Objective",
    "StepCounts",
    "TokenBatch",
    "TokenLoss",
    "Weighting",
    "make_objective",
    "prepare_step",
]
