"""Importance weights of PEAR (arXiv 2602.01058, Algorithm 1 and Sections 3.3 to 3.7), in log space."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64
from torch import Tensor

from pear.ops.losses import LOG_PROB_FLOOR
from pear.ops.masking import (
    Sequences,
    check_floating,
    check_mask,
    check_shape,
    find_sequences,
    in_float64,
    keep_bits,
    keep_response,
    step_function,
)

Level = Literal["token", "block", "sequence"]
"""What one weight is shared by: each token, each block of `block_size` tokens, or the whole sequence."""


def check_clip(name: str, bounds: tuple[float, float]) -> None:
    """Raises `ValueError` unless `bounds` is (low, high) with low <= high; infinite bounds switch a side off."""
    if len(bounds) != 2 or not bounds[0] <= bounds[1]:
        raise ValueError(f"{name} must be (low, high) with low <= high. Got {tuple(bounds)}.")


def check_weighting(
    *,
    level: str,
    block_size: int = 1,
    gamma: float = 1.0,
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3),
    log_weight_clip: tuple[float, float] = (-10.0, 5.0),
) -> None:
    """Raises `ValueError` for a hyper-parameter outside its domain (Algorithm 1, "Require")."""
    if level not in get_args(Level):
        raise ValueError(f"level must be one of {', '.join(get_args(Level))}. Got {level!r}.")
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be an integer of at least 1. Got {block_size!r}.")
    if not 0.0 < gamma <= 1.0:
        raise ValueError(f"gamma must be above 0 and at most 1. Got {gamma!r}.")
    check_clip("log_ratio_clip", log_ratio_clip)
    check_clip("log_weight_clip", log_weight_clip)


def log_ratios(
    log_probs: Float[Tensor, "batch seq"],
    behavior_log_probs: Float[Tensor, "batch seq"],
    *,
    response_mask: Bool[Tensor, "batch seq"],
) -> Float64[Tensor, "batch seq"]:
    """Log-ratio of the target to the behavior policy, token by token.

        log Delta_t = max(log pi_theta(y_t | x, y_<t), -1e4) - max(log pi_beta(y_t | x, y_<t), -1e4)

    Source: arXiv 2602.01058, Section 3.3. The floor is ours: the target may give a token probability 0.

    Args:
        log_probs: target policy, (batch, seq), nats; -inf is allowed.
        behavior_log_probs: behavior policy, same shape; it drew these tokens, so it must be finite.
        response_mask: True at response tokens. Other positions may hold anything.

    Returns:
        Detached float64 (batch, seq), 0 at masked positions.

    Raises:
        ValueError: shapes differ, or a value at a response token is NaN or infinite (names the row).

    >>> log_ratios(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.0]]), response_mask=torch.ones(1, 2) > 0)
    tensor([[0.5000, 0.0000]], dtype=torch.float64)
    """
    check_mask(response_mask, log_probs)
    check_shape("behavior_log_probs", behavior_log_probs, log_probs)
    # The floor goes first, because it makes -inf usable and leaves NaN and +inf to be refused.
    target = keep_response("log_probs", log_probs.detach().clamp(min=LOG_PROB_FLOOR), response_mask)
    behavior = keep_response("behavior_log_probs", behavior_log_probs.detach(), response_mask)
    return in_float64(target) - in_float64(behavior).clamp(min=LOG_PROB_FLOOR)


def clipped_log_ratios(
    log_ratio: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    *,
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3),
) -> Float64[Tensor, "batch seq"]:
    """delta_t = clip(log Delta_t, low, high): Algorithm 1, line 3. Detached float64, 0 at masked positions.

    Raises:
        ValueError: shapes or bounds are wrong, or a log-ratio at a response token is not finite (names the row).

    >>> clipped_log_ratios(torch.tensor([[-0.5, 0.1]]), torch.tensor([[True, True]]))
    tensor([[-0.0800,  0.1000]], dtype=torch.float64)
    """
    check_floating("log_ratio", log_ratio)
    check_mask(response_mask, log_ratio)
    check_clip("log_ratio_clip", log_ratio_clip)
    kept = in_float64(keep_response("log_ratio", log_ratio.detach(), response_mask))
    # Clipping may move the zeros at masked positions; everything is finite here, so a product puts them back.
    return kept.clamp_(*log_ratio_clip).mul_(in_float64(response_mask))


def precise_log_weights(
    log_ratio: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    *,
    level: Level,
    block_size: int = 1,
    gamma: float = 0.999,
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3),
    log_weight_clip: tuple[float, float] = (-10.0, 5.0),
    segment_ids: Int[Tensor, "batch seq"] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "batch seq"]:
    """`log_importance_weights` in another `dtype`, on the CPU where the device has no float64."""
    check_weighting(
        level=level,
        block_size=block_size,
        gamma=gamma,
        log_ratio_clip=log_ratio_clip,
        log_weight_clip=log_weight_clip,
    )
    check_floating("log_ratio", log_ratio)
    check_mask(response_mask, log_ratio, segment_ids)
    if log_ratio.numel() == 0:
        return log_ratio.detach().to(dtype)
    device = torch.device("cpu") if log_ratio.device.type == "mps" else log_ratio.device
    sequences = find_sequences(response_mask, segment_ids).to(device)
    ratios, mask = log_ratio.detach().reshape(-1).to(device), response_mask.reshape(-1).to(device)
    if block_size == 1 and level == "block":
        level = "token"
    # Sequences are independent. On a CPU a part that fits the cache, in memory that is used again, is several times
    # faster than the whole batch; elsewhere the whole batch is one part.
    total = mask.numel()
    piece = _CPU_PART if device.type == "cpu" else total
    parts = list(sequences.parts(piece))
    longest = max(end - first for first, end, _ in parts)
    memory, scratch = torch.empty(2, longest, dtype=torch.float64, device=device)
    result = torch.empty(total, dtype=dtype, device=device)

    def shown(at: slice) -> Int64[Tensor, " position"]:
        chosen = mask[at].view(torch.uint8)
        return scratch.view(torch.int64)[: len(chosen)].copy_(chosen).neg_()

    for first, end, of_part in parts:
        values, spread = memory[: end - first], scratch[: end - first]
        inside = [slice(at, min(at + piece, end)) for at in range(first, end, piece)]
        for at in inside:
            steps = values[at.start - first : at.stop - first].copy_(ratios[at])
            kept = shown(at)
            if not bool(torch.stack(torch.aminmax(keep_bits(steps, kept))).isfinite().all()):
                keep_response("log_ratio", log_ratio.detach(), response_mask)  # names the row
            steps.clamp_(*log_ratio_clip)
            if level == "token":
                steps.add_(math.log(gamma))
            keep_bits(steps, kept)
        if level == "sequence":
            log_weights = _whole_sequence(values, of_part, spread)
        elif level == "token":
            log_weights = _suffix(values, of_part, spread)
        else:
            log_weights = _block_suffix(values, mask[first:end], of_part, spread, block_size, math.log(gamma))
        log_weights.clamp_(*log_weight_clip)
        for at in inside:
            result[at] = keep_bits(log_weights[at.start - first : at.stop - first], shown(at))
    return result.view_as(log_ratio)


_CPU_PART = 1 << 17
"""Positions that are worked on at once on a CPU: 1 MiB in float64. Much smaller and larger parts are slower."""


def _whole_sequence(
    steps: Float64[Tensor, " position"], sequences: Sequences, scratch: Float64[Tensor, " position"]
) -> Float64[Tensor, " position"]:
    """log w_{1:T} = sum_{t=1}^T delta_t (line 9): no discount. `steps` and `scratch` are used up."""
    prefix = steps.cumsum_(dim=0)
    totals = sequences.at_end(prefix) - sequences.before_start(prefix)
    return prefix.copy_(sequences.spread(totals, scratch))


def _suffix(
    steps: Float64[Tensor, " position"], sequences: Sequences, scratch: Float64[Tensor, " position"]
) -> Float64[Tensor, " position"]:
    """sum_{j>t} steps_j within each sequence. `steps` and `scratch` are used up.

    With steps delta_j + log gamma it is line 16, gamma^{T-t} being one factor for each later response token:
    (T - t) log gamma + sum_{j>t} delta_j = sum_{j>t} (delta_j + log gamma).
    """
    prefix = steps.cumsum_(dim=0)
    return torch.sub(sequences.spread(sequences.at_end(prefix), scratch), prefix, out=prefix)


def _block_suffix(
    steps: Float64[Tensor, " position"],
    mask: Bool[Tensor, " position"],
    sequences: Sequences,
    scratch: Float64[Tensor, " position"],
    block_size: int,
    log_gamma: float,
) -> Float64[Tensor, " position"]:
    """(T - e_k) log gamma + sum_{j>e_k} delta_j for each response token, e_k the end of its block (line 16).

    `steps` holds delta; it and `scratch` are used up. Blocks lie on the response tokens of all sequences end to end,
    ranked from 0, so holes do not matter; `positions` says where those tokens are.
    """
    prefix = steps.cumsum_(dim=0)
    positions = mask.nonzero().squeeze(1)
    first = torch.searchsorted(positions, sequences.starts)
    end = torch.cat([first[1:], first.new_tensor([len(positions)])])
    num_blocks = (end - first + block_size - 1) // block_size
    blocks_through = num_blocks.cumsum(0)
    totals = torch.add(sequences.at_end(prefix), end, alpha=log_gamma)
    # From here one element is one block. Block i of a sequence starts at its response token i x block_size.
    shift = first - (blocks_through - num_blocks) * block_size
    ranks = torch.arange(int(blocks_through[-1]), device=prefix.device) * block_size
    ranks += shift.repeat_interleave(num_blocks)
    starts = positions[ranks]
    suffix = totals.repeat_interleave(num_blocks)
    # The prefix just before the next block starts is that at e_k, and the next block's rank is e_k in response tokens.
    # A sequence's last block has an empty suffix, and a sequence without tokens points at the last block before it.
    suffix[:-1] -= torch.add(prefix[starts[1:] - 1], ranks[1:], alpha=log_gamma)
    suffix[(blocks_through - 1)[blocks_through > 0]] = 0.0
    return prefix.copy_(step_function(starts, suffix, out=scratch))


def log_importance_weights(
    log_ratio: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    *,
    level: Level,
    block_size: int = 1,
    gamma: float = 0.999,
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3),
    log_weight_clip: tuple[float, float] = (-10.0, 5.0),
    segment_ids: Int[Tensor, "batch seq"] | None = None,
) -> Float32[Tensor, "batch seq"]:
    """Clipped log-weights of PEAR, log G-hat, for padded and packed batches.

        delta_t = clip(log Delta_t, *log_ratio_clip)
        token:     log G_t = (T - t)   log gamma + sum_{j>t}   delta_j
        block:     log G_t = (T - e_k) log gamma + sum_{j>e_k} delta_j,   e_k the last token of t's block
        sequence:  log G_t = sum_{j=1}^T delta_j
        log G-hat = clip(log G, *log_weight_clip)

    Source: arXiv 2602.01058, Algorithm 1 and Sections 3.3 to 3.7; clips, discount and defaults of Section 4.2, which
    clips log G where Algorithm 1 clips G. Accumulated in float64: float32 errs by 1e-4 over 32,768 packed tokens.

    Args:
        log_ratio: log pi_theta - log pi_beta, (batch, seq), nats. No gradient flows into it.
        response_mask: bool, same shape. Masked positions may hold anything and count neither in products, blocks and
            discount nor in T, also inside a sequence.
        level: "token", "block" or "sequence".
        block_size: response tokens in a block, counted from the sequence's first; 1 is token level, T or more SFT.
        gamma: discount in (0, 1] for each later response token; unused at sequence level.
        log_ratio_clip: (low, high) for log Delta_t; infinite bounds switch a side off.
        log_weight_clip: (low, high) for log G; likewise.
        segment_ids: any ints, same shape, equal and contiguous per sequence of a packed row; each change starts a new
            sequence. None: one sequence a row.

    Returns:
        Float32 (batch, seq), detached, 0 at masked positions.

    Raises:
        ValueError: a shape, dtype or hyper-parameter is wrong, or a log-ratio at a response token is not finite.

    >>> log_ratio = torch.tensor([[0.1, 0.2, -0.05, float("nan")]])
    >>> response_mask = torch.tensor([[True, True, True, False]])
    >>> log_importance_weights(log_ratio, response_mask, level="token", gamma=1.0)
    tensor([[ 0.1500, -0.0500,  0.0000,  0.0000]])
    """
    log_weights = precise_log_weights(
        log_ratio,
        response_mask,
        level=level,
        block_size=block_size,
        gamma=gamma,
        log_ratio_clip=log_ratio_clip,
        log_weight_clip=log_weight_clip,
        segment_ids=segment_ids,
        dtype=torch.float32,
    )
    return log_weights.to(log_ratio.device)
