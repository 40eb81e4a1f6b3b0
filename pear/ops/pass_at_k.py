"""pass@k, and the chance of mixed outcomes, from n samples of each problem."""

import numpy as np
from jaxtyping import Bool, Float64
from torch import Tensor

Outcomes = Bool[np.ndarray, "problem sample"] | Bool[Tensor, "problem sample"]


def pass_at_k(correct: Outcomes, k: int) -> Float64[np.ndarray, " problem"]:
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
    num_correct, n = _counts(correct, k)
    return np.asarray(1.0 - _all_missed(n, k)[num_correct], dtype=np.float64)


def mixed_at_k(correct: Outcomes, k: int) -> Float64[np.ndarray, " problem"]:
    """Unbiased estimate, for each problem, of the chance that k samples hold both right and wrong ones.

        mixed@k = 1 - C(n - c, k) / C(n, k) - C(c, k) / C(n, k),   c of n samples correct

    A group of k samples of a prompt gives GRPO a gradient only where it is mixed, so the mean over prompts is the
    share of groups that teach something at group size k. k = 1 gives 0.

    Source: the estimator of pass@k (Chen et al., arXiv 2107.03374, Equation 1), applied to both outcomes.

    Args:
        correct: bool, (problem, sample), every problem with the same number of samples.
        k: from 1 to the number of samples.

    Returns:
        Float64 (problem,).

    Raises:
        ValueError: not a bool matrix, or k outside 1..n.

    >>> mixed_at_k(np.array([[True, False, False, False], [False] * 4]), k=2)
    array([0.5, 0. ])
    """
    num_correct, n = _counts(correct, k)
    missed = _all_missed(n, k)
    return np.asarray(np.maximum(1.0 - missed[num_correct] - missed[n - num_correct], 0.0), dtype=np.float64)


def _counts(correct: Outcomes, k: int) -> tuple[np.ndarray, int]:
    outcomes = correct.cpu().numpy() if isinstance(correct, Tensor) else np.asarray(correct)
    if outcomes.ndim != 2 or outcomes.dtype != np.bool_:
        raise ValueError(f"correct must be bool of shape (problem, sample). Got {outcomes.dtype} {outcomes.shape}.")
    n = outcomes.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the number of samples, {n}. Got {k}.")
    return outcomes.sum(axis=1), n


def _all_missed(n: int, k: int) -> Float64[np.ndarray, " count"]:
    """Entry c, from 0 to n: the chance C(n - c, k) / C(n, k) that k samples of n miss all of c marked ones."""
    # From c = n - k + 1 on it is exactly 0.
    factors = np.maximum(1.0 - k / np.arange(n, 0, -1, dtype=np.float64), 0.0)
    return np.concatenate([[1.0], np.cumprod(factors)])
