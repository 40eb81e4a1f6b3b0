"""Base losses: from a `TokenBatch` to a differentiable, unweighted loss of each token, 0 at masked positions."""

from jaxtyping import Float
from torch import Tensor

from pear.objectives.batch import TokenBatch
from pear.ops.losses import negative_log_likelihood


def nll(batch: TokenBatch) -> Float[Tensor, "batch seq"]:
    """-log pi_theta(y_t | x, y_<t): the SFT loss (arXiv 2602.01058, Section 3.2)."""
    return negative_log_likelihood(batch.log_probs, batch.response_mask)
