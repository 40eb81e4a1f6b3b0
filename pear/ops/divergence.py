"""Divergences between two next-token distributions, token by token: full vocabulary, or from a teacher's top k."""

import torch
from jaxtyping import Float
from torch import Tensor

from pear.ops.losses import LOG_PROB_FLOOR


def kl_divergence(
    log_p: Float[Tensor, "*token vocab"], log_q: Float[Tensor, "*token vocab"]
) -> Float[Tensor, "*token"]:
    """KL of two distributions over the whole vocabulary, differentiable in both.

        KL(p || q) = sum_v p_v (max(log p_v, -1e4) - max(log q_v, -1e4))

    Source: arXiv 2602.01058, Section 4.3 (p the behavior policy, q the target). The floor is ours: it keeps value and
    gradient finite where one of them gives a token probability 0.

    Args:
        log_p, log_q: log-softmax over the vocabulary, nats; -inf is allowed.

    Returns:
        Nats, in the wider of the two dtypes.

    >>> round(kl_divergence(torch.tensor([1.0, 0.0]).log(), torch.tensor([0.5, 0.5]).log()).item(), 6)
    0.693147
    """
    floored = log_p.clamp(min=LOG_PROB_FLOOR)
    return (floored.exp() * (floored - log_q.clamp(min=LOG_PROB_FLOOR))).sum(-1)


def top_k_forward_kl(
    student_log_probs: Float[Tensor, "*token k"],
    teacher_log_probs: Float[Tensor, "*token k"],
    *,
    student_log_rest: Float[Tensor, "*token"],
) -> Float[Tensor, "*token"]:
    """KL(teacher || student) from the teacher's k likeliest tokens, all others lumped into one outcome.

        sum_k p_k log(p_k / q_k) + r_p log(r_p / r_q),   r_p = 1 - sum_k p_k,   r_q = 1 - sum_k q_k

    A lower bound of the KL over the whole vocabulary, by the log-sum inequality (Cover and Thomas, Elements of
    Information Theory, Theorem 2.7.1); equal to it where teacher and student share the rest out alike, or none is left.
    Lumping the rest, instead of dropping it, is ours: without it the student would be drawn to give the k tokens more
    than the teacher does. A teacher's rest below the rounding of its dtype, k eps, counts as 0, and a log-prob below
    -1e4 as that, so value and gradient are finite.

    Args:
        student_log_probs: differentiable, of the same k tokens, normalised over the whole vocabulary.
        teacher_log_probs: of the teacher's k likeliest tokens, normalised over the whole vocabulary.
        student_log_rest: log r_q, differentiable. It is given, because 1 - sum q_k would lose it to rounding where it
            is small: take a logsumexp over the other logits. -inf where there are none.

    Returns:
        Nats, in the wider of the dtypes, differentiable in the student's.

    >>> teacher, student = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.25]).log()
    >>> divergence = top_k_forward_kl(student, teacher, student_log_rest=torch.tensor(0.5).log())
    >>> round(divergence.item(), 6)  # 0.5 log(0.5 / 0.25) + 0 + 0.25 log(0.25 / 0.5)
    0.173287
    """
    wide = torch.promote_types(teacher_log_probs.dtype, student_log_probs.dtype)
    teacher = teacher_log_probs.detach().to(wide).clamp(min=LOG_PROB_FLOOR)
    inside = (teacher.exp() * (teacher - student_log_probs.clamp(min=LOG_PROB_FLOOR))).sum(-1)
    rest = 1 - teacher.exp().sum(-1)
    # What rounding of k stored probabilities may leave over.
    rounding = teacher.shape[-1] * torch.finfo(teacher_log_probs.dtype).eps
    rest = torch.where(rest > rounding, rest, 0.0)
    return inside + torch.special.xlogy(rest, rest) - rest * student_log_rest.clamp(min=LOG_PROB_FLOOR)


def entropy_of_top(logits: Float[Tensor, "*token vocab"], count: int) -> Float[Tensor, "*token"]:
    """Entropy of the softmax over each token's `count` largest logits; over all of them where there are fewer.

        H = -sum_{v in top} p_v log p_v,   p = softmax(logits over top)

    Source: EAFT, arXiv 2601.02151 (count = 20).

    >>> round(entropy_of_top(torch.tensor([0.0, 0.0, -5.0]), 2).item(), 6)
    0.693147
    """
    top = torch.topk(logits, min(count, logits.shape[-1]), dim=-1).values
    log_probs = torch.log_softmax(top, -1).clamp(min=LOG_PROB_FLOOR)
    return -(log_probs.exp() * log_probs).sum(-1)
