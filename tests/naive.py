"""Naive twins: float64 Python loops that transcribe the paper. They never import `pear.ops`.

Tensors come as nested lists, rows of tokens. A row is split into sequences where its segment id changes.
"""

import itertools
import math
from collections.abc import Sequence

Matrix = list[list[float]]
Mask = list[list[bool]]
Ids = list[list[int]]


def sequences_of(mask: Mask, segment_ids: Ids | None) -> list[list[tuple[int, int]]]:
    """The (row, position) of every sequence's response tokens, in order."""
    result = []
    for row, flags in enumerate(mask):
        current: list[tuple[int, int]] = []
        for position, flag in enumerate(flags):
            if position and segment_ids is not None and segment_ids[row][position] != segment_ids[row][position - 1]:
                result.append(current)
                current = []
            if flag:
                current.append((row, position))
        result.append(current)
    return result


def clip(value: float, bounds: Sequence[float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def algorithm_1(
    log_ratio: list[float], *, uniform: bool, block_size: int, gamma: float, log_ratio_clip: Sequence[float]
) -> list[float]:
    """log G_t of one sequence y_1..y_T before its clip: Algorithm 1, its line numbers in the comments."""
    length = len(log_ratio)  # T
    if length == 0:
        return []
    num_blocks = math.ceil(length / block_size)  # 1: K
    blocks = [range(k * block_size + 1, min((k + 1) * block_size, length) + 1) for k in range(num_blocks)]
    delta = {t: clip(log_ratio[t - 1], log_ratio_clip) for t in range(1, length + 1)}  # 3
    rho = [math.fsum(delta[t] for t in block) for block in blocks]  # 6
    if uniform:  # 8
        return [math.fsum(rho)] * length  # 9, 10
    log_weights = {}
    later = 0.0  # 14: u
    for k in reversed(range(num_blocks)):  # 15
        end = max(blocks[k])
        for t in blocks[k]:  # 16, 17
            log_weights[t] = (length - end) * math.log(gamma) + later
        later += rho[k]  # 19
    return [log_weights[t] for t in range(1, length + 1)]


def log_importance_weights(
    log_ratio: Matrix,
    mask: Mask,
    *,
    level: str,
    block_size: int = 1,
    gamma: float = 0.999,
    log_ratio_clip: Sequence[float] = (-0.08, 0.3),
    log_weight_clip: Sequence[float] = (-10.0, 5.0),
    segment_ids: Ids | None = None,
) -> Matrix:
    result = [[0.0] * len(row) for row in mask]
    for tokens in sequences_of(mask, segment_ids):
        weights = algorithm_1(
            [log_ratio[row][position] for row, position in tokens],
            uniform=level == "sequence",
            block_size=block_size if level == "block" else 1,
            gamma=gamma,
            log_ratio_clip=log_ratio_clip,
        )
        for (row, position), weight in zip(tokens, weights, strict=True):
            result[row][position] = clip(weight, log_weight_clip)
    return result


def floored(log_prob: float) -> float:
    return max(log_prob, -1e4)


def objective_weights(
    name: str, log_probs: Matrix, behavior: Matrix, mask: Mask, segment_ids: Ids | None, **settings: object
) -> Matrix:
    """The weight of each response token under a named objective, 0 elsewhere."""
    if name == "nll":
        return [[1.0 if flag else 0.0 for flag in flags] for flags in mask]
    ratio = [
        [floored(p) - floored(b) if flag else 0.0 for p, b, flag in zip(*rows, strict=True)]
        for rows in zip(log_probs, behavior, mask, strict=True)
    ]
    if name == "single_step_is":
        bounds = settings.get("log_ratio_clip", (-0.08, 0.3))
        log_weights = [[clip(value, bounds) for value in row] for row in ratio]  # type: ignore[arg-type]
    else:
        level = name.removeprefix("pear_")
        log_weights = log_importance_weights(ratio, mask, level=level, segment_ids=segment_ids, **settings)  # type: ignore[arg-type]
    return [
        [math.exp(weight) if flag else 0.0 for weight, flag in zip(*rows, strict=True)]
        for rows in zip(log_weights, mask, strict=True)
    ]


def weighted_nll(log_probs: Matrix, weights: Matrix, mask: Mask) -> tuple[float, Matrix]:
    """sum_t w_t (-log p_t) over response tokens, and its gradient in log p with the weights held fixed."""
    terms = []
    gradient = [[0.0] * len(row) for row in mask]
    for row, flags in enumerate(mask):
        for position, flag in enumerate(flags):
            if flag:
                terms.append(-weights[row][position] * floored(log_probs[row][position]))
                if log_probs[row][position] >= -1e4:
                    gradient[row][position] = -weights[row][position]
    return math.fsum(terms), gradient


def effective_sample_size(weights: list[float]) -> float:
    return math.fsum(weights) ** 2 / (len(weights) * math.fsum(w * w for w in weights))


def trajectory_effective_sample_size(weights: Matrix, mask: Mask, segment_ids: Ids | None) -> float:
    """Mean over the distances 0, 1, 2, 4, ... that several sequences have, weighted by how many have them."""
    at: dict[int, list[float]] = {}
    for tokens in sequences_of(mask, segment_ids):
        for index, (row, position) in enumerate(tokens):
            distance = len(tokens) - 1 - index
            if distance == 0 or bin(distance).count("1") == 1:
                at.setdefault(distance, []).append(weights[row][position])
    shared = [group for group in at.values() if len(group) > 1]
    return sum(len(group) * effective_sample_size(group) for group in shared) / sum(len(group) for group in shared)


def pass_at_k(correct: list[bool], k: int) -> float:
    """The share of all choices of k samples that hold a correct one."""
    choices = list(itertools.combinations(correct, k))
    return sum(any(choice) for choice in choices) / len(choices)


def joint_probability(step: dict[tuple[int, ...], list[float]], tokens: tuple[int, ...], after: int = 0) -> float:
    """Product over t > after of step[y_<t][y_t]: the probability of a sequence, or of its suffix after a prefix."""
    return math.prod(step[tokens[:t]][tokens[t]] for t in range(after, len(tokens)))
