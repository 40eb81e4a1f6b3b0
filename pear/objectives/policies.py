"""Whose log-probs stand in the ratios, and the reward of a trajectory: what weightings by importance ratios share."""

from typing import Literal

from jaxtyping import Float64
from torch import Tensor

from pear.objectives.batch import TokenBatch, behavior_log_ratios, ratios_of
from pear.ops.losses import LOG_PROB_FLOOR
from pear.ops.masking import in_float64, keep_response

Policy = Literal["current", "reference"]
"""Which theta the ratios use: the model that is trained, without gradient, or the frozen reference."""

POLICIES: dict[str, frozenset[str]] = {
    "current": frozenset({"behavior_log_probs"}),
    "reference": frozenset({"behavior_log_probs", "ref_log_probs"}),
}
"""The fields of `TokenBatch` that each needs."""


def check_policy(policy: str) -> None:
    """Raises `ValueError` for a policy that is neither."""
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}. Got {policy!r}.")


def policy_log_ratios(batch: TokenBatch, policy: Policy) -> Float64[Tensor, "batch seq"]:
    """log pi_theta - log pi_beta, detached, 0 at masked positions, theta being the current model or the reference.

    Raises:
        ValueError: a log-prob at a response token is not finite (names the row).
    """
    if policy == "current":
        return behavior_log_ratios(batch)
    assert batch.ref_log_probs is not None
    floored = batch.ref_log_probs.detach().clamp(min=LOG_PROB_FLOOR)
    target = keep_response("ref_log_probs", floored, batch.response_mask)
    return ratios_of(batch, target)


def graded_rewards(batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
    """R(tau) of each response token's trajectory (arXiv 2602.01058, Appendix C), 0 at masked positions.

    Raises:
        ValueError: a reward at a response token is not finite or below 0 (names the row).
    """
    assert batch.reward is not None
    rewards = in_float64(keep_response("reward", batch.reward.detach(), batch.response_mask))
    below = rewards < 0
    if bool(below.any()):
        row, position = below.nonzero()[0].tolist()
        raise ValueError(
            f"reward must be at least 0 at response tokens. Row {row} has {rewards[row, position].item()} at "
            f"position {position} (rows affected: {int(below.any(dim=1).sum())})."
        )
    return rewards
