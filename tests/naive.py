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
    if name in ("nll", "composed"):
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


def tokens_with_90_percent(weights: list[float]) -> float:
    """Share of the tokens that hold 90% of the weight, heaviest first; of the last one the part that is needed."""
    lacking, used = 0.9 * math.fsum(weights), 0.0
    for weight in sorted(weights, reverse=True):
        part = min(1.0, lacking / weight) if lacking > 0 else 0.0
        used, lacking = used + part, lacking - part * weight
    return used / len(weights)


def last_tokens_with_90_percent(weights: Matrix, mask: Mask, segment_ids: Ids | None) -> float:
    """The same from the sequences' ends: first all at distance 0, then 1, 2 to 3, 4 to 7, ..., each lot even inside."""
    lots: dict[int, list[float]] = {}
    for tokens in sequences_of(mask, segment_ids):
        for index, (row, position) in enumerate(tokens):
            lots.setdefault((len(tokens) - 1 - index).bit_length(), []).append(weights[row][position])
    every = [weight for lot in lots.values() for weight in lot]
    lacking, used = 0.9 * math.fsum(every), 0.0
    for place in sorted(lots):
        total = math.fsum(lots[place])
        part = min(1.0, lacking / total) if lacking > 0 and total > 0 else float(lacking > 0)
        used, lacking = used + part * len(lots[place]), lacking - part * total
    return used / len(every)


def quantile(values: list[float], share: float) -> float:
    """The lowest value at or below which lies at least this share."""
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def at_distance(values: Matrix, mask: Mask, segment_ids: Ids | None, distance: int) -> list[float]:
    """What stands this many response tokens before the sequences' ends."""
    found = [tokens for tokens in sequences_of(mask, segment_ids) if len(tokens) > distance]
    return [values[row][position] for tokens in found for row, position in tokens[-1 - distance :][:1]]


def pass_at_k(correct: list[bool], k: int) -> float:
    """The share of all choices of k samples that hold a correct one."""
    choices = list(itertools.combinations(correct, k))
    return sum(any(choice) for choice in choices) / len(choices)


def joint_probability(step: dict[tuple[int, ...], list[float]], tokens: tuple[int, ...], after: int = 0) -> float:
    """Product over t > after of step[y_<t][y_t]: the probability of a sequence, or of its suffix after a prefix."""
    return math.prod(step[tokens[:t]][tokens[t]] for t in range(after, len(tokens)))


def rounded(value: float, bits: int) -> float:
    """The nearest number with so many significant bits, ties to even."""
    if value == 0.0:
        return 0.0
    step = 2.0 ** (math.frexp(value)[1] - bits)
    return round(value / step) * step


def sparsity(before: Matrix, after: Matrix, *, epsilon: float, bits: int = 53) -> float:
    """A.2; the difference is rounded to the bits of the stored dtype."""
    flags = []
    for old_row, new_row in zip(before, after, strict=True):
        for old, new in zip(old_row, new_row, strict=True):
            flags.append(abs(rounded(new - old, bits)) < epsilon)
    return sum(flags) / len(flags)


def sparsity_bf16(before: Matrix, after: Matrix) -> float:
    flags = []
    for old_row, new_row in zip(before, after, strict=True):
        for old, new in zip(old_row, new_row, strict=True):
            flags.append(abs(new - old) <= 1e-3 * max(abs(old), abs(new)))
    return sum(flags) / len(flags)


def update_norm(before: Matrix, after: Matrix) -> float:
    rows = zip(before, after, strict=True)
    return math.sqrt(math.fsum((new - old) ** 2 for pair in rows for old, new in zip(*pair, strict=True)))


def transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def dot(left: list[float], right: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def left_singular(matrix: Matrix) -> list[tuple[float, list[float]]]:
    """min(rows, columns) pairs (sigma, sigma u), descending, by one-sided Jacobi: turns columns until orthogonal."""
    columns = transposed(matrix)
    turned = True
    while turned:
        turned = False
        for i, j in itertools.combinations(range(len(columns)), 2):
            a, b, c = dot(columns[i], columns[i]), dot(columns[j], columns[j]), dot(columns[i], columns[j])
            if c * c <= 1e-30 * a * b:
                continue
            turned = True
            zeta = (b - a) / (2.0 * c)
            tangent = math.copysign(1.0, zeta) / (abs(zeta) + math.hypot(1.0, zeta))
            cosine = 1.0 / math.hypot(1.0, tangent)
            pairs = list(zip(columns[i], columns[j], strict=True))
            columns[i] = [cosine * (x - tangent * y) for x, y in pairs]
            columns[j] = [cosine * (tangent * x + y) for x, y in pairs]
    found = sorted(((math.sqrt(dot(column, column)), column) for column in columns), reverse=True)
    return found[: min(len(matrix), len(columns))]


def singular_values(matrix: Matrix) -> list[float]:
    """From the side with fewer columns, whose columns Jacobi turns."""
    narrow = matrix if len(matrix) >= len(matrix[0]) else transposed(matrix)
    return [sigma for sigma, _ in left_singular(narrow)]


def spectrum_shift(before: Matrix, after: Matrix) -> float:
    """A.3"""
    old, new = singular_values(before), singular_values(after)
    return math.sqrt(math.fsum((b - a) ** 2 for a, b in zip(old, new, strict=True))) / math.sqrt(dot(old, old))


def left_subspace(matrix: Matrix, k: int) -> Matrix:
    """Columns u_1, ..., u_k as the rows of a list."""
    return [[value / sigma for value in column] for sigma, column in left_singular(matrix)[:k]]


def principal_angles(u: Matrix, v: Matrix) -> list[float]:
    """A.4, of two bases given as lists of vectors."""
    products = [[dot(left, right) for right in v] for left in u]
    return [math.acos(clip(sigma, (0.0, 1.0))) for sigma in singular_values(products)]


def kl_divergence(log_p: list[float], log_q: list[float]) -> float:
    """KL(p || q) of one token's distribution (Appendix A.1); a token of probability 0 under p adds nothing."""
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True) if p > -math.inf)


def macro_mean(sequences: Matrix) -> float:
    """The mean within each sequence, then across sequences."""
    return math.fsum(math.fsum(values) / len(values) for values in sequences) / len(sequences)


def middle_ranks(values: list[float]) -> list[float]:
    """Ranks from 1; equal values share the middle of theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def spearman(first: list[float], second: list[float]) -> float | None:
    """The correlation of ranks; None where one side is constant."""
    ranks = [middle_ranks(values) for values in (first, second)]
    x, y = ([rank - math.fsum(values) / len(values) for rank in values] for values in ranks)
    squares = math.fsum(value * value for value in x) * math.fsum(value * value for value in y)
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(squares) if squares > 0 else None


def spearman_within(strata: list[int], first: list[float], second: list[float]) -> float | None:
    """Mean of the strata's rank correlations by their size, of strata with 3 values or more and a correlation."""
    total, size = 0.0, 0
    for stratum in set(strata):
        places = [place for place, other in enumerate(strata) if other == stratum]
        found = spearman([first[place] for place in places], [second[place] for place in places])
        if len(places) >= 3 and found is not None:
            total, size = total + len(places) * found, size + len(places)
    return total / size if size else None


def gradient_rotation(pairs: Sequence[tuple[Matrix, Matrix]], k: int) -> float:
    """Degrees between two gradients (Appendix A.4): the mean over the k angles of a layer, then over layers."""
    layers = []
    for offline, online in pairs:
        angles = principal_angles(left_subspace(offline, k), left_subspace(online, k))
        layers.append(math.degrees(math.fsum(angles) / len(angles)))
    return math.fsum(layers) / len(layers)
