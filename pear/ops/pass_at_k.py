"""pass@k from n samples of each problem."""

import numpy as np
from jaxtyping import Bool, Float64
from torch import Tensor


def pass_at_k(
    correct: Bool[np.ndarray, "problem sample"] | Bool[Tensor, "problem sample"], k: int
) -> Float64[np.ndarray, " problem"]:
    """Unbiased estimate, for each problem, of the chance that at least one of k samples is correct.

        pass@k = 1 - C(n - c, k) / C(n, k),   c of n samples correct

    Source: Chen et al., arXiv 2107.03374, Equation 1. Computed as 1 - prod_{j<c} (1 - k / (n - j)), which neither
    overflows nor cancels; k = 1 is the mean (avg@n).

    Args:
        correct: bool, (problem, sample), every problem with the same number of samples.
        k: from 1 to the number of samples.

    Returns:
        Float64 (problem,). Its mean over problems is the score.

    Raises:
        ValueError: not a bool matrix, or k outside 1..n.

    >>> pass_at_k(np.array([[True, False, False, False], [False] * 4]), k=2)
    array([0.5, 0. ])
    """
    outcomes = correct.cpu().numpy() if isinstance(correct, Tensor) else np.asarray(correct)
    if outcomes.ndim != 2 or outcomes.dtype != np.bool_:
        raise ValueError(f"correct must be bool of shape (problem, sample). Got {outcomes.dtype} {outcomes.shape}.")
    n = outcomes.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the number of samples, {n}. Got {k}.")
    # Entry c is the chance that k samples of n miss all c correct ones; from n - k + 1 correct on it is exactly 0.
    factors = np.maximum(1.0 - k / np.arange(n, 0, -1, dtype=np.float64), 0.0)
    all_missed = np.concatenate([[1.0], np.cumprod(factors)])
    return np.asarray(1.0 - all_missed[outcomes.sum(axis=1)], dtype=np.float64)
