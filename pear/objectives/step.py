"""Weights that depend on a whole optimizer step: all its micro-batches, of all processes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pear.objectives.batch import FLOAT_FIELDS, TokenBatch
from pear.objectives.objective import Objective
from pear.ops.masking import find_sequences

Gather = Callable[[TokenBatch], tuple[Sequence[TokenBatch], int]]

NORMALIZERS = ("tokens", "weights", "sequences")


def prepare_step(
    objective: Objective, batches: Sequence[TokenBatch], *, gather: Gather | None = None, sum_weights: bool = False
) -> tuple[list[TokenBatch], dict[str, float]]:
    """An optimizer step's micro-batches with the step's counts and, where the objective asks for it, its weights.

    For a loop of one's own: call it on a step's batches, with log-probs from a pass without gradients, and put `step`
    and `step_weights` of what it returns into the batches of the pass with gradients. Without it every batch is its own
    step.

    Args:
        objective: whose weights.
        batches: this process's, in order; at least one.
        gather: with several processes: from this process's response tokens, as one packed row on the CPU, to those of
            every process in the order of their ranks, and this process's rank.
        sum_weights: whether to work the weights out in any case, for `StepCounts.sum_weights`.

    Returns:
        The batches with `step` and, for a `whole_step` weighting, `step_weights` (detached); and metrics of the step.
    """
    local = laid_end_to_end(batches)
    parts, place = ([local], 0) if gather is None else gather(local)
    step = laid_end_to_end(parts)
    counts = step.counts
    metrics: dict[str, float] = {}
    weights: Tensor | None = None
    weighting = objective.weighting()
    if weighting.whole_step or sum_weights:
        with torch.no_grad():
            weights = objective.weights(step)
            metrics = weighting.step_metrics(step)
        counts = replace(counts, sum_weights=weights.sum(dtype=torch.float64).item())
    if weights is None or not weighting.whole_step:
        return [replace(batch, step=counts) for batch in batches], metrics
    sizes = [part.log_probs.shape[1] for part in parts]
    start = sum(sizes[:place])
    own = weights[0, start : start + sizes[place]]
    result = []
    for batch in batches:
        size = int(batch.response_mask.sum())
        spread = torch.zeros(batch.log_probs.shape, dtype=weights.dtype, device=weights.device)
        spread[batch.response_mask.to(weights.device)] = own[:size]
        own = own[size:]
        result.append(replace(batch, step=counts, step_weights=spread.to(batch.log_probs.device)))
    return result, metrics


def laid_end_to_end(batches: Sequence[TokenBatch]) -> TokenBatch:
    """The response tokens of all batches as one packed row, (1, tokens), each sequence with its own segment id.

    Detached, on the CPU; without `step` and `step_weights`.
    """
    columns: dict[str, list[Tensor]] = {}
    segments = []
    number = 0
    for batch in batches:
        mask = batch.response_mask
        for name in ("log_probs", "is_negative", "spans", *FLOAT_FIELDS):
            values = getattr(batch, name)
            if values is not None and name != "step_weights":
                columns.setdefault(name, []).append(values.detach()[mask].cpu())
        sequences = find_sequences(mask, batch.segment_ids)
        ids = torch.arange(len(sequences.starts), device=mask.device).repeat_interleave(sequences.lengths)
        segments.append(ids[mask.reshape(-1)].cpu() + number)
        number += len(sequences.starts)
    row: dict[str, Any] = {
        name: torch.cat(values)[None] for name, values in columns.items() if len(values) == len(batches)
    }
    segment_ids = torch.cat(segments)[None]
    return TokenBatch(response_mask=torch.ones_like(segment_ids, dtype=torch.bool), segment_ids=segment_ids, **row)


def normalized(weights: Float[Tensor, "batch seq"], batch: TokenBatch, normalizer: str) -> Float[Tensor, "batch seq"]:
    """Weights after which the sum of weight x loss, divided by the step's tokens N, is normalized otherwise.

        tokens:     w_t                      L = sum w l / N
        weights:    w_t N / sum w            L = sum w l / sum w
        sequences:  w_t N / (S T_i)          L = the mean over the S sequences of (sum of w l) / T_i

    Args:
        weights: 0 at masked positions.
        batch: theirs, with `step`; for "weights" its `sum_weights` must be there.
        normalizer: one of `NORMALIZERS`.

    Raises:
        ValueError: the sum of weights is not above 0.
    """
    counts = batch.counts
    if normalizer == "tokens":
        return weights
    if normalizer == "weights":
        total = counts.sum_weights if batch.step is not None else weights.sum(dtype=torch.float64).item()
        if total is None or not total > 0:
            raise ValueError(f"Normalizing by the sum of weights needs a sum above 0. Got {total}.")
        return weights * (counts.num_tokens / total)
    if normalizer != "sequences":
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}. Got {normalizer!r}.")
    sequences = find_sequences(batch.response_mask, batch.segment_ids)
    prefix = batch.response_mask.reshape(-1).long().cumsum(0)
    lengths = sequences.at_end(prefix) - sequences.before_start(prefix)
    per_token = lengths.clamp(min=1).repeat_interleave(sequences.lengths).view_as(batch.response_mask)
    return weights * (counts.num_tokens / (max(counts.num_sequences, 1) * per_token.to(weights)))
