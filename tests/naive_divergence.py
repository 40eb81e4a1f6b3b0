"""Naive twins of the divergences: float64 Python loops over the vocabulary, from the formulas. No `pear` in here."""

import math
from collections.abc import Sequence

FLOOR = -1e4


def log_softmax(logits: Sequence[float]) -> list[float]:
    largest = max(logits)
    total = largest + math.log(math.fsum(math.exp(value - largest) for value in logits))
    return [value - total for value in logits]


def logits_of(
    hidden: Sequence[float],
    weight: Sequence[Sequence[float]],
    bias: Sequence[float] | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> list[float]:
    """softcap tanh(scale (W h + b) / softcap)."""
    result = []
    for token, row in enumerate(weight):
        value = math.fsum(w * h for w, h in zip(row, hidden, strict=True))
        value = scale * (value + (0.0 if bias is None else bias[token]))
        result.append(value if softcap is None else softcap * math.tanh(value / softcap))
    return result


def kl_divergence(log_p: Sequence[float], log_q: Sequence[float]) -> float:
    """sum_v p_v log(p_v / q_v)."""
    return math.fsum(
        math.exp(max(p, FLOOR)) * (max(p, FLOOR) - max(q, FLOOR)) for p, q in zip(log_p, log_q, strict=True)
    )


def top_k(log_p: Sequence[float], k: int) -> list[int]:
    return sorted(range(len(log_p)), key=lambda token: -log_p[token])[:k]


def lumped_kl(log_p: Sequence[float], log_q: Sequence[float], tokens: Sequence[int]) -> float:
    """The KL of two distributions over the named tokens and one outcome for all others."""
    others = [token for token in range(len(log_p)) if token not in tokens]
    rest_p = math.fsum(math.exp(log_p[token]) for token in others)
    rest_q = math.fsum(math.exp(log_q[token]) for token in others)
    named = math.fsum(math.exp(log_p[token]) * (log_p[token] - log_q[token]) for token in tokens)
    return named + (rest_p * math.log(rest_p / rest_q) if rest_p > 0 else 0.0)


def entropy_of_top(logits: Sequence[float], count: int) -> float:
    log_probs = log_softmax(sorted(logits, reverse=True)[:count])
    return -math.fsum(math.exp(value) * value for value in log_probs)
