"""Majority voting over k of n samples, exactly."""

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import stats

Group = tuple[int, int]
"""How many samples gave an answer, and how many of these are correct."""


def majority_at_k(
    answers: Int[np.ndarray, "problem sample"], correct: Bool[np.ndarray, "problem sample"], k: int
) -> Float64[np.ndarray, " problem"]:
    """maj@k: for each problem, the mean over all choices of k of its n samples of whether the majority is right.

        maj@k = sum_{S, |S| = k} right(S) / C(n, k),   right(S) = mean over the answers tied for most votes in S of
        the share of that answer's samples in S that are correct (0 or 1 where a verdict goes by the answer alone)

    Samples without a readable answer are counted among the k and never win; where S has no others, right(S) = 0.
    The sum is exact, without enumerating the choices. For each number v of votes of the winner, a polynomial in the
    number of picked samples is multiplied over the answers: `C(m, j) x^j` for an answer that m samples gave, of which
    j < v (not a winner) or j = v (tied) are picked. `C(m, j)` is scaled to a binomial probability, so nothing
    overflows. Problems whose answers have the same sizes and verdicts are computed once.

    Source: maj@k (self-consistency) is Wang et al., arXiv 2203.11171; the rule for ties and unreadable answers is ours.

    Args:
        answers: (problem, sample), which answer a sample gave: equal numbers within a row are equal answers, -1 is
            unreadable. Numbers mean nothing across rows.
        correct: (problem, sample).
        k: from 1 to the number of samples n.

    Returns:
        Float64 (problem,). Its mean over problems is the score. k = 1 is the share of samples that are readable and
        correct.

    Raises:
        ValueError: not an integer and a bool matrix of one shape, an answer below -1, or k outside 1..n.

    >>> majority_at_k(np.array([[0, 0, 1], [0, 1, -1]]), np.array([[True, True, False], [True, False, False]]), k=3)
    array([1. , 0.5])
    """
    answers, outcomes = np.asarray(answers), np.asarray(correct)
    _check(answers, outcomes, k)
    n = answers.shape[1]
    probabilities = _picked_probabilities(n, k)
    known: dict[tuple[Group, ...], float] = {}
    result = np.zeros(len(answers), dtype=np.float64)
    for problem, (row, flags) in enumerate(zip(answers, outcomes, strict=True)):
        groups = _groups(row, flags)
        if groups not in known:
            known[groups] = _majority(groups, n, k, probabilities)
        result[problem] = known[groups]
    return result


def _groups(row: Int[np.ndarray, " sample"], flags: Bool[np.ndarray, " sample"]) -> tuple[Group, ...]:
    """The sizes and numbers of correct samples of the readable answers, in an order that does not go by their names."""
    readable = row >= 0
    places = np.unique(row[readable], return_inverse=True)[1]
    sizes = np.bincount(places)
    right = np.bincount(places[flags[readable]], minlength=len(sizes))
    return tuple(sorted(zip(sizes.tolist(), right.tolist(), strict=True)))


def _picked_probabilities(n: int, k: int) -> Float64[np.ndarray, "size picked"]:
    """Entry (m, j): C(m, j) q^j (1 - q)^(m - j) with q = k / n, for m = 0..n and j = 0..k.

    In a product over answers whose j sum to k the powers of q are the same for every choice, and cancel against
    those of entry (n, k).
    """
    sizes, picked = np.arange(n + 1)[:, None], np.arange(k + 1)[None, :]
    return np.asarray(stats.binom.pmf(picked, sizes, k / n), dtype=np.float64)


def _majority(groups: tuple[Group, ...], n: int, k: int, probabilities: Float64[np.ndarray, "size picked"]) -> float:
    """maj@k of one problem with n samples, of which those outside of `groups` are unreadable."""
    if not any(right for _, right in groups):
        return 0.0
    total = 0.0
    offset = np.arange(k + 1)[None, :] - np.arange(k + 1)[:, None]
    for votes in range(1, min(k, groups[-1][0]) + 1):
        rivals = [group for group in groups if group[0] >= votes]
        most = min(len(rivals), k // votes)
        # Of the others any number may be picked. Row t: so many answers tied; column p: so many samples picked.
        chance = np.zeros((most + 1, k + 1))
        chance[0] = probabilities[n - sum(size for size, _ in rivals)]
        # The same, times the summed shares of correct samples of the tied answers.
        weighted = np.zeros_like(chance)
        for size, right in rivals:
            below = np.where((offset >= 0) & (offset < votes), probabilities[size][offset], 0.0)
            tied_chance = chance[:-1, : k + 1 - votes] * probabilities[size, votes]
            tied_weighted = weighted[:-1, : k + 1 - votes] * probabilities[size, votes] + tied_chance * right / size
            chance, weighted = chance @ below, weighted @ below
            chance[1:, votes:] += tied_chance
            weighted[1:, votes:] += tied_weighted
        total += float((weighted[1:, k] / np.arange(1, most + 1)).sum())
    return total / float(probabilities[n, k])


def _check(answers: np.ndarray, correct: np.ndarray, k: int) -> None:
    if answers.ndim != 2 or not np.issubdtype(answers.dtype, np.integer):
        raise ValueError(f"answers must be integers of shape (problem, sample). Got {answers.dtype} {answers.shape}.")
    if correct.dtype != np.bool_ or correct.shape != answers.shape:
        raise ValueError(
            f"correct must be bool of the shape of answers, {answers.shape}. Got {correct.dtype} {correct.shape}."
        )
    if answers.size and answers.min() < -1:
        raise ValueError(f"answers must be at least -1, which is unreadable. Got {answers.min()}.")
    n = answers.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the number of samples, {n}. Got {k}.")
