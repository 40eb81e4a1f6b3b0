"""Verified failures against their naive twin, the formula's counts over a step, and a long run that stays finite."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from pear.errors import UserError
from pear.objectives import OBJECTIVES, TokenBatch, make_objective, prepare_step
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
SETTINGS: list[dict[str, Any]] = [
    {},
    {"negative_weight": 0.7, "log_ratio_clip": (-1.0, 0.5), "log_weight_clip": (-0.5, 0.4)},
    {"release": 2.0},
    {"positive": "pear_sequence", "positive_kwargs": TEMPERED},
    {"positive": "talr"},
    {"positive": "top_log_p", "positive_kwargs": {"denominator": "kept"}},
    {"positive": "nll", "negative_weight": 1.0},
    {"positive": "plain_p"},
    {"positive": "position_mean", "positive_kwargs": {"weighting_kwargs": WIDE}},
    {"positive": "pear_token", "positive_kwargs": {"graded": True, "policy": "reference"}},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_value_and_gradient_equal_the_naive_twin(settings: dict[str, Any]) -> None:
    assert_equals_twin("negatives", settings, random_fields(0), negatives=True)


@pytest.mark.parametrize("settings", SETTINGS)
def test_layout_order_and_processes_change_nothing(settings: dict[str, Any]) -> None:
    assert_same_in_any_layout(OBJECTIVES["negatives"](**settings), random_fields(1), negatives=True)


@pytest.mark.parametrize("settings", SETTINGS)
def test_masked_garbage_changes_nothing(settings: dict[str, Any]) -> None:
    assert_ignores_what_is_masked(OBJECTIVES["negatives"](**settings), negatives=True)


@pytest.mark.parametrize("settings", SETTINGS)
def test_bf16(settings: dict[str, Any]) -> None:
    assert_keeps_dtypes(OBJECTIVES["negatives"](**settings), negatives=True)


def only(batch: TokenBatch, *, negative: bool) -> TokenBatch:
    """The batch with only the failures, or only the others, as response tokens, unmarked."""
    assert batch.is_negative is not None
    kept = batch.is_negative if negative else ~batch.is_negative
    return dataclasses.replace(batch, response_mask=batch.response_mask & kept, is_negative=None)


@pytest.mark.parametrize("positive", ["pear_token", "talr", "nll"])
def test_it_is_the_difference_of_two_means(positive: str) -> None:
    """L = sum+ w l / N+ - lambda sum- G^- l / N-, after the division by N."""
    batch = batch_of(random_fields(2), negatives=True)
    loss = OBJECTIVES["negatives"](positive=positive, negative_weight=0.3)(batch)
    positives, failures = only(batch, negative=False), only(batch, negative=True)
    kept, pushed = OBJECTIVES[positive]()(positives), OBJECTIVES["pear_sequence"]()(failures)
    assert 0 < int(pushed.num_tokens) != int(kept.num_tokens)
    expected = kept.sum / kept.num_tokens - 0.3 * pushed.sum / pushed.num_tokens
    torch.testing.assert_close(loss.sum / loss.num_tokens, expected)
    assert (loss.weights[failures.response_mask] < 0).all()


def test_a_step_of_one_kind_has_the_others_term_left_out() -> None:
    fields = random_fields(3)
    objective = OBJECTIVES["negatives"](negative_weight=0.3)
    none = batch_of({**fields, "is_negative": torch.zeros(4, 16, dtype=torch.bool)}, negatives=True)
    assert torch.equal(objective(none).sum, OBJECTIVES["pear_token"]()(none).sum)
    all_of_them = batch_of({**fields, "is_negative": torch.ones(4, 16, dtype=torch.bool)}, negatives=True)
    failures = only(all_of_them, negative=True)
    torch.testing.assert_close(objective(all_of_them).sum, -0.3 * OBJECTIVES["pear_sequence"]()(failures).sum)
    nothing = batch_of({**fields, "response_mask": torch.zeros(4, 16, dtype=torch.bool)}, negatives=True)
    assert objective(nothing).sum == 0
    for batch in (none, all_of_them, nothing):
        assert all(math.isfinite(value) for value in objective.diagnostics(batch).metrics().values())


def test_a_micro_batch_of_one_kind_is_weighed_by_the_counts_of_the_step() -> None:
    """The failures come in micro-batches of their own."""
    fields = random_fields(4)
    objective = OBJECTIVES["negatives"](negative_weight=0.3)
    whole = batch_of(fields, negatives=True)
    prepared, _ = prepare_step(objective, [batch_of(part, negatives=True) for part in sequences_apart(fields)])
    assert not objective.weighting().whole_step
    assert all(part.step_weights is None for part in prepared)
    assert prepared[0].counts.num_negative_tokens == int((fields["is_negative"] & fields["response_mask"]).sum())
    torch.testing.assert_close(sum(objective(part).sum for part in prepared), objective(whole).sum)


def test_a_token_that_is_unlikely_enough_gets_no_gradient() -> None:
    log_probs = torch.tensor([[-9.0, -11.0, -math.inf, -1.0], [-11.0, -1.0, -1.0, -1.0]], requires_grad=True)
    batch = TokenBatch(
        log_probs,
        torch.ones(2, 4, dtype=torch.bool),
        behavior_log_probs=torch.full((2, 4), -1.0),
        is_negative=torch.tensor([[True] * 4, [False] * 4]),
    )
    gradient = gradient_of(OBJECTIVES["negatives"]()(batch).sum, batch)
    assert (gradient[0] > 0).tolist() == [True, False, False, True]
    assert (gradient[0] == 0).tolist() == [False, True, True, False]
    assert (gradient[1] < 0).all()
    metrics = OBJECTIVES["negatives"]().weighting().step_metrics(batch)
    assert metrics["weights/negatives/released"] == 0.5
    assert metrics["weights/negatives/mean"] == pytest.approx(math.exp(-0.08 * 3))
    off = gradient_of(OBJECTIVES["negatives"](release=math.inf)(batch).sum, batch)
    assert (off[0] > 0).tolist() == [True, True, False, True]


def test_positives_do_not_feel_the_negatives() -> None:
    """Neither in a median over the step nor in an effective sample size."""
    fields = random_fields(5)
    other = torch.where(fields["is_negative"], fields["log_probs"] - 3.0, fields["log_probs"])
    kept = fields["response_mask"] & ~fields["is_negative"]
    for settings in SETTINGS:
        objective = OBJECTIVES["negatives"](**settings)
        first = objective(batch_of(fields, negatives=True)).weights
        second = objective(batch_of({**fields, "log_probs": other}, negatives=True)).weights
        assert torch.equal(first[kept], second[kept])


def test_the_log_shows_the_positives() -> None:
    fields = random_fields(6)
    batch = batch_of(fields, negatives=True)
    for settings in ({"positive": "pear_token"}, {"positive": "pear_sequence", "positive_kwargs": TEMPERED}):
        objective = OBJECTIVES["negatives"](**settings)
        positive = OBJECTIVES[settings["positive"]](**settings.get("positive_kwargs", {}))
        expected = positive.diagnostics(only(batch, negative=False)).metrics()
        assert objective.diagnostics(batch).metrics() == expected
        halves = [{key: values[rows] for key, values in fields.items()} for rows in (slice(2), slice(2, 4))]
        prepared, metrics = prepare_step(objective, [batch_of(half, negatives=True) for half in halves])
        first, second = [objective.diagnostics(part) for part in prepared]
        assert (first + second).metrics() == pytest.approx(expected)
        assert ("weights/negatives/mean" in metrics) == objective.weighting().whole_step


def train(optimizer: type[torch.optim.Optimizer], lr: float, release: float, steps: int) -> list[float]:
    """Trains logits on a right and a wrong sequence; returns the largest -log p of a wrong token after each step.

    The sequences part at their first token, whose distribution they share.
    """
    torch.manual_seed(7)
    logits = torch.zeros(2, 4, 5, requires_grad=True)
    tokens = torch.tensor([[0, 1, 2, 3], [4, 4, 1, 0]])
    objective = OBJECTIVES["negatives"](negative_weight=0.5, release=release)
    descent = optimizer([logits], lr=lr)
    batch = {
        "response_mask": torch.ones(2, 4, dtype=torch.bool),
        "behavior_log_probs": torch.full((2, 4), -1.5),
        "is_negative": torch.tensor([[False] * 4, [True] * 4]),
    }
    reached = []
    for _ in range(steps):
        shared = torch.cat([logits[:1, :1].expand(2, 1, 5), logits[:, 1:]], dim=1)
        log_probs = shared.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
        loss = objective(TokenBatch(log_probs, **batch))
        descent.zero_grad()
        (loss.sum / loss.num_tokens).backward()
        descent.step()
        reached.append(-log_probs[1].min().item())
        assert math.isfinite(loss.sum.item())
    assert logits.isfinite().all()
    return reached


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.SGD, 10.0), (torch.optim.Adam, 0.3)])
def test_a_long_run_stays_finite(optimizer: type[torch.optim.Optimizer], lr: float) -> None:
    """Ascent stops at the release; without it a fifth of the run goes several times as far and finds no end."""
    stopped = train(optimizer, lr, 10.0, 1000)
    # Past the release the positives alone still push the wrong first token away, ever more slowly.
    assert 10.0 < stopped[-1] < 20.0
    assert stopped[-1] - stopped[499] < 1.0
    endless = train(optimizer, lr, math.inf, 200)
    assert endless[-1] > 2 * stopped[-1]
    assert endless[-1] - endless[99] > 10.0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"negative_weight": -0.1}, "negative_weight must be a number of at least 0. Got -0.1"),
        ({"negative_weight": "inf"}, "negative_weight must be a number of at least 0. Got inf"),
        ({"release": 0}, "release must be above 0. Got 0.0"),
        ({"log_ratio_clip": [1, 0]}, r"log_ratio_clip must be \(low, high\) with low <= high"),
        ({"positive": "pear_tokn"}, "Unknown objective 'pear_tokn'. Did you mean 'pear_token'"),
        ({"positive": "negatives"}, "positive must be an objective without a term for verified failures"),
        ({"positive": "sft_kl"}, "the base loss of 'sft_kl' holds a divergence"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_objective("negatives", kwargs)


def test_it_needs_the_marks() -> None:
    objective = OBJECTIVES["negatives"]()
    assert objective.requires == {"behavior_log_probs", "is_negative"}
    with pytest.raises(ValueError, match="Negatives requires is_negative in the TokenBatch"):
        objective(batch_of(random_fields(8)))
