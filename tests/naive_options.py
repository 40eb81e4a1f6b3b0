"""Naive twins of PEAR's options, of the controls and of the negatives, in the form of `tests/naive_objectives.py`."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from tests import naive, naive_objectives
from tests.naive import Ids, Mask, Matrix, clip, floored, sequences_of
from tests.naive_objectives import Fields, Twin, Weighting, log_loss

UNCLIPPED = (-math.inf, math.inf)


def share(log_weights: list[float], exponent: float) -> float:
    """(sum e^{a u})^2 / (n sum e^{2 a u})"""
    largest = max(log_weights)
    return naive.effective_sample_size([math.exp(exponent * (value - largest)) for value in log_weights])


def exponent_for(log_weights: list[float], target: float) -> float:
    """The largest a in [0, 1] with that share: on a grid of tenths, then on one of tenths between two of it, ..."""
    if share(log_weights, 1.0) >= target - 1e-12:
        return 1.0
    low, width = 0.0, 1.0
    for _ in range(16):
        width /= 10
        steps = 0
        while steps < 9 and share(log_weights, low + (steps + 1) * width) >= target:
            steps += 1
        low += steps * width
    return low


def log_ratios(target: Matrix, behavior: Matrix, mask: Mask) -> Matrix:
    return [
        [floored(p) - floored(b) if flag else 0.0 for p, b, flag in zip(*rows, strict=True)]
        for rows in zip(target, behavior, mask, strict=True)
    ]


def spread(values: Mapping[tuple[int, int], float], mask: Mask) -> Matrix:
    """One value a response token, by (row, position); 0 elsewhere."""
    result = [[0.0] * len(row) for row in mask]
    for (row, position), value in values.items():
        result[row][position] = value
    return result


def importance(
    fields: Fields,
    mask: Mask,
    ids: Ids | None,
    *,
    level: str,
    block_size: int = 1,
    gamma: float = 0.999,
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3),
    log_weight_clip: tuple[float, float] = (-10.0, 5.0),
    policy: str = "current",
    graded: bool = False,
    ess_target: float | None = None,
) -> Matrix:
    """exp(clip(a u)) R"""
    target = fields["log_probs" if policy == "current" else "ref_log_probs"]
    suffix = naive.log_importance_weights(
        log_ratios(target, fields["behavior_log_probs"], mask),
        mask,
        level=level,
        block_size=block_size,
        gamma=gamma,
        log_ratio_clip=log_ratio_clip,
        log_weight_clip=UNCLIPPED,
        segment_ids=ids,
    )
    tokens = [token for sequence in sequences_of(mask, ids) for token in sequence]
    exponent = 1.0
    if ess_target is not None and tokens:
        exponent = exponent_for([suffix[row][position] for row, position in tokens], ess_target)
    return spread(
        {
            (row, position): math.exp(clip(exponent * suffix[row][position], log_weight_clip))
            * (fields["reward"][row][position] if graded else 1.0)
            for row, position in tokens
        },
        mask,
    )


def single_step(
    fields: Fields,
    mask: Mask,
    ids: Ids | None,
    *,
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3),
    policy: str = "current",
) -> Matrix:
    target = fields["log_probs" if policy == "current" else "ref_log_probs"]
    ratios = log_ratios(target, fields["behavior_log_probs"], mask)
    return [
        [math.exp(clip(value, log_ratio_clip)) if flag else 0.0 for value, flag in zip(*rows, strict=True)]
        for rows in zip(ratios, mask, strict=True)
    ]


def position_mean(fields: Fields, mask: Mask, ids: Ids | None, *, of: Weighting) -> Matrix:
    weights = of(fields, mask, ids)
    sequences = sequences_of(mask, ids)
    values = {}
    for tokens in sequences:
        for index, token in enumerate(tokens):
            distance = len(tokens) - 1 - index
            same = [other[-1 - distance] for other in sequences if len(other) > distance]
            values[token] = math.fsum(weights[row][position] for row, position in same) / len(same)
    return spread(values, mask)


def permuted(fields: Fields, mask: Mask, ids: Ids | None, *, of: Weighting, seed: int = 0) -> Matrix:
    weights = of(fields, mask, ids)
    columns = [fields[name] for name in ("behavior_log_probs", "log_probs") if name in fields] + [weights]

    def content(tokens: list[tuple[int, int]]) -> tuple[int, list[list[float]]]:
        return len(tokens), [[column[row][position] for row, position in tokens] for column in columns]

    sequences = sorted((tokens for tokens in sequences_of(mask, ids) if tokens), key=content)
    keys = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(seed)).tolist()
    in_key_order = [tokens for _, tokens in sorted(zip(keys, sequences, strict=True))]
    values = {}
    for distance in range(max(map(len, sequences), default=0)):
        ring = [tokens[-1 - distance] for tokens in in_key_order if len(tokens) > distance]
        for place, token in enumerate(ring):
            row, position = ring[(place + 1) % len(ring)]
            values[token] = weights[row][position]
    return spread(values, mask)


def tail(fields: Fields, mask: Mask, ids: Ids | None, *, tokens: int = 8) -> Matrix:
    return spread({token: 1.0 for sequence in sequences_of(mask, ids) for token in sequence[-tokens:]}, mask)


def negatives(
    fields: Fields,
    mask: Mask,
    ids: Ids | None,
    *,
    positive: Weighting,
    negative_weight: float = 0.1,
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3),
    log_weight_clip: tuple[float, float] = (-10.0, 5.0),
    release: float = 10.0,
) -> Matrix:
    """w N / N+ at positives, -lambda G^- N / N- at negatives; N, N+ and N- of what is given."""

    def only(negative: bool) -> Mask:
        return [
            [flag and bool(marked) == negative for flag, marked in zip(*rows, strict=True)]
            for rows in zip(mask, fields["is_negative"], strict=True)
        ]

    kept, pushed = only(False), only(True)
    number, number_kept, number_pushed = (sum(map(sum, chosen)) for chosen in (mask, kept, pushed))
    own = positive(fields, kept, ids)
    ratios = log_ratios(fields["log_probs"], fields["behavior_log_probs"], pushed)
    values = {}
    for sequence in sequences_of(kept, ids):
        for row, position in sequence:
            values[row, position] = own[row][position] * number / number_kept
    for sequence in sequences_of(pushed, ids):
        log_weight = math.fsum(clip(ratios[row][position], log_ratio_clip) for row, position in sequence)
        weight = math.exp(clip(log_weight, log_weight_clip))
        for row, position in sequence:
            if -fields["log_probs"][row][position] <= release:
                values[row, position] = -negative_weight * weight * number / number_pushed
    return spread(values, mask)


def _importance(level: str, **defaults: Any) -> Callable[..., Twin]:
    return lambda **settings: Twin(log_loss, partial(importance, level=level, **{**defaults, **settings}))


def _control(rearranged: Callable[..., Matrix]) -> Callable[..., Twin]:
    def make(
        weighting_of: str = "pear_token", weighting_kwargs: Mapping[str, Any] | None = None, **settings: Any
    ) -> Twin:
        wrapped = twin_of(weighting_of, weighting_kwargs or {})
        return Twin(wrapped.base, partial(rearranged, of=wrapped.weighting, **settings))

    return make


def _negatives(positive: str = "pear_token", positive_kwargs: Mapping[str, Any] | None = None, **settings: Any) -> Twin:
    wrapped = twin_of(positive, positive_kwargs or {})
    return Twin(wrapped.base, partial(negatives, positive=wrapped.weighting, **settings))


TWINS: dict[str, Callable[..., Twin]] = {
    "pear_token": _importance("token"),
    "pear_block": _importance("block", block_size=8),
    "pear_sequence": _importance("sequence"),
    "single_step_is": lambda **settings: Twin(log_loss, partial(single_step, **settings)),
    "position_mean": _control(position_mean),
    "permuted": _control(permuted),
    "tail_nll": lambda **settings: Twin(log_loss, partial(tail, **settings)),
    "negatives": _negatives,
}


def twin_of(name: str, settings: Mapping[str, Any]) -> Twin:
    return TWINS[name](**settings) if name in TWINS else naive_objectives.twin_of(name, settings)
