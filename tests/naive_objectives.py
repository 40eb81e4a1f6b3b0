"""Naive twins of every objective: float64 Python loops from the papers' formulas. They never import `pear`.

A twin has a base loss of one token and a weighting of a whole optimizer step. `twin_of(name, settings)` makes it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests import naive
from tests.naive import Ids, Mask, Matrix, clip, floored, sequences_of

Token = Mapping[str, float]
"""One token's values by the names of `TokenBatch`'s fields."""
Fields = Mapping[str, Matrix]
Base = Callable[[Token, Token], tuple[float, dict[str, float]]]
"""(at, held) -> loss and its derivatives; what stands under a stop-gradient is read from `held`."""
Weighting = Callable[[Fields, Mask, Ids | None], Matrix]


@dataclass(frozen=True)
class Twin:
    base: Base
    weighting: Weighting


def slope(log_prob: float) -> float:
    """d max(log p, -1e4) / d log p."""
    return 1.0 if log_prob >= -1e4 else 0.0


def log_loss(at: Token, held: Token) -> tuple[float, dict[str, float]]:
    return -floored(at["log_probs"]), {"log_probs": -slope(at["log_probs"])}


def power(at: Token, held: Token, *, alpha: float) -> tuple[float, dict[str, float]]:
    if alpha == 0.0:
        return log_loss(at, held)
    p = math.exp(floored(at["log_probs"]))
    return (1.0 - p**alpha) / alpha, {"log_probs": -(p**alpha) * slope(at["log_probs"])}


def with_kl(at: Token, held: Token, *, beta: float) -> tuple[float, dict[str, float]]:
    loss, gradient = log_loss(at, held)
    return loss + beta * at["divergence"], {**gradient, "divergence": beta}


def anchored(at: Token, held: Token, *, beta: float) -> tuple[float, dict[str, float]]:
    p = math.exp(floored(held["log_probs"]))
    loss, gradient = log_loss(at, held)
    return p * loss + beta * at["divergence"], {"log_probs": p * gradient["log_probs"], "divergence": beta}


def distillation(at: Token, held: Token) -> tuple[float, dict[str, float]]:
    return at["divergence"], {"divergence": 1.0}


def surrogate(at: Token, held: Token, *, bounds: Sequence[float]) -> tuple[float, dict[str, float]]:
    log_ratio = floored(at["log_probs"]) - floored(held["old_log_probs"])
    if log_ratio > math.log1p(bounds[1]):
        return -(1.0 + bounds[1]), {"log_probs": 0.0}
    ratio = math.exp(log_ratio)
    return -min(ratio, clip(ratio, (1.0 - bounds[0], 1.0 + bounds[1]))), {"log_probs": -ratio * slope(at["log_probs"])}


def of_token(weight: Callable[[Token], float]) -> Weighting:
    """The weighting that gives each token a weight by its own values."""

    def weighting(fields: Fields, mask: Mask, ids: Ids | None) -> Matrix:
        result = [[0.0] * len(row) for row in mask]
        for row, flags in enumerate(mask):
            for position, flag in enumerate(flags):
                if flag:
                    result[row][position] = weight(token_at(fields, row, position))
        return result

    return weighting


def token_at(fields: Fields, row: int, position: int) -> dict[str, float]:
    return {name: values[row][position] for name, values in fields.items()}


def probability(token: Token) -> float:
    return math.exp(floored(token["log_probs"]))


uniform = of_token(lambda token: 1.0)


def by_behavior(name: str, settings: Mapping[str, Any]) -> Weighting:
    """PEAR and single-step importance sampling."""

    def weighting(fields: Fields, mask: Mask, ids: Ids | None) -> Matrix:
        return naive.objective_weights(name, fields["log_probs"], fields["behavior_log_probs"], mask, ids, **settings)

    return weighting


def threshold(
    fields: Fields, mask: Mask, ids: Ids | None, *, side: str, q: float = 0.2, denominator: str = "all"
) -> Matrix:
    def passes(token: Token) -> float:
        return float(probability(token) >= q if side == "top" else probability(token) <= q)

    flags = of_token(passes)(fields, mask, ids)
    kept = sum(map(sum, flags))
    scale = sum(map(sum, mask)) / kept if denominator == "kept" and kept else 1.0
    return [[scale * flag for flag in row] for row in flags]


def talr_tau(fields: Fields, mask: Mask, ids: Ids | None) -> float:
    losses = [[-floored(fields["log_probs"][i][j]) for i, j in tokens] for tokens in sequences_of(mask, ids)]
    means = sorted(math.fsum(values) / len(values) for values in losses if values)
    half = len(means) // 2
    return means[half] if len(means) % 2 else (means[half - 1] + means[half]) / 2


def talr(fields: Fields, mask: Mask, ids: Ids | None, *, w_min: float = 0.01) -> Matrix:
    tau = talr_tau(fields, mask, ids)
    return of_token(lambda token: max(math.exp(floored(token["log_probs"]) / tau), w_min))(fields, mask, ids)


def iw_sft(fields: Fields, mask: Mask, ids: Ids | None, *, level: str = "sequence", temperature: float = 1.0) -> Matrix:
    def log_ratio(row: int, position: int) -> float:
        return floored(fields["log_probs"][row][position]) - floored(fields["ref_log_probs"][row][position])

    result = [[0.0] * len(row) for row in mask]
    for tokens in sequences_of(mask, ids):
        for row, position in tokens:
            if level == "token":
                result[row][position] = clip(math.exp(log_ratio(row, position)), (0.2, 1.8))
            else:
                mean = math.fsum(log_ratio(*token) for token in tokens) / len(tokens)
                result[row][position] = clip(math.exp(temperature * mean), (0.0, 16.0))
    return result


def _penalized(beta: float = 0.1, direction: str = "reverse") -> Twin:
    return Twin(partial(with_kl, beta=beta), uniform)


def _thresholded(base: Base, side: str) -> Callable[..., Twin]:
    return lambda **settings: Twin(base, partial(threshold, side=side, **settings))


def _importance(name: str) -> Callable[..., Twin]:
    defaults = {"block_size": 8} if name == "pear_block" else {}
    return lambda **settings: Twin(log_loss, by_behavior(name, {**defaults, **settings}))


def _composed(
    base_of: str = "nll",
    base_kwargs: Mapping[str, Any] | None = None,
    weighting_of: str = "nll",
    weighting_kwargs: Mapping[str, Any] | None = None,
) -> Twin:
    return Twin(twin_of(base_of, base_kwargs or {}).base, twin_of(weighting_of, weighting_kwargs or {}).weighting)


plain_p = partial(power, alpha=1.0)

TWINS: dict[str, Callable[..., Twin]] = {
    "nll": lambda: Twin(log_loss, uniform),
    "composed": _composed,
    "pear_token": _importance("pear_token"),
    "pear_block": _importance("pear_block"),
    "pear_sequence": _importance("pear_sequence"),
    "single_step_is": _importance("single_step_is"),
    "sft_kl": _penalized,
    "general_family": lambda alpha=10.0: Twin(partial(power, alpha=alpha), uniform),
    "plain_p": lambda: Twin(plain_p, uniform),
    "top_p": _thresholded(plain_p, "top"),
    "bottom_p": _thresholded(plain_p, "bottom"),
    "top_log_p": _thresholded(log_loss, "top"),
    "bottom_log_p": _thresholded(log_loss, "bottom"),
    "talr": lambda **settings: Twin(log_loss, partial(talr, **settings)),
    "dft": lambda: Twin(log_loss, of_token(probability)),
    "iw_sft": lambda **settings: Twin(log_loss, partial(iw_sft, **settings)),
    "asft": lambda beta=0.1: Twin(partial(anchored, beta=beta), uniform),
    "psft": lambda clip=(0.2, 0.28): Twin(partial(surrogate, bounds=clip), uniform),
    "chord_phi": lambda: Twin(log_loss, of_token(lambda token: probability(token) * (1.0 - probability(token)))),
    "eaft": lambda alpha=1.0: Twin(log_loss, of_token(lambda token: (token["entropy"] / 3.0) ** alpha)),
    "forward_kl": lambda: Twin(distillation, uniform),
}


def twin_of(name: str, settings: Mapping[str, Any]) -> Twin:
    return TWINS[name](**settings)


def value_and_gradient(base: Base, weights: Matrix, fields: Fields, mask: Mask) -> tuple[float, dict[str, Matrix]]:
    """sum_t w_t l_t over response tokens, and its derivatives with the weights held fixed."""
    terms = []
    gradient: dict[str, Matrix] = {name: [[0.0] * len(row) for row in mask] for name in ("log_probs", "divergence")}
    for row, flags in enumerate(mask):
        for position, flag in enumerate(flags):
            if flag:
                token, weight = token_at(fields, row, position), weights[row][position]
                loss, slopes = base(token, token)
                terms.append(weight * loss)
                for name, value in slopes.items():
                    gradient[name][row][position] = weight * value
    return math.fsum(terms), gradient


def central_differences(base: Base, weights: Matrix, fields: Fields, mask: Mask, *, field: str, step: float) -> Matrix:
    """The derivative in `field` by differences of the loss; weights and what is under a stop-gradient stay."""
    result = [[0.0] * len(row) for row in mask]
    for row, flags in enumerate(mask):
        for position, flag in enumerate(flags):
            if flag:
                token = token_at(fields, row, position)
                up, down = ({**token, field: token[field] + sign * step} for sign in (1.0, -1.0))
                difference = base(up, token)[0] - base(down, token)[0]
                result[row][position] = weights[row][position] * difference / (2.0 * step)
    return result
