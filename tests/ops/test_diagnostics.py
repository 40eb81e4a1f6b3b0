"""The sums that describe weights: against naive loops, and additive over batches."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from pear.objectives import OBJECTIVES, TokenBatch
from pear.objectives.step import prepare_step
from pear.ops.diagnostics import WeightSums, effective_sample_size, sum_clipped, sum_weights
from tests import naive

IDS = torch.tensor([[0] * 9 + [1] * 14 + [0] * 7] * 4)


def random_batch(seed: int) -> TokenBatch:
    torch.manual_seed(seed)
    log_probs = -torch.rand(4, 30).double()
    return TokenBatch(
        log_probs,
        torch.rand(4, 30) < 0.8,
        behavior_log_probs=log_probs + 0.3 * torch.randn(4, 30).double(),
        segment_ids=IDS,
    )


def with_every_field(batch: TokenBatch) -> TokenBatch:
    """What any objective may ask for."""
    reference, old, divergence, entropy = torch.rand(4, 4, 30).double()
    reward = torch.rand(4, 1).double().expand(4, 30)
    return dataclasses.replace(
        batch, ref_log_probs=-reference, old_log_probs=-old, divergence=divergence, entropy=entropy, reward=reward
    )


def test_metrics_equal_the_naive_twin() -> None:
    batch = random_batch(0)
    mask, ids = batch.response_mask, IDS.tolist()
    clips = {"log_ratio_clip": (-0.1, 0.2), "log_weight_clip": (-0.4, 0.3)}
    metrics = OBJECTIVES["pear_token"](gamma=1.0, **clips).diagnostics(batch).metrics()
    assert batch.behavior_log_probs is not None
    ratio = batch.log_probs - batch.behavior_log_probs
    arguments = {"level": "token", "gamma": 1.0, "segment_ids": ids, "log_ratio_clip": clips["log_ratio_clip"]}
    before = torch.tensor(
        naive.log_importance_weights(
            ratio.tolist(),
            mask.tolist(),
            log_weight_clip=(-math.inf, math.inf),
            **arguments,  # type: ignore[arg-type]
        )
    ).double()
    log_weights = before.clamp(*clips["log_weight_clip"])
    weights = log_weights.exp()
    kept = weights[mask].tolist()
    assert metrics["weights/mean"] == pytest.approx(sum(kept) / len(kept), abs=1e-6)
    assert metrics["weights/effective_sample_size"] == pytest.approx(naive.effective_sample_size(kept), abs=1e-6)
    assert metrics["weights/trajectory_effective_sample_size"] == pytest.approx(
        naive.trajectory_effective_sample_size(weights.tolist(), mask.tolist(), ids), abs=1e-6
    )
    for q in (5, 25, 50, 75, 95):
        # On the grid of step 0.01.
        expected = np.quantile(log_weights[mask].numpy(), q / 100, method="inverted_cdf")
        assert metrics[f"weights/log_weight/q{q:02d}"] == pytest.approx(expected, abs=0.0051)
    # Within half a step of the grid, a weight is known to half a percent.
    assert metrics["weights/tokens_with_90_percent"] == pytest.approx(naive.tokens_with_90_percent(kept), abs=0.005)
    assert metrics["weights/last_tokens_with_90_percent"] == pytest.approx(
        naive.last_tokens_with_90_percent(weights.tolist(), mask.tolist(), ids), abs=1e-6
    )
    for distance in (0, 1, 2, 4, 8):
        at = naive.at_distance(log_weights.tolist(), mask.tolist(), ids, distance)
        for q in (5, 50, 95):
            # On the coarse grid of step 0.1.
            expected = naive.quantile(at, q / 100)
            assert metrics[f"weights/log_weight/distance_{distance}/q{q:02d}"] == pytest.approx(expected, abs=0.051)
    assert "weights/log_weight/distance_16/q50" not in metrics
    assert metrics["weights/log_ratio/mean"] == pytest.approx(ratio[mask].mean().item(), abs=1e-10)
    for name, values, (low, high) in (
        ("log_ratio", ratio[mask], clips["log_ratio_clip"]),
        ("log_weight", before[mask], clips["log_weight_clip"]),
    ):
        assert metrics[f"weights/clipped/{name}_low"] == pytest.approx((values < low).double().mean().item())
        assert metrics[f"weights/clipped/{name}_high"] == pytest.approx((values > high).double().mean().item())
        assert metrics[f"weights/clipped/{name}_low"] > 0


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_sums_add_up_over_micro_batches_and_survive_the_wire(name: str) -> None:
    objective = OBJECTIVES[name]()
    batch = with_every_field(random_batch(1))
    if "is_negative" in objective.requires:
        batch = dataclasses.replace(batch, is_negative=IDS == 1)
    (whole,) = prepare_step(objective, [batch])[0]
    columns = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    given = {key: value for key, value in columns.items() if value is not None}
    halves = [TokenBatch(**{key: value[rows] for key, value in given.items()}) for rows in (slice(0, 1), slice(1, 4))]
    parts = [objective.diagnostics(half) for half in prepare_step(objective, halves)[0]]
    total = WeightSums.from_vector(parts[0].to_vector() + parts[1].to_vector())
    torch.testing.assert_close(total.to_vector(), (parts[0] + parts[1]).to_vector())
    torch.testing.assert_close(total.to_vector(), objective.diagnostics(whole).to_vector())
    assert total.metrics().keys() == objective.diagnostics(whole).metrics().keys()


def test_plain_sft_has_weights_of_one_and_no_ratios() -> None:
    metrics = OBJECTIVES["nll"]().diagnostics(random_batch(2)).metrics()
    assert metrics == {
        "weights/mean": 1.0,
        "weights/effective_sample_size": 1.0,
        "weights/trajectory_effective_sample_size": 1.0,
        "weights/tokens_with_90_percent": pytest.approx(0.9),
        "weights/last_tokens_with_90_percent": pytest.approx(0.9),
        **{f"weights/log_weight/q{q:02d}": 0.0 for q in (5, 25, 50, 75, 95)},
        **{f"weights/log_weight/distance_{d}/q{q:02d}": 0.0 for d in (0, 1, 2, 4, 8) for q in (5, 50, 95)},
    }


def test_distances_that_one_trajectory_has_alone_say_nothing_between_trajectories() -> None:
    weights = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    key = "weights/trajectory_effective_sample_size"
    assert sum_weights(weights, mask).metrics()[key] == pytest.approx(4.0**2 / (2 * 10.0))
    assert key not in sum_weights(weights[:1], mask[:1]).metrics()


def test_an_empty_mask_has_no_metrics() -> None:
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert sum_weights(torch.full((2, 3), math.nan), mask).metrics() == {}
    assert effective_sample_size(torch.ones(2, 3), mask) == 0


def test_effective_sample_size_of_tokens() -> None:
    torch.manual_seed(0)
    weights, mask = torch.rand(3, 8).double(), torch.rand(3, 8) < 0.6
    dirty = torch.where(mask, weights, math.nan)
    assert effective_sample_size(dirty, mask).item() == pytest.approx(
        naive.effective_sample_size(weights[mask].tolist())
    )


def test_quantiles_reach_the_clip_bounds_exactly() -> None:
    batch = random_batch(3)
    far = TokenBatch(batch.log_probs, torch.ones(4, 30, dtype=torch.bool), behavior_log_probs=batch.log_probs + 5.0)
    metrics = OBJECTIVES["pear_sequence"](log_ratio_clip=(-9.0, 9.0)).diagnostics(far).metrics()
    assert metrics["weights/log_weight/q50"] == -10.0
    assert metrics["weights/clipped/log_weight_low"] == 1.0


def test_a_value_on_its_bound_is_not_clipped() -> None:
    values, mask = torch.tensor([[-0.5, -0.25, 0.0, 0.5, 1.0]]), torch.ones(1, 5, dtype=torch.bool)
    sums = sum_clipped(
        sum_weights(values.exp(), mask),
        values,
        mask,
        log_ratio_clip=(-0.25, 0.5),
        log_weights=values,
        log_weight_clip=(0.0, 1.0),
    )
    clipped = {key: value for key, value in sums.metrics().items() if key.startswith("weights/clipped/")}
    assert clipped == {
        "weights/clipped/log_ratio_low": 0.2,
        "weights/clipped/log_ratio_high": 0.2,
        "weights/clipped/log_weight_low": 0.4,
        "weights/clipped/log_weight_high": 0.0,
    }


def test_the_share_of_tokens_with_90_percent_is_exact_on_the_grid() -> None:
    weights = [[math.exp(value) for value in (0.0, -0.5, -0.5, -2.0, 1.25, 1.25, -7.0)] + [0.0, 0.0]]
    mask = torch.ones(1, 9, dtype=torch.bool)
    metrics = sum_weights(torch.tensor(weights).double(), mask).metrics()
    assert metrics["weights/tokens_with_90_percent"] == pytest.approx(naive.tokens_with_90_percent(weights[0]))
    assert metrics["weights/last_tokens_with_90_percent"] == pytest.approx(
        naive.last_tokens_with_90_percent(weights, mask.tolist(), None)
    )


def test_weights_of_zero_hold_nothing() -> None:
    mask = torch.ones(1, 8, dtype=torch.bool)
    kept = torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 3.0, 0.0]])
    for scale in (1.0, math.exp(-19.0)):
        metrics = sum_weights(scale * kept, mask).metrics()
        assert metrics["weights/tokens_with_90_percent"] == pytest.approx(0.9 * 2 / 8)
    assert sum_weights(torch.full((1, 8), 1e-12), mask).metrics()["weights/tokens_with_90_percent"] == pytest.approx(
        0.9
    )
    nothing = sum_weights(torch.zeros(1, 8), mask).metrics()
    assert nothing["weights/mean"] == 0
    assert not [key for key in nothing if key.endswith("with_90_percent")]


@pytest.mark.parametrize("weight", [-0.5, math.nan])
def test_weights_that_no_share_can_be_taken_of_are_refused(weight: float) -> None:
    weights, mask = torch.tensor([[1.0, weight, 2.0]]), torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="negative or NaN"):
        sum_weights(weights, mask)
    mask[0, 1] = False
    assert sum_weights(weights, mask).metrics()["weights/mean"] == 1.5


def test_tokens_far_from_the_end_are_counted_once() -> None:
    length = 2**17 + 3
    sums = sum_weights(torch.ones(1, length), torch.ones(1, length, dtype=torch.bool))
    assert sums.tokens_in_range.tolist() == [1.0, *(2.0**place for place in range(16)), length - 2.0**16]
    assert sums.weights_in_range.tolist() == sums.tokens_in_range.tolist()
    assert sums.tokens_at_distance.tolist() == [1.0] * 17
