"""The controls against their naive twins, and the laws of averaging, exchanging and cutting."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pear.errors import UserError
from pear.objectives import OBJECTIVES, TokenBatch, make_objective, prepare_step
from pear.ops.masking import distance_from_end
from tests.objectives.test_options import (
    WIDE,
    assert_equals_twin,
    assert_ignores_what_is_masked,
    assert_keeps_dtypes,
    assert_same_in_any_layout,
    batch_of,
    gradient_of,
    random_fields,
    sequences_apart,
)

TEMPERED = {"ess_target": 0.9, **WIDE}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("position_mean", {}),
    ("position_mean", {"weighting_of": "talr"}),
    ("position_mean", {"weighting_of": "plain_p"}),
    ("position_mean", {"weighting_of": "pear_sequence", "weighting_kwargs": TEMPERED}),
    ("permuted", {}),
    ("permuted", {"weighting_of": "dft", "seed": 5}),
    ("permuted", {"weighting_of": "pear_sequence", "weighting_kwargs": TEMPERED, "seed": 2}),
    ("permuted", {"weighting_of": "pear_token", "weighting_kwargs": {"graded": True, "policy": "reference"}}),
    ("tail_nll", {"tokens": 3}),
    ("tail_nll", {}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_value_and_gradient_equal_the_naive_twin(name: str, settings: dict[str, Any]) -> None:
    fields = random_fields(0)
    assert_equals_twin(name, settings, fields)
    assert_equals_twin(name, settings, {**fields, "segment_ids": torch.zeros(4, 16, dtype=torch.long)})


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_layout_order_and_processes_change_nothing(name: str, settings: dict[str, Any]) -> None:
    assert_same_in_any_layout(OBJECTIVES[name](**settings), random_fields(1))


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_masked_garbage_changes_nothing(name: str, settings: dict[str, Any]) -> None:
    assert_ignores_what_is_masked(OBJECTIVES[name](**settings))


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_bf16(name: str, settings: dict[str, Any]) -> None:
    assert_keeps_dtypes(OBJECTIVES[name](**settings))


def by_distance(weights: Tensor, batch: TokenBatch) -> list[list[float]]:
    """The weights at each distance from the end, ascending."""
    distance = distance_from_end(batch.response_mask, segment_ids=batch.segment_ids)
    numbers = range(int(distance[batch.response_mask].max()) + 1)
    return [sorted(weights[batch.response_mask & (distance == d)].tolist()) for d in numbers]


@pytest.mark.parametrize("wrapped", ["pear_token", "pear_sequence", "single_step_is"])
@pytest.mark.parametrize("seed", [0, 1])
def test_exchanging_keeps_the_weights_of_each_distance(wrapped: str, seed: int) -> None:
    batch = batch_of(random_fields(2))
    own = OBJECTIVES[wrapped]()(batch).weights
    exchanged = OBJECTIVES["permuted"](weighting_of=wrapped, seed=seed)(batch).weights
    assert by_distance(exchanged, batch) == by_distance(own, batch)
    moved = (exchanged != own)[batch.response_mask]
    assert moved.double().mean() > 0.5


def test_exchanging_moves_whole_sequences_where_all_are_as_long() -> None:
    torch.manual_seed(3)
    log_probs = -torch.rand(6, 5, dtype=torch.float64)
    behavior = -torch.rand(6, 5, dtype=torch.float64)
    batch = TokenBatch(log_probs, torch.ones(6, 5, dtype=torch.bool), behavior_log_probs=behavior)
    own = OBJECTIVES["pear_token"]()(batch).weights.tolist()
    exchanged = OBJECTIVES["permuted"]()(batch).weights.tolist()
    assert sorted(exchanged) == sorted(own)
    assert all(mine != other for mine, other in zip(exchanged, own, strict=True))


def test_a_sequence_that_is_alone_at_a_distance_keeps_its_weights() -> None:
    fields = random_fields(4)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0], mask[1, :2] = True, True
    batch = TokenBatch(fields["log_probs"][:2, :9], mask, behavior_log_probs=fields["behavior_log_probs"][:2, :9])
    own = OBJECTIVES["pear_sequence"](**WIDE)(batch).weights
    for name in ("permuted", "position_mean"):
        control = OBJECTIVES[name](weighting_of="pear_sequence", weighting_kwargs=WIDE)(batch).weights
        torch.testing.assert_close(control[0, :7], own[0, :7])
        expected = own[1, 0] if name == "permuted" else (own[0, 0] + own[1, 0]) / 2
        torch.testing.assert_close(control[0, 7:], expected.expand(2))


def test_the_seed_decides_who_gets_what() -> None:
    batch = batch_of(random_fields(5))
    found = [OBJECTIVES["permuted"](seed=seed)(batch).weights for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_sequences_that_start_alike_are_told_apart_by_what_is_stored() -> None:
    """Log-probs of the model are rounded otherwise in another batch shape; the draw must not follow them."""
    fields = random_fields(6)
    fields["log_probs"][:, 0] = -1.0
    fields["behavior_log_probs"][:, 0] = -1.0
    rounded = {**fields, "log_probs": fields["log_probs"] * (1.0 + 1e-9 * torch.randn(4, 16, dtype=torch.float64))}
    objective = OBJECTIVES["permuted"]()
    expected = objective(batch_of(fields)).weights
    torch.testing.assert_close(objective(batch_of(rounded)).weights, expected, rtol=1e-6, atol=1e-6)


def test_averaging_twice_is_averaging_once_and_keeps_the_mean() -> None:
    batch = batch_of(random_fields(7))
    own = OBJECTIVES["pear_token"](**WIDE)(batch).weights
    once = OBJECTIVES["position_mean"](weighting_kwargs=WIDE)
    twice = OBJECTIVES["position_mean"](weighting_of="position_mean", weighting_kwargs={"weighting_kwargs": WIDE})
    torch.testing.assert_close(twice(batch).weights, once(batch).weights)
    torch.testing.assert_close(once(batch).weights.sum(), own.sum())
    assert all(len(set(group)) == 1 for group in by_distance(once(batch).weights, batch))
    assert not torch.allclose(once(batch).weights, own)


@pytest.mark.parametrize("name", ["position_mean", "permuted"])
def test_equal_weights_stay(name: str) -> None:
    batch = batch_of(random_fields(8))
    assert torch.equal(OBJECTIVES[name](weighting_of="nll")(batch).sum, OBJECTIVES["nll"]()(batch).sum)


@pytest.mark.parametrize("name", ["position_mean", "permuted"])
def test_the_wrapped_objective_keeps_its_base_loss_and_needs(name: str) -> None:
    wrapped = OBJECTIVES["plain_p"]()
    objective = OBJECTIVES[name](weighting_of="plain_p")
    assert objective.base() == wrapped.base()
    assert objective.requires == wrapped.requires
    assert objective.weighting().whole_step
    graded = OBJECTIVES[name](weighting_kwargs={"graded": True, "policy": "reference"})
    assert graded.requires == {"behavior_log_probs", "ref_log_probs", "reward"}
    assert OBJECTIVES[name](weighting_of="eaft").weighting().entropy_of_top == 20


@pytest.mark.parametrize("name", ["position_mean", "permuted"])
def test_the_log_shows_the_weights_in_use(name: str) -> None:
    fields = random_fields(9)
    objective = OBJECTIVES[name](weighting_of="pear_sequence", weighting_kwargs=TEMPERED)
    prepared, metrics = prepare_step(objective, [batch_of(part) for part in sequences_apart(fields)])
    assert metrics["weights/effective_sample_size_tempered"] == pytest.approx(0.9, abs=1e-6)
    whole = objective(batch_of(fields))
    first, *others = [objective.diagnostics(batch) for batch in prepared]
    logged = sum(others, first).metrics()
    assert logged["weights/mean"] == pytest.approx((whole.weights.sum() / whole.num_tokens).item())
    assert logged == pytest.approx(objective.diagnostics(batch_of(fields)).metrics())


def test_the_tail_is_plain_sft_where_it_is_long_enough() -> None:
    batch = batch_of(random_fields(10))
    assert torch.equal(OBJECTIVES["tail_nll"](tokens=7)(batch).sum, OBJECTIVES["nll"]()(batch).sum)
    last = OBJECTIVES["tail_nll"](tokens=1)(batch)
    assert last.weights.sum() == batch.counts.num_sequences
    gradient = gradient_of(last.sum, batch)
    assert int((gradient != 0).sum()) == batch.counts.num_sequences


@pytest.mark.parametrize("name", ["position_mean", "permuted", "tail_nll"])
def test_no_response_token_gives_zero(name: str) -> None:
    for shape in ((2, 3), (2, 0)):
        nothing = torch.zeros(shape, dtype=torch.bool)
        blank = torch.full(shape, math.nan)
        loss = OBJECTIVES[name]()(TokenBatch(blank, nothing, behavior_log_probs=blank))
        assert loss.sum == 0
        assert loss.num_tokens == 0


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("tail_nll", {"tokens": 0}, "objective tail_nll: tokens must be an integer of at least 1. Got 0"),
        ("position_mean", {"weighting_of": "pear_tokn"}, "Unknown objective 'pear_tokn'. Did you mean 'pear_token'"),
        ("permuted", {"weighting_kwargs": {"gama": 1}}, "Unknown key 'gama'. Did you mean 'gamma'"),
        ("permuted", {"weighting_kwargs": [1]}, "weighting_kwargs must be a mapping"),
        ("permuted", {"weighting_of": "negatives"}, "objective permuted: weights of verified failures mix with no"),
        ("position_mean", {"weighting_of": "negatives"}, "weights of verified failures mix with no others"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_objective(name, kwargs)
