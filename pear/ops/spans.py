"""Ratios that are known for spans of tokens alone, because the behavior policy has another tokenizer.

Both tokenisations of a completion are cut where they have a text boundary in common. What lies between two cuts is a
span: several tokens of the target's, several of the behavior policy's, one text. Its log-ratio is exact,

    log Delta_S = sum_{t in S} log pi_theta(y_t | x, y_<t) - log pi_beta(S | x, what is before S),

and that of a token inside of it is not defined. Rule, ours: each of the n tokens of a span has log Delta_S / n, so that
a clip of log-ratios acts on the span as a whole, and a block ends where a span does.
"""

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from pear.ops.masking import check_floating, check_mask, check_shape, find_sequences, in_float64, keep_response
from pear.ops.ratios import check_weighting, precise_log_weights


def pooled_log_ratios(
    log_ratio: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    spans: Int[Tensor, "batch seq"],
    *,
    segment_ids: Int[Tensor, "batch seq"] | None = None,
) -> Float64[Tensor, "batch seq"]:
    """The mean of the log-ratios of each token's span, so that their sum over the span is as it was.

    Args:
        log_ratio: log pi_theta - log pi_beta, (batch, seq), nats, of which only the sums over spans mean something.
        response_mask: bool, same shape. Masked positions may hold anything.
        spans: any ints, same shape, equal over a span; each change along a sequence's response tokens starts a span.
        segment_ids: as in `log_importance_weights`.

    Returns:
        Detached float64 (batch, seq), 0 at masked positions.

    Raises:
        ValueError: shapes or dtypes do not fit, or a log-ratio at a response token is not finite (names the row).

    >>> ratios = torch.tensor([[0.5, -0.25, 1.0]])
    >>> pooled_log_ratios(ratios, ratios == ratios, torch.tensor([[0, 0, 1]]))
    tensor([[0.1250, 0.1250, 1.0000]], dtype=torch.float64)
    """
    check_floating("log_ratio", log_ratio)
    check_mask(response_mask, log_ratio, segment_ids)
    kept = in_float64(keep_response("log_ratio", log_ratio.detach(), response_mask))
    positions, starts, _ = _find_spans(response_mask, spans, segment_ids)
    result = torch.zeros_like(kept)
    if len(positions) == 0:
        return result
    span = (starts.long().cumsum(0) - 1).to(kept.device)
    values = kept.reshape(-1)[positions.to(kept.device)]
    means = torch.zeros(int(span[-1]) + 1, dtype=kept.dtype, device=kept.device).index_add_(0, span, values)
    means /= torch.bincount(span)
    result.view(-1)[positions.to(kept.device)] = means[span]
    return result


def span_block_log_weights(
    log_ratio: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    spans: Int[Tensor, "batch seq"],
    *,
    block_size: int,
    gamma: float,
    log_ratio_clip: tuple[float, float],
    log_weight_clip: tuple[float, float],
    segment_ids: Int[Tensor, "batch seq"] | None = None,
) -> Float64[Tensor, "batch seq"]:
    """Log-weights of PEAR at block level (arXiv 2602.01058, Algorithm 1, line 16) with blocks that end where spans do.

        log G_t = (T - e_k) log gamma + sum_{j>e_k} delta_j,   e_k the last token of t's block

    A block ends at the end of each span that holds a multiple of `block_size` response tokens, counted from the
    sequence's first; so it has at least `block_size` tokens, but for the last, and spans of one token give the blocks
    of `log_importance_weights`. With `block_size=1` every span is a block.

    Args:
        log_ratio: what `pooled_log_ratios` returned.
        response_mask, spans, segment_ids: as there.
        block_size, gamma, log_ratio_clip, log_weight_clip: as in `log_importance_weights`.

    Returns:
        Detached float64 (batch, seq), 0 at masked positions.

    Raises:
        ValueError: as `log_importance_weights`.
    """
    check_weighting(level="block", block_size=block_size, gamma=gamma, log_weight_clip=log_weight_clip)
    suffix = precise_log_weights(
        log_ratio,
        response_mask,
        level="token",
        gamma=gamma,
        log_ratio_clip=log_ratio_clip,
        log_weight_clip=(-torch.inf, torch.inf),
        segment_ids=segment_ids,
    )
    positions, starts, rank = _find_spans(response_mask, spans, segment_ids)
    result = torch.zeros_like(suffix)
    if len(positions) == 0:
        return result
    # Of each span, the first and the last response token.
    first = starts.nonzero().squeeze(1)
    last = torch.cat([first[1:], first.new_tensor([len(positions)])]) - 1
    is_end = (rank[last] + 1) // block_size > rank[first] // block_size
    # The last span of a sequence ends one, whatever its length: the next span's first rank is 0, or there is none.
    is_end |= torch.cat([rank[first[1:]] == 0, is_end.new_ones(1)])
    ends = last[is_end]
    own = ends[torch.searchsorted(ends, torch.arange(len(positions), device=ends.device))]
    at = positions.to(suffix.device)
    result.view(-1)[at] = suffix.reshape(-1)[at[own.to(at.device)]].clamp(*log_weight_clip)
    return result


def _find_spans(
    response_mask: Bool[Tensor, "batch seq"],
    spans: Int[Tensor, "batch seq"],
    segment_ids: Int[Tensor, "batch seq"] | None,
) -> tuple[Int64[Tensor, " token"], Bool[Tensor, " token"], Int64[Tensor, " token"]]:
    """Of the response tokens: position in the rows laid end to end, whether a span starts, rank in the sequence."""
    check_shape("spans", spans, response_mask)
    if spans.dtype == torch.bool or spans.dtype.is_floating_point or spans.dtype.is_complex:
        raise ValueError(f"spans must be of an integer dtype. Got {spans.dtype}.")
    positions = response_mask.reshape(-1).nonzero().squeeze(1)
    sequences = find_sequences(response_mask, segment_ids)
    sequence = torch.searchsorted(sequences.starts.to(positions.device), positions, right=True)
    first = torch.ones_like(positions, dtype=torch.bool)
    torch.ne(sequence[1:], sequence[:-1], out=first[1:])
    chosen = spans.reshape(-1)[positions]
    starts = first.clone()
    starts[1:] |= chosen[1:] != chosen[:-1]
    number = torch.arange(len(positions), device=positions.device)
    rank = number - torch.where(first, number, 0).cummax(0).values if len(positions) else number
    return positions, starts, rank
