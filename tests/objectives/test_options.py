"""Options of PEAR's objectives: whose log-probs, graded rewards, and tempering over a whole optimizer step."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pear.errors import UserError
from pear.objectives import OBJECTIVES, Objective, TokenBatch, make_objective, prepare_step
from pear.objectives.policies import check_policy
from pear.objectives.step import laid_end_to_end
from pear.ops.diagnostics import effective_sample_size
from tests import naive_objectives, naive_options

LEVELS = ["pear_token", "pear_block", "pear_sequence"]
IDS = [[4, 4, 4, 4, 4, 4, 9, 9, 9, 9, 9, 9, 9, 2, 2, 2]] * 4
ENDS = [0, 6, 13, 16]
WIDE = {"log_ratio_clip": (-2.0, 2.0)}
SHORT = {"pear_block": {"block_size": 2}}
"""Blocks that are shorter than the sequences here."""
FLOATS = ("log_probs", "behavior_log_probs", "ref_log_probs", "reward")


def random_fields(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Four rows of three packed sequences; sequences 1, 4, 7, 10 are failures."""
    torch.manual_seed(seed)
    log_probs = -torch.rand(4, 16, dtype=torch.float64).exp()
    ids = torch.tensor(IDS)
    sequence = 3 * torch.arange(4)[:, None] + (ids == 9).long() + 2 * (ids == 2).long()
    return {
        "log_probs": log_probs.to(dtype),
        "behavior_log_probs": (log_probs + 0.5 * torch.randn(4, 16, dtype=torch.float64)).to(dtype),
        "ref_log_probs": (log_probs + 0.3 * torch.randn(4, 16, dtype=torch.float64)).to(dtype),
        "reward": torch.rand(12, dtype=torch.float64)[sequence].to(dtype),
        "is_negative": sequence % 3 == 1,
        "response_mask": torch.rand(4, 16) < 0.8,
        "segment_ids": ids,
    }


def batch_of(fields: dict[str, Tensor], *, negatives: bool = False) -> TokenBatch:
    """A batch with a fresh leaf for the log-probs; failures are marked only where asked for."""
    rest = {name: values for name, values in fields.items() if name not in ("log_probs", "response_mask")}
    if not negatives:
        del rest["is_negative"]
    return TokenBatch(fields["log_probs"].clone().requires_grad_(), fields["response_mask"], **rest)


def gradient_of(loss: Tensor, batch: TokenBatch) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, batch.log_probs)
    return gradient


def assert_equals_twin(
    name: str, settings: dict[str, Any], fields: dict[str, Tensor], *, tolerance: float = 1e-10, negatives: bool = False
) -> None:
    """Weights, value and gradient against the naive loops."""
    batch = batch_of(fields, negatives=negatives)
    loss = OBJECTIVES[name](**settings)(batch)
    lists = {
        key: values.double().tolist() for key, values in fields.items() if key not in ("response_mask", "segment_ids")
    }
    if not negatives:
        del lists["is_negative"]
    mask = fields["response_mask"].tolist()
    twin = naive_options.twin_of(name, settings)
    weights = twin.weighting(lists, mask, fields["segment_ids"].tolist())
    value, gradient = naive_objectives.value_and_gradient(twin.base, weights, lists, mask)
    close: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
    torch.testing.assert_close(loss.weights, torch.tensor(weights, dtype=torch.float64), **close)
    torch.testing.assert_close(loss.sum, torch.tensor(value, dtype=torch.float64), **close)
    expected = torch.tensor(gradient["log_probs"], dtype=torch.float64)
    torch.testing.assert_close(gradient_of(loss.sum, batch), expected, **close)


def sequences_apart(fields: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Each sequence as a row of its own, in order."""
    return [
        {name: values[row : row + 1, low:high] for name, values in fields.items()}
        for row in range(4)
        for low, high in itertools.pairwise(ENDS)
    ]


def padded(parts: Sequence[dict[str, Tensor]], width: int) -> dict[str, Tensor]:
    """The sequences as rows, filled up on the left with what no one may look at."""
    rows: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, values in part.items():
            if name == "segment_ids":
                continue
            filler: Any = False if values.dtype == torch.bool else math.nan
            blank = torch.full((1, width - values.shape[1]), filler, dtype=values.dtype)
            rows.setdefault(name, []).append(torch.cat([blank, values], dim=1))
    fields = {name: torch.cat(values) for name, values in rows.items()}
    return {**fields, "segment_ids": torch.zeros(len(parts), width, dtype=torch.long)}


def gathering(parts: Sequence[Sequence[TokenBatch]], rank: int) -> Callable[[TokenBatch], tuple[list[TokenBatch], int]]:
    """What the processes would send one another, `parts` being the micro-batches of each."""
    rows = [laid_end_to_end(batches) for batches in parts]

    def gather(local: TokenBatch) -> tuple[list[TokenBatch], int]:
        torch.testing.assert_close(local.log_probs, rows[rank].log_probs)
        return rows, rank

    return gather


def assert_same_in_any_layout(objective: Objective, fields: dict[str, Tensor], *, negatives: bool = False) -> None:
    """One packed batch, and the same sequences reordered, padded, in micro-batches of two processes."""
    packed = batch_of(fields, negatives=negatives)
    whole = objective(packed)
    gradient = gradient_of(whole.sum, packed)
    apart = sequences_apart(fields)
    order = torch.randperm(len(apart), generator=torch.Generator().manual_seed(1)).tolist()
    cuts = [order[:2], order[2:5], order[5:6], order[6:]]
    micro = [batch_of(padded([apart[i] for i in cut], 9), negatives=negatives) for cut in cuts]
    processes = [micro[:3], micro[3:]]
    total = torch.zeros((), dtype=torch.float64)
    for rank, batches in enumerate(processes):
        prepared, _ = prepare_step(objective, batches, gather=gathering(processes, rank))
        for part in prepared:
            total = total + objective(part).sum
    torch.testing.assert_close(total, whole.sum, rtol=1e-9, atol=1e-9)
    close: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
    for cut, batch in zip(cuts, micro, strict=True):
        found = torch.autograd.grad(total, batch.log_probs, retain_graph=True)[0]
        for row, index in enumerate(cut):
            low, high = ENDS[index % 3], ENDS[index % 3 + 1]
            torch.testing.assert_close(found[row, 9 - (high - low) :], gradient[index // 3, low:high], **close)
            assert (found[row, : 9 - (high - low)] == 0).all()


def assert_ignores_what_is_masked(objective: Objective, *, negatives: bool = False) -> None:
    """Loss, gradient and logged numbers."""
    fields = random_fields(21)
    clean = batch_of(fields, negatives=negatives)
    loss = objective(clean)
    gradient = gradient_of(loss.sum, clean)
    for garbage in (math.nan, math.inf, -math.inf):
        mask = fields["response_mask"]
        dirty = {name: torch.where(mask, fields[name], garbage) for name in FLOATS}
        batch = batch_of({**fields, **dirty, "is_negative": fields["is_negative"] | ~mask}, negatives=negatives)
        found = objective(batch)
        torch.testing.assert_close(found.sum, loss.sum, rtol=0.0, atol=0.0)
        torch.testing.assert_close(gradient_of(found.sum, batch), gradient, rtol=0.0, atol=0.0)
        assert (gradient[~mask] == 0).all()
        assert objective.diagnostics(batch).metrics() == objective.diagnostics(clean).metrics()


def assert_keeps_dtypes(objective: Objective, *, negatives: bool = False) -> None:
    """bf16 in, bf16 out, with weights as from the same numbers in float64."""
    fields = random_fields(22, torch.bfloat16)
    batch = batch_of(fields, negatives=negatives)
    loss = objective(batch)
    assert loss.per_token.dtype == loss.sum.dtype == gradient_of(loss.sum, batch).dtype == torch.bfloat16
    assert loss.weights.dtype == torch.float32
    exact = {name: values.double() if name in FLOATS else values for name, values in fields.items()}
    wide = objective(batch_of(exact, negatives=negatives))
    torch.testing.assert_close(loss.weights.double(), wide.weights, rtol=1e-6, atol=1e-6)


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *[
        (name, {**SHORT.get(name, {}), **options})
        for name in LEVELS
        for options in (
            {"policy": "reference"},
            {"graded": True},
            {"ess_target": 0.7, **WIDE},
            {"ess_target": 0.5, **WIDE, "log_weight_clip": (-0.3, 0.2), "graded": True, "policy": "reference"},
        )
    ],
    ("pear_token", {"gamma": 0.5, "ess_target": 0.9}),
    ("single_step_is", {"policy": "reference", **WIDE}),
]
TEMPERED = [(name, {"ess_target": 0.7, **WIDE, **SHORT.get(name, {})}) for name in LEVELS]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_value_and_gradient_equal_the_naive_twin(
    name: str, settings: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    fields = random_fields(0, dtype)
    assert_equals_twin(name, settings, fields, tolerance=tolerance)
    alone = {**fields, "segment_ids": torch.zeros(4, 16, dtype=torch.long)}
    assert_equals_twin(name, settings, alone, tolerance=tolerance)


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_layout_order_and_processes_change_nothing(name: str, settings: dict[str, Any]) -> None:
    assert_same_in_any_layout(OBJECTIVES[name](**settings), random_fields(1))


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_masked_garbage_changes_nothing(name: str, settings: dict[str, Any]) -> None:
    assert_ignores_what_is_masked(OBJECTIVES[name](**settings))


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_bf16(name: str, settings: dict[str, Any]) -> None:
    assert_keeps_dtypes(OBJECTIVES[name](**settings))


@pytest.mark.parametrize("name", [*LEVELS, "single_step_is"])
def test_a_reference_that_is_the_model_is_the_current_policy(name: str) -> None:
    fields = random_fields(2)
    frozen = OBJECTIVES[name](policy="reference")
    assert frozen.requires == {"behavior_log_probs", "ref_log_probs"}
    assert OBJECTIVES[name]().requires == {"behavior_log_probs"}
    same = batch_of({**fields, "ref_log_probs": fields["log_probs"]})
    assert torch.equal(frozen(same).weights, OBJECTIVES[name]()(same).weights)
    moved = batch_of({**fields, "log_probs": fields["log_probs"] - 1.0})
    assert torch.equal(frozen(moved).weights, frozen(batch_of(fields)).weights)
    metrics = frozen.diagnostics(moved).metrics()
    assert metrics["weights/log_ratio/mean"] == pytest.approx(
        (fields["ref_log_probs"] - fields["behavior_log_probs"])[fields["response_mask"]].mean().item()
    )


@pytest.mark.parametrize("name", LEVELS)
def test_a_reward_of_one_is_ungraded_and_of_zero_drops_the_trajectory(name: str) -> None:
    fields = random_fields(3)
    graded, plain = OBJECTIVES[name](graded=True), OBJECTIVES[name]()
    assert graded.requires == {"behavior_log_probs", "reward"}
    ones = batch_of({**fields, "reward": torch.ones(4, 16, dtype=torch.float64)})
    assert torch.equal(graded(ones).sum, plain(ones).sum)
    half = batch_of({**fields, "reward": (fields["segment_ids"] == 9).double()})
    kept = fields["response_mask"] & (fields["segment_ids"] == 9)
    assert torch.equal(graded(half).weights, torch.where(kept, plain(half).weights, 0.0))


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (-0.5, r"reward must be at least 0 at response tokens\. Row 2 has -0.5 at position 3 \(rows affected: 1\)"),
        (math.nan, r"reward must be finite at response tokens\. Row 2 has nan at position 3"),
        (math.inf, r"reward must be finite at response tokens\. Row 2 has inf at position 3"),
    ],
)
def test_a_reward_that_is_no_weight_names_its_row(reward: float, message: str) -> None:
    fields = random_fields(4)
    fields["response_mask"][2, 3] = True
    fields["reward"][2, 3] = reward
    with pytest.raises(ValueError, match=message):
        OBJECTIVES["pear_token"](graded=True)(batch_of(fields))


def test_a_reference_that_is_not_finite_names_its_row() -> None:
    fields = random_fields(5)
    fields["response_mask"][1, 2] = True
    fields["ref_log_probs"][1, 2] = math.nan
    with pytest.raises(ValueError, match=r"ref_log_probs must be finite at response tokens\. Row 1 has nan"):
        OBJECTIVES["pear_token"](policy="reference")(batch_of(fields))
    fields["ref_log_probs"][1, 2] = -math.inf
    assert OBJECTIVES["pear_token"](policy="reference")(batch_of(fields)).sum.isfinite()


@pytest.mark.parametrize(("name", "settings"), TEMPERED)
def test_tempering_meets_its_target_over_the_step(name: str, settings: dict[str, Any]) -> None:
    fields = random_fields(6)
    batch = batch_of(fields)
    objective = OBJECTIVES[name](**settings, log_weight_clip=(-math.inf, math.inf))
    assert objective.weighting().whole_step
    untempered = OBJECTIVES[name](**{**settings, "ess_target": None}, log_weight_clip=(-math.inf, math.inf))
    before = effective_sample_size(untempered(batch).weights, batch.response_mask).item()
    assert before < 0.7
    assert effective_sample_size(objective(batch).weights, batch.response_mask).item() == pytest.approx(0.7, abs=1e-6)
    apart = [batch_of(part) for part in sequences_apart(fields)]
    prepared, metrics = prepare_step(objective, apart)
    logged = sum_of(objective, prepared)
    assert set(metrics) == {
        "weights/exponent",
        "weights/effective_sample_size_before",
        "weights/effective_sample_size_tempered",
    }
    exponent = metrics["weights/exponent"]
    torch.testing.assert_close(objective(batch).weights, untempered(batch).weights ** exponent * batch.response_mask)
    assert metrics["weights/effective_sample_size_before"] == pytest.approx(before)
    assert metrics["weights/effective_sample_size_tempered"] == pytest.approx(0.7, abs=1e-6)
    assert logged["weights/effective_sample_size"] == pytest.approx(0.7, abs=1e-6)


def sum_of(objective: Objective, batches: Sequence[TokenBatch]) -> dict[str, float]:
    """The metrics of a step's micro-batches together."""
    first, *others = [objective.diagnostics(batch) for batch in batches]
    return sum(others, first).metrics()


@pytest.mark.parametrize("name", LEVELS)
def test_weights_that_have_the_target_are_not_touched(name: str) -> None:
    batch = batch_of(random_fields(7))
    plain = OBJECTIVES[name](**SHORT.get(name, {}))
    assert not plain.weighting().whole_step
    assert plain.weighting().step_metrics(batch) == {}
    assert effective_sample_size(plain(batch).weights, batch.response_mask) > 0.3
    tempered = OBJECTIVES[name](ess_target=0.3, **SHORT.get(name, {}))
    assert torch.equal(tempered(batch).weights, plain(batch).weights)
    assert tempered.weighting().step_metrics(batch)["weights/exponent"] == 1.0


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("graded", [False, True])
def test_the_log_shows_the_weights_and_clipping_that_were_used(name: str, graded: bool) -> None:
    """Micro-batch by micro-batch, where the exponent is known only through the step's weights."""
    fields = random_fields(8)
    fields["reward"][1] = 0.0
    settings = {"ess_target": 0.6, **WIDE, **SHORT.get(name, {})}
    objective = OBJECTIVES[name](**settings, log_weight_clip=(-0.2, 0.1), graded=graded)
    whole = objective.diagnostics(batch_of(fields)).metrics()
    assert 0.0 < whole["weights/clipped/log_weight_low"] < 1.0
    assert 0.0 < whole["weights/clipped/log_weight_high"] < 1.0
    halves = [{key: values[rows] for key, values in fields.items()} for rows in (slice(2), slice(2, 4))]
    prepared, _ = prepare_step(objective, [batch_of(half) for half in halves])
    parts = sum_of(objective, prepared)
    assert parts == pytest.approx(whole, abs=1e-12)
    suffix = torch.tensor(
        naive_options.importance(
            {key: fields[key].tolist() for key in FLOATS},
            fields["response_mask"].tolist(),
            IDS,
            level=name.removeprefix("pear_"),
            log_weight_clip=(-math.inf, math.inf),
            **settings,
        ),
        dtype=torch.float64,
    ).log()
    kept = suffix[fields["response_mask"]]
    assert parts["weights/clipped/log_weight_low"] == pytest.approx((kept < -0.2).double().mean().item())
    assert parts["weights/clipped/log_weight_high"] == pytest.approx((kept > 0.1).double().mean().item())


def test_step_weights_are_what_is_logged() -> None:
    batch = dataclasses.replace(batch_of(random_fields(9)), step_weights=torch.full((4, 16), 2.5))
    for name in (*LEVELS, "single_step_is"):
        metrics = OBJECTIVES[name]().diagnostics(batch).metrics()
        own = OBJECTIVES[name]().diagnostics(dataclasses.replace(batch, step_weights=None)).metrics()
        assert metrics["weights/mean"] == 2.5
        for key in (key for key in own if "clipped" in key or "log_ratio" in key):
            assert metrics[key] == own[key]


def test_a_base_at_chance_shows_in_the_mean_weight() -> None:
    """All trajectories are equally unlikely: tempering has nothing to even out, and does not raise the weights."""
    torch.manual_seed(10)
    behavior = -0.1 - 0.01 * torch.rand(5, 12, dtype=torch.float64)
    log_probs = (behavior - 0.8).requires_grad_()
    batch = TokenBatch(log_probs, torch.ones(5, 12, dtype=torch.bool), behavior_log_probs=behavior)
    objective = OBJECTIVES["pear_sequence"](ess_target=0.7, **WIDE)
    assert objective.weighting().step_metrics(batch)["weights/exponent"] == 1.0
    assert objective.diagnostics(batch).metrics()["weights/mean"] == pytest.approx(math.exp(-0.8 * 12))


@pytest.mark.parametrize("name", LEVELS)
def test_extreme_ratios_stay_finite(name: str) -> None:
    log_probs = torch.tensor([[-math.inf, -100.0, 0.0, -1.0], [-1.0, -0.5, -100.0, 0.0]], dtype=torch.float64)
    batch = TokenBatch(
        log_probs.requires_grad_(),
        torch.ones(2, 4, dtype=torch.bool),
        behavior_log_probs=torch.tensor([[-1.0, 0.0, -100.0, -1.0], [-101.0, -0.5, 0.0, 0.0]], dtype=torch.float64),
    )
    infinite = (-math.inf, math.inf)
    objective = OBJECTIVES[name](
        **SHORT.get(name, {}), ess_target=0.75, log_ratio_clip=infinite, log_weight_clip=infinite
    )
    loss = objective(batch)
    assert loss.weights.isfinite().all()
    assert gradient_of(loss.sum, batch).isfinite().all()
    assert effective_sample_size(loss.weights, batch.response_mask).item() == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize(("name", "settings"), TEMPERED)
def test_a_step_without_response_tokens_is_zero(name: str, settings: dict[str, Any]) -> None:
    fields = random_fields(11)
    batch = batch_of({**fields, "response_mask": torch.zeros(4, 16, dtype=torch.bool)})
    objective = OBJECTIVES[name](**settings)
    assert objective.weighting().step_metrics(batch) == {}
    assert objective(batch).sum == 0
    assert objective.diagnostics(batch).metrics() == {}


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("pear_token", {"policy": "old"}, "policy must be one of current, reference, got 'old'"),
        ("single_step_is", {"policy": "frozen"}, "policy must be one of current, reference, got 'frozen'"),
        ("pear_block", {"graded": 1}, "graded must be true or false, got 1"),
        ("pear_token", {"ess_target": 0}, "ess_target must be above 0 and at most 1. Got 0.0"),
        ("pear_sequence", {"ess_target": 1.5}, "ess_target must be above 0 and at most 1. Got 1.5"),
        ("pear_token", {"ess_target": "most"}, "ess_target must be a number, got 'most'"),
        (
            "pear_token",
            {"ess_target": 0.5, "log_weight_clip": [0.1, 2]},
            r"With ess_target, log_weight_clip must hold 0, where tempering leads. Got \(0.1, 2.0\)",
        ),
    ],
)
def test_a_wrong_recipe_is_one_sentence(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_objective(name, kwargs)


def test_a_policy_that_is_neither_is_refused_in_code_too() -> None:
    with pytest.raises(ValueError, match=r"policy must be one of current, reference\. Got 'old'"):
        check_policy("old")
