"""One exponent that tempers the weights of a whole optimizer step to a wanted effective sample size."""

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from pear.ops.masking import check_floating, check_mask, in_float64, keep_response

_ROUNDING = 1e-12
"""A share this close below the target counts as the target: equal weights have 1 but for rounding."""

_HALVINGS = 60
"""Leaves an interval of 1e-18, so that a times the longest log-weights there are, 1e8, is known to 1e-10."""


def check_ess_target(ess_target: float) -> None:
    """Raises `ValueError` unless the share is above 0 and at most 1."""
    if not 0.0 < ess_target <= 1.0:
        raise ValueError(f"ess_target must be above 0 and at most 1. Got {ess_target!r}.")


def log_effective_sample_size(
    log_weights: Float[Tensor, "batch seq"], response_mask: Bool[Tensor, "batch seq"], *, exponent: float = 1.0
) -> float:
    """Effective share of the response tokens (Kish) under the weights exp(a u), from their logarithms u.

        n_eff(a) / n = (sum_t e^{a u_t})^2 / (n sum_t e^{2 a u_t})

    Equals `pear.ops.diagnostics.effective_sample_size` of exp(a u), and is finite for any finite u.

    Args:
        log_weights: u, (batch, seq), nats. Masked positions may hold anything.
        response_mask: bool, same shape.
        exponent: a, at least 0.

    Returns:
        A share in (0, 1]; 0 for an empty mask.

    Raises:
        ValueError: shapes or dtypes do not fit, or u at a response token is not finite (names the row).

    >>> u = torch.tensor([[0.0, -2000.0]])
    >>> log_effective_sample_size(u, torch.tensor([[True, True]]))
    0.5
    """
    values, counts = _distinct(log_weights, response_mask)
    return _share(values, counts, exponent) if len(values) else 0.0


def tempering_exponent(
    log_weights: Float[Tensor, "batch seq"], response_mask: Bool[Tensor, "batch seq"], *, ess_target: float
) -> float:
    """The largest exponent a in [0, 1] at which the weights exp(a u) have the wanted effective sample size.

        a = max {a in [0, 1] : n_eff(a) / n >= ess_target}

    Found by bisection: with K(a) = log mean e^{a u}, log(n_eff(a) / n) = 2 K(a) - K(2a) falls in a, since K is convex.
    After clipping it need not. Source: ours. Tempering of importance weights by one exponent is known from annealed
    importance sampling and adaptive sequential Monte Carlo.

    It evens the weights out and does not set their size. A model under which all trajectories are equally unlikely
    keeps small weights: read their mean beside the exponent.

    Args:
        log_weights: u, (batch, seq), nats, not clipped. Masked positions may hold anything.
        response_mask: bool, same shape; all of the optimizer step's response tokens.
        ess_target: the wanted share, in (0, 1].

    Returns:
        a; 1 where the weights already have the target or there is no token, 0 where the target is 1 and they differ.

    Raises:
        ValueError: `ess_target` is outside its domain; else as `log_effective_sample_size`.

    >>> u = torch.tensor([[0.0, -2.0, -4.0, -6.0]])
    >>> mask = torch.ones(1, 4) > 0
    >>> a = tempering_exponent(u, mask, ess_target=0.7)
    >>> round(a, 3), round(log_effective_sample_size(u, mask, exponent=a), 6)
    (0.313, 0.7)
    """
    check_ess_target(ess_target)
    values, counts = _distinct(log_weights, response_mask)
    wanted = ess_target - _ROUNDING
    if len(values) == 0 or _share(values, counts, 1.0) >= wanted:
        return 1.0
    if ess_target == 1.0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _share(values, counts, middle) >= wanted:
            low = middle
        else:
            high = middle
    return low


def _distinct(
    log_weights: Float[Tensor, "batch seq"], response_mask: Bool[Tensor, "batch seq"]
) -> tuple[Float64[Tensor, " value"], Int64[Tensor, " value"]]:
    """Runs of equal values of the response tokens, minus their largest, and how long each run is.

    All tokens of a block or a sequence share a value, which makes the bisection there many times faster.
    """
    check_floating("log_weights", log_weights)
    check_mask(response_mask, log_weights)
    kept = in_float64(keep_response("log_weights", log_weights.detach(), response_mask))
    values, counts = torch.unique_consecutive(kept[response_mask.to(kept.device)], return_counts=True)
    return (values - values.max() if len(values) else values), counts


def _share(values: Float64[Tensor, " value"], counts: Int64[Tensor, " value"], exponent: float) -> float:
    # The largest value is 0, so that the sum of squares is at least 1 and nothing overflows.
    weights = (values * exponent).exp()
    total, squares = (counts * weights).sum(), (counts * weights.square()).sum()
    return (total.square() / (counts.sum() * squares)).item()
