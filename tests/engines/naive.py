"""Float64 loops over single tokens: what sampling and scoring must agree with. Never imports `pear.engines`."""

import math
from collections.abc import Sequence
from typing import Any

import torch


def next_logits(model: Any, ids: Sequence[int]) -> list[float]:
    """The logits after `ids`, from a forward pass over them alone, without padding, mask or cache."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1].double().tolist()


def log_softmax(logits: Sequence[float]) -> list[float]:
    largest = max(logits)
    total = math.log(sum(math.exp(value - largest) for value in logits)) + largest
    return [value - total for value in logits]


def truncated(logits: Sequence[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """Log-probs after temperature, then top-k, then top-p: the smallest set of likeliest tokens with mass top_p."""
    scores = [value / temperature for value in logits]
    order = sorted(range(len(scores)), key=lambda token: -scores[token])
    if top_k:
        order = order[:top_k]
    log_probs = log_softmax([scores[token] for token in order])
    kept, mass = [], 0.0
    for token, value in zip(order, log_probs, strict=True):
        if mass >= top_p:
            break
        kept.append(token)
        mass += math.exp(value)
    result = [-math.inf] * len(scores)
    for token, value in zip(kept, log_softmax([scores[token] for token in kept]), strict=True):
        result[token] = value
    return result


def score(model: Any, prompt: Sequence[int], completion: Sequence[int], *sampling: float) -> list[float]:
    """The log-prob of every completion token; with (temperature, top_k, top_p), under that distribution."""
    values = []
    for place, token in enumerate(completion):
        logits = next_logits(model, [*prompt, *completion[:place]])
        log_probs = truncated(logits, sampling[0], int(sampling[1]), sampling[2]) if sampling else log_softmax(logits)
        values.append(log_probs[token])
    return values


def greedy(model: Any, prompt: Sequence[int], stops: Sequence[int], max_tokens: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < max_tokens:
        logits = next_logits(model, [*prompt, *ids])
        ids.append(logits.index(max(logits)))
        if ids[-1] in stops:
            break
    return ids
