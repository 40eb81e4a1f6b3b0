"""Objectives where the behavior policy's log-probs are known for spans alone."""

import dataclasses

import pytest
import torch

from pear.objectives import OBJECTIVES, TokenBatch, make_objective, prepare_step
from pear.ops.spans import pooled_log_ratios, span_block_log_weights

SPANS = torch.tensor([[0, 0, 1, 2, 2, 2, 3, 4], [0, 1, 1, 1, 2, 2, 3, 3]])


ENOUGH = {"pear_block", "pear_sequence"}
# With the positives and the weights of `pear_token`, their default, the controls and `negatives` read what it reads.
OF_TOKENS = {"pear_token", "single_step_is", "negatives", "permuted", "position_mean"}


def batch(*, spans: bool) -> TokenBatch:
    torch.manual_seed(0)
    return TokenBatch(
        -torch.rand(2, 8, dtype=torch.float64),
        torch.ones(2, 8, dtype=torch.bool),
        behavior_log_probs=-torch.rand(2, 8, dtype=torch.float64),
        spans=SPANS if spans else None,
    )


def test_who_reads_the_ratios_of_tokens() -> None:
    reading = {name for name in OBJECTIVES if "behavior_log_probs" in make_objective(name, {}).requires}
    of_tokens = {name for name in OBJECTIVES if make_objective(name, {}).token_ratios}
    assert reading - of_tokens == ENOUGH
    assert of_tokens == OF_TOKENS


@pytest.mark.parametrize("name", ["pear_token", "single_step_is"])
def test_token_level_is_refused(name: str) -> None:
    objective = make_objective(name, {})
    for call in (objective, objective.diagnostics):
        with pytest.raises(ValueError, match="known for spans alone"):
            call(batch(spans=True))


def test_block_and_sequence_weigh_spans() -> None:
    given = batch(spans=True)
    ratio = given.log_probs - torch.as_tensor(given.behavior_log_probs)
    block = make_objective("pear_block", {"block_size": 3, "gamma": 0.9})
    pooled = pooled_log_ratios(ratio, given.response_mask, SPANS)
    expected = span_block_log_weights(
        pooled,
        given.response_mask,
        SPANS,
        block_size=3,
        gamma=0.9,
        log_ratio_clip=(-0.08, 0.3),
        log_weight_clip=(-10.0, 5.0),
    ).exp()
    torch.testing.assert_close(block.weights(given), expected)
    # Tokens of one span share a block, and so a weight.
    for row, spans in enumerate(SPANS):
        for number in spans.unique():
            assert block.weights(given)[row, spans == number].unique().numel() == 1
    assert not torch.allclose(block.weights(given), block.weights(batch(spans=False)))
    sequence = make_objective("pear_sequence", {})
    log_weight = pooled.clamp(-0.08, 0.3).sum(1).clamp(-10, 5)
    torch.testing.assert_close(sequence.weights(given), log_weight.exp()[:, None].expand(2, 8))


@pytest.mark.parametrize("policy", ["current", "reference"])
def test_the_reference_s_ratios_are_of_spans_too(policy: str) -> None:
    given = batch(spans=True)
    given = dataclasses.replace(given, ref_log_probs=given.log_probs)
    weights = make_objective("pear_block", {"block_size": 2, "policy": policy}).weights(given)
    torch.testing.assert_close(weights, make_objective("pear_block", {"block_size": 2}).weights(given))


def test_a_whole_step_keeps_its_spans() -> None:
    objective = make_objective("pear_block", {"block_size": 2, "ess_target": 0.95})
    whole = batch(spans=True)
    rows = [
        dataclasses.replace(
            whole,
            log_probs=whole.log_probs[row : row + 1],
            response_mask=whole.response_mask[row : row + 1],
            behavior_log_probs=torch.as_tensor(whole.behavior_log_probs)[row : row + 1],
            spans=SPANS[row : row + 1],
        )
        for row in range(2)
    ]
    ready, metrics = prepare_step(objective, rows)
    assert metrics["weights/exponent"] < 1
    torch.testing.assert_close(torch.cat([objective.weights(row) for row in ready]), objective.weights(whole))
