"""Per-token base losses: differentiable, unweighted, 0 at masked positions. Nothing here divides."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pear.ops.masking import check_mask, keep_response

LOG_PROB_FLOOR = -1e4
"""Log-probabilities below this count as this, so that a token of probability 0 has a finite loss."""


def negative_log_likelihood(
    log_probs: Float[Tensor, "batch seq"], response_mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Negative log-likelihood of each response token: plain SFT.

        l_t = -max(log pi_theta(y_t | x, y_<t), -1e4)

    Source: arXiv 2602.01058, Section 3.2. The floor is ours; below it the gradient is 0.

    Args:
        log_probs: differentiable, (batch, seq), nats. Masked positions may hold anything and get gradient 0.
        response_mask: bool, same shape.

    Returns:
        (batch, seq) in the dtype of `log_probs`, 0 at masked positions.

    Raises:
        ValueError: shapes differ, or a response token's value is NaN or +inf (names the row).

    >>> negative_log_likelihood(torch.tensor([[-1.0, float("nan")]]), torch.tensor([[True, False]])).sum()
    tensor(1.)
    """
    check_mask(response_mask, log_probs)
    # `keep_response` comes first: its where() cuts the gradient off before anything can be non-finite.
    return -keep_response("log_probs", log_probs.clamp(min=LOG_PROB_FLOOR), response_mask)


def weighted_sum(
    per_token: Float[Tensor, "batch seq"],
    weights: Float[Tensor, "batch seq"],
    *,
    response_mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """Sum over response tokens of sg[weight] x loss (Section 3.2), in float32 or wider; 0 for an empty mask.

    Masked positions may hold anything and get gradient 0. The result has the dtype of `per_token`.

    >>> mask = torch.tensor([[True, False]])
    >>> weighted_sum(torch.tensor([[2.0, 3.0]]), torch.tensor([[0.5, 1.0]]), response_mask=mask)
    tensor(1.)
    """
    wide = torch.promote_types(per_token.dtype, torch.float32)
    kept = torch.where(response_mask, per_token, 0.0).to(wide)
    return (kept * torch.where(response_mask, weights.detach(), 0.0).to(wide)).sum().to(per_token.dtype)
